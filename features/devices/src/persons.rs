//! Who did something here is kept as an id, in rows and in the log, where nothing can be taken out any more; lists show by
//! which address that is, as long as there is one.

use base::OrganisationId;
use base::access::{Principal, Subject};

use crate::House;
use crate::store::Alert;

/// Begins with what no title and no label may have, so that none can be taken for an account.
const ACCOUNT: &str = "\u{1}account:";

/// How rows and records name somebody: an account by its id, a key by its label.
pub(crate) fn author_of(principal: &Principal) -> String {
    match principal.subject {
        Subject::Account(id) => format!("{ACCOUNT}{id}"),
        Subject::Key(_) | Subject::System(_) => principal.name.to_string(),
    }
}

impl House {
    /// What people read in place of what [`author_of`] wrote.
    pub(crate) fn name_of(&self, organisation: OrganisationId, author: String) -> String {
        let Some(id) = author.strip_prefix(ACCOUNT) else { return author };
        let account = id.parse().ok();
        let address = account.and_then(|id| self.needs.authority.address_of(organisation, id));
        address.map_or_else(|| format!("account:{id}"), |address| address.to_string())
    }

    pub(crate) fn named(&self, organisation: OrganisationId, mut alert: Alert) -> Alert {
        let handling = &mut alert.handling;
        for (_, who) in [&mut handling.acknowledged, &mut handling.cleared].into_iter().flatten() {
            *who = self.name_of(organisation, std::mem::take(who));
        }
        alert
    }
}

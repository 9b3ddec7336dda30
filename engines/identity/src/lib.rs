//! Identity: accounts, browsers' sessions, generated keys, what each may do, and the record of it. It
//! implements [`base::access::Authority`], which every door asks.
//!
//! It speaks no protocol: doors bring credentials and get a [`base::access::Principal`]. It writes mails with links
//! and leaves sending them to a [`Mailer`]. Start at [`Identity::open`].

mod accounts;
mod attempts;
mod audit;
mod authority;
mod cbor;
mod config;
mod error;
mod factors;
mod grant;
mod groups;
mod invitations;
mod issuer;
mod jwt;
mod keys;
mod leaving;
mod ledger;
mod letters;
mod live;
mod origin;
mod passkeys;
mod password;
mod people;
mod providers;
mod recovery;
mod sessions;
mod settling;
mod tables;
mod telling;
#[cfg(test)]
mod tests;
mod tickets;
mod token;
mod tokens;
mod totp;
mod users;
mod webauthn;

use std::path::Path;
use std::sync::Arc;

use base::{Base, Seal};
use parking_lot::RwLock;
use relational::Db;
use tokio::sync::watch;

use ledger::Ledger;

pub use accounts::{NewAccount, Profile, Role};
pub use audit::{By, Change, Entry, Filter, Outcome};
pub use config::{Config, SignUp};
pub use error::Error;
pub use factors::{NewTotp, RecoveryCodes};
pub use grant::Grant;
pub use groups::{Group, GroupChange, GroupId, GroupsFilter, Members, NewGroup};
pub use invitations::{Invitation, InvitationId, Invited};
pub use issuer::{
    Algorithm, Asked, Asking, Exchange, Given, Issued, Leaving, NewTool, Shown, Step, Tool,
    ToolCredentials, ToolId,
};
pub use keys::{Key, KeyCredentials, NewKey};
pub use leaving::Farewell;
pub use letters::{Letter, Mailer};
pub use passkeys::{NewPasskey, Passkey, PasskeyId, PasskeyRequest, PasskeyUser, ShownPasskey};
pub use people::{About, Edit, NewPerson, PeopleFilter, Person, PersonChange};
pub use providers::{Link, Provider, Return, Returned, Visit, Web, WebAnswer, WebRequest};
pub use recovery::Showing;
pub use sessions::{
    AccessToken, Challenge, Entered, Holds, NewSession, Session, SessionId, SignIn, Visitor,
};
pub use token::{key_id, key_text};
pub use users::{NewUser, UserChange};

/// What identity itself lets people do, for the operations that offer it.
pub mod actions {
    use base::access::Action;

    pub const KEYS_READ: Action = Action("keys.read");
    pub const KEYS_WRITE: Action = Action("keys.write");
    /// Seeing who is in the organisation, and in which groups.
    pub const ACCOUNTS_READ: Action = Action("accounts.read");
    /// Inviting, changing, suspending and removing people, and their groups; of whom one may do as much as they.
    pub const ACCOUNTS_WRITE: Action = Action("accounts.write");
    pub const AUDIT_READ: Action = Action("audit.read");
    /// Seeing which tools let people in by this server.
    pub const TOOLS_READ: Action = Action("tools.read");
    /// Making tools known, and forgetting them.
    pub const TOOLS_WRITE: Action = Action("tools.write");
}

/// What identity needs of others.
#[derive(Clone, Default)]
pub struct Needs {
    /// Without one, what needs a mail is refused, and addresses are not checked.
    pub mailer: Option<Arc<dyn Mailer>>,
    /// Without one, nobody comes in by a provider.
    pub web: Option<Arc<dyn Web>>,
    /// Without one, only identity forgets who is removed.
    pub farewell: Option<Arc<dyn Farewell>>,
}

/// Everybody who may come in. Cloning shares it.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    config: Config,
    base: Base,
    db: Db,
    live: RwLock<live::Live>,
    epoch: watch::Sender<u64>,
    /// Held while a change of people or groups is written and learned.
    settling: tokio::sync::Semaphore,
    hasher: password::Hasher,
    leaked: Option<Arc<password::Leaked>>,
    seal: Seal,
    signing: issuer::Signing,
    origin: origin::Origin,
    post: letters::Post,
    web: Option<Arc<dyn Web>>,
    farewell: Option<Arc<dyn Farewell>>,
    ledger: Ledger,
    /// Whether new accounts must show that their address is their own.
    checks_email: bool,
    attempts: attempts::Attempts,
    denials: audit::Denials,
}

/// What seals second factors in rows and what browsers keep of a log-in; its tags are on challenges.
fn sealed(path: &Path, base: &Base) -> Result<Seal, Error> {
    let what = "Opens second factors in the rows. Keep it with the backup of the rows, and not in it. See \
                docs/guides/identity.md.";
    let seal = Seal::open(path, what, base);
    seal.map_err(|error| Error::Config(format!("key_file {}: {error}", path.display())))
}

/// Who was removed, whatever rows say.
fn listed(path: &Path) -> Result<Ledger, Error> {
    let ledger = Ledger::open(path);
    ledger.map_err(|error| Error::Config(format!("removed_file {}: {error}", path.display())))
}

impl Identity {
    /// Makes the tables, and at the first start the default organisation with an administrator that has no
    /// password; then loads all keys and accounts, which are answered from memory.
    pub async fn open(config: Config, base: &Base, db: Db, needs: Needs) -> Result<Self, Error> {
        config.check()?;
        db.migrate("identity", tables::MIGRATIONS).await?;
        accounts::first_start(&db, &config, base).await?;
        let live = live::load(&db, &config).await?;
        let (post, errands) = letters::Post::new(&config, base, needs.mailer);
        let identity = Self(Arc::new(Inner {
            seal: sealed(&config.key_file, base)?,
            signing: issuer::Signing::default(),
            origin: origin::Origin::parse(&config.origin)?,
            web: needs.web,
            farewell: needs.farewell,
            ledger: listed(&config.removed_file)?,
            checks_email: config.email_check && post.can_send(),
            post,
            hasher: password::Hasher::new(&config, base)?,
            leaked: password::leaked(&config)?,
            attempts: attempts::Attempts::new(&config),
            denials: audit::Denials::new(&config, base),
            live: RwLock::new(live),
            epoch: watch::Sender::new(0),
            settling: tokio::sync::Semaphore::new(1),
            config,
            base: base.clone(),
            db,
        }));
        audit::keep(&identity);
        letters::deliver(&identity, errands);
        Ok(identity)
    }

    /// Where people reach this server: `https://example.org`.
    pub fn origin(&self) -> String {
        self.0.origin.text()
    }

    /// Tells doors to look again. Comes after the commit and after memory knows.
    fn changed(&self) {
        self.0.epoch.send_modify(|epoch| *epoch += 1);
    }
}

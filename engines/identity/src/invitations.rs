use std::fmt;

use base::access::{Door, Principal};
use base::{AccountId, Id, OrganisationId, Page, PageRequest, Timestamp};
use relational::params;

use crate::accounts::{Insert, NewPerson, insert, normal_email};
use crate::audit::{By, Change, note, subject_text};
use crate::letters::Errand;
use crate::sessions::{Entered, Holds, Visitor};
use crate::{Error, Identity, Role, SignUp, token};

/// Names an invitation; the token that accepts it is not part of it.
pub type InvitationId = Id<Invitations>;

/// Marks the ids of invitations; never a value.
#[derive(Debug)]
pub enum Invitations {}

/// An invitation that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    pub id: InvitationId,
    pub email: String,
    pub role: Role,
    pub invited_by: String,
    pub created: Timestamp,
    pub expires: Timestamp,
}

/// An invitation that was just made.
#[derive(Clone)]
pub struct Invited {
    pub invitation: Invitation,
    /// For whoever invited to hand over, where no mail can be sent; otherwise it went by mail alone.
    pub link: Option<String>,
}

impl fmt::Debug for Invited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invited").field("invitation", &self.invitation).finish_non_exhaustive()
    }
}

impl Identity {
    /// Invites an address into the principal's organisation. Says the same whether the address has an account
    /// somewhere. Whoever invites an administrator must be one.
    pub async fn invite(&self, by: By<'_>, email: &str, role: Role) -> Result<Invited, Error> {
        let inner = &self.0;
        if inner.config.sign_up == SignUp::Closed {
            return Err(Error::InvitationsClosed);
        }
        let email = normal_email(email)?;
        self.check_role(by.0, role)?;
        let now = inner.base.clock.now();
        let invitation = Invitation {
            id: InvitationId::new(now, &inner.base.entropy),
            email,
            role,
            invited_by: subject_text(by.0.subject),
            created: now,
            expires: now.plus(inner.config.invitation_time_max),
        };
        let secret = token::secret(&inner.base.entropy);
        let change = Change {
            detail: role.text().into(),
            ..Change::of(by, "invitation.create", format!("invitation/{}", invitation.id))
        };
        let organisation = by.0.organisation;
        let proves = inner.post.can_send();
        self.store_invitation((organisation, proves), &invitation, &secret, change).await?;
        if !proves {
            return Ok(Invited { invitation, link: Some(secret) });
        }
        let email = invitation.email.clone();
        inner.post.take(Errand::Invite { organisation, email, token: secret })?;
        Ok(Invited { invitation, link: None })
    }

    async fn store_invitation(
        &self,
        (organisation, proves): (OrganisationId, bool),
        invitation: &Invitation,
        secret: &str,
        change: Change,
    ) -> Result<(), Error> {
        let max = self.0.config.invitations_max;
        let hash = token::stored(secret).ok_or(Error::LinkInvalid)?;
        let (base, new) = (self.0.base.clone(), invitation.clone());
        let stored = self.0.db.write(async move |tx| {
            // An address has one invitation to an organisation: the newest.
            let sql =
                "DELETE FROM invitation WHERE organisation = ? AND (email = ? OR expires <= ?)";
            tx.execute(sql, params![organisation, new.email, new.created]).await?;
            let sql = "SELECT COUNT(*) AS there FROM invitation WHERE organisation = ?";
            let there: i64 = tx.query_one(sql, params![organisation]).await?.get("there")?;
            if there >= i64::from(max) {
                return Err(Error::Limit { what: "invitations", max: max as usize });
            }
            let sql = "INSERT INTO invitation (id, organisation, email, role, token_hash, proves,
                invited_by, created, expires) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
            let Invitation { id, email, role, invited_by, created, expires } = &new;
            let role = role.text();
            let whose =
                params![id, organisation, email, role, hash, proves, invited_by, created, expires];
            tx.execute(sql, whose).await?;
            note(tx, &base, &change).await
        });
        stored.await
    }

    /// The invitations of an organisation that wait, oldest first.
    pub async fn invitations(
        &self,
        organisation: OrganisationId,
        page: &PageRequest,
    ) -> Result<Page<Invitation>, Error> {
        let (after, limit) = (page.after.clone().unwrap_or_default(), page.limit);
        let now = self.0.base.clock.now();
        let found = self.0.db.read(async move |read| {
            let sql = "SELECT id, email, role, invited_by, created, expires FROM invitation
                WHERE organisation = ? AND id > ? AND expires > ? ORDER BY id LIMIT ?";
            let more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
            let rows = read.query(sql, params![organisation, after, now, more]).await?;
            rows.iter()
                .map(|row| {
                    Ok(Invitation {
                        id: row.get("id")?,
                        email: row.get("email")?,
                        role: Role::parse(&row.get::<String>("role")?)?,
                        invited_by: row.get("invited_by")?,
                        created: row.get("created")?,
                        expires: row.get("expires")?,
                    })
                })
                .collect::<Result<Vec<_>, Error>>()
        });
        Ok(Page::of(found.await?, limit, |invitation| invitation.id.to_string()))
    }

    /// Takes an invitation back.
    pub async fn withdraw(&self, by: By<'_>, id: InvitationId) -> Result<(), Error> {
        let organisation = by.0.organisation;
        let change = Change::of(by, "invitation.withdraw", format!("invitation/{id}"));
        let base = self.0.base.clone();
        let withdrawn = self.0.db.write(async move |tx| {
            let sql = "DELETE FROM invitation WHERE id = ? AND organisation = ?";
            if tx.execute(sql, params![id, organisation]).await? == 0 {
                return Err(Error::NotThere("invitation"));
            }
            note(tx, &base, &change).await
        });
        withdrawn.await
    }

    /// Makes the account of whoever was invited, and lets them in.
    pub async fn accept(
        &self,
        visitor: &Visitor,
        token: &str,
        password: &str,
    ) -> Result<Entered, Error> {
        let inner = &self.0;
        if inner.config.sign_up == SignUp::Closed {
            return Err(Error::InvitationsClosed);
        }
        self.room_for_an_account()?;
        let hash = token::stored(token).ok_or(Error::LinkInvalid)?;
        let now = inner.base.clock.now();
        let wanted = hash.clone();
        // Hashing is dear, so nobody gets it without an invitation.
        let found = inner.db.read(async move |read| {
            let sql = "SELECT organisation, email, role, proves FROM invitation
                WHERE token_hash = ? AND expires > ?";
            let row = read.query_optional(sql, params![wanted, now]).await?;
            let row = row.ok_or(Error::LinkInvalid)?;
            let role = Role::parse(&row.get::<String>("role")?)?;
            let (organisation, email): (OrganisationId, String) =
                (row.get("organisation")?, row.get("email")?);
            Ok::<_, Error>((organisation, email, role, row.get::<bool>("proves")?))
        });
        let (organisation, email, role, proves) = found.await?;
        self.check_new(password, &email).await?;
        let password = inner.hasher.hash(password).await?;
        let account = AccountId::new(now, &inner.base.entropy);
        let entry =
            self.entry((account, organisation), Holds::Cookie, visitor, "session.invitation");
        let (identity, wanted, address) = (self.clone(), entry.clone(), email.clone());
        let way = inner.db.write(async move |tx| {
            let sql = "DELETE FROM invitation WHERE token_hash = ?";
            if tx.execute(sql, params![hash]).await? == 0 {
                return Err(Error::LinkInvalid);
            }
            let verified = proves.then_some(now);
            let (email, hash) = (&*address, Some(&*password));
            let new = Insert { account, organisation, email, role, hash, verified };
            if insert(tx, &identity.0.base, new).await? == NewPerson::Taken {
                return Err(Error::LinkInvalid);
            }
            let change = Change {
                organisation,
                subject: format!("account:{account}"),
                door: Some(Door::Http),
                action: "invitation.accept",
                resource: format!("account/{account}"),
                detail: role.text().into(),
            };
            note(tx, &identity.0.base, &change).await?;
            identity.enter(tx, &wanted).await
        });
        let way = way.await?;
        self.remember((account, organisation), &email, role, proves);
        self.entered(entry, way)
    }

    pub(crate) fn check_role(&self, principal: &Principal, role: Role) -> Result<(), Error> {
        self.check_within(principal, self.0.config.grants_of(role))
    }
}

//! The mails that identity writes: who gets them, what stands in them, and their way out.
//!
//! Whoever asks for one is answered before anybody looks whether there is such an account, and that is done some time later, so neither the
//! answer, nor its time, nor that of what is asked right after it tells. The token of a link is never in rows: rows have its hash, and the mail is handed over at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{AccountId, Base, Failure, OrganisationId};
use prometheus_client::metrics::counter::Counter;
use relational::params;
use tokio::sync::{Semaphore, mpsc};

use crate::tickets::{self, Kind, NewTicket};
use crate::{Config, Error, Identity, token};

/// A mail that holds a secret: whoever sends it keeps no copy.
#[derive(Clone, PartialEq, Eq)]
pub struct Letter {
    pub organisation: OrganisationId,
    pub to: String,
    pub subject: String,
    pub body: String,
}

impl std::fmt::Debug for Letter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Letter").field("subject", &self.subject).finish_non_exhaustive()
    }
}

/// What identity needs to write to people.
pub trait Mailer: Send + Sync + 'static {
    /// Sends a mail now, perhaps with a few attempts; nothing of it is stored.
    fn send(
        &self,
        letter: Letter,
    ) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + '_>>;
}

/// A mail to be written.
#[derive(Clone)]
pub(crate) enum Errand {
    /// A link that signs in, if there is such an account.
    SignIn { email: String },
    /// A link that sets a password, if there is such an account.
    Reset { email: String },
    /// A link that shows whose an address is.
    Verify { account: AccountId },
    /// Somebody wanted an account with an address that has one.
    Taken { email: String },
    /// An invitation, whose token was made already.
    Invite { organisation: OrganisationId, email: String, token: String },
    /// Something changed about how an account is entered.
    Changed { account: AccountId, what: Changed },
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Changed {
    Password,
    Factors,
}

/// Takes errands to whoever writes them.
pub(crate) struct Post {
    mailer: Option<Arc<dyn Mailer>>,
    errands: mpsc::Sender<Waiting>,
    base: Base,
    pause: Duration,
    written: Counter,
    failed: Counter,
}

/// An errand, and from when on it is run.
pub(crate) struct Waiting {
    errand: Errand,
    begins: Instant,
}

impl Post {
    /// Beside it, what [`deliver`] takes.
    pub(crate) fn new(
        config: &Config,
        base: &Base,
        mailer: Option<Arc<dyn Mailer>>,
    ) -> (Self, mpsc::Receiver<Waiting>) {
        let (errands, waiting) = mpsc::channel(config.mails_waiting_max.max(1));
        let counter = |name, help| base.metrics.register(name, help, Counter::default());
        let post = Self {
            mailer,
            errands,
            base: base.clone(),
            pause: config.mails_pause,
            written: counter("identity_mails", "Mails with links that were sent."),
            failed: counter("identity_mails_failed", "Mails with links that could not be sent."),
        };
        (post, waiting)
    }

    pub(crate) fn can_send(&self) -> bool {
        self.mailer.is_some()
    }

    /// Says the same whoever the mail is for.
    pub(crate) fn take(&self, errand: Errand) -> Result<(), Error> {
        if !self.can_send() {
            return Err(Error::NoMail);
        }
        // What is done for somebody takes longer than what is done for nobody; when it is done is left to chance.
        let part = f64::midpoint(1.0, self.base.entropy.fraction());
        let begins = self.base.clock.instant() + self.pause.mul_f64(part);
        self.errands.try_send(Waiting { errand, begins }).map_err(|_| Error::MailsWaiting)
    }
}

/// Writes the mails that are asked for, a few at once: a mail server that stalls holds up one of them.
pub(crate) fn deliver(identity: &Identity, mut waiting: mpsc::Receiver<Waiting>) {
    let (tasks, places) = (identity.0.base.tasks.clone(), identity.0.config.mails_at_once.max(1));
    let (spawns, identity) = (tasks.clone(), identity.clone());
    let places = Arc::new(Semaphore::new(places));
    tasks.spawn("identity_mails", async move {
        let stopping = spawns.stopping();
        loop {
            let next = tokio::select! {
                next = waiting.recv() => next,
                // What was asked for before the end is still written, without the pause.
                () = stopping.cancelled() => waiting.try_recv().ok(),
            };
            let Some(Waiting { errand, begins }) = next else { return };
            let clock = &identity.0.base.clock;
            let pause = begins.saturating_duration_since(clock.instant());
            tokio::select! {
                () = clock.sleep(pause) => {}
                () = stopping.cancelled() => {}
            }
            let place = places.clone().acquire_owned().await;
            let identity = identity.clone();
            // One that panics is one mail that is not written.
            spawns.spawn("identity_mail", async move {
                let _place = place;
                identity.run(errand).await;
            });
        }
    });
}

impl Identity {
    async fn run(&self, errand: Errand) {
        let post = &self.0.post;
        let Some(mailer) = post.mailer.clone() else { return };
        let sent = match self.write_letter(errand).await {
            Ok(Some(letter)) => mailer.send(letter).await,
            Ok(None) => return,
            Err(error) => Err(error.into()),
        };
        match sent {
            Ok(()) => {
                post.written.inc();
            }
            Err(error) => {
                post.failed.inc();
                tracing::warn!(%error, "a mail with a link was not sent");
            }
        }
    }

    /// Nothing where nobody is to be told.
    async fn write_letter(&self, errand: Errand) -> Result<Option<Letter>, Error> {
        let origin = &self.0.origin;
        Ok(match errand {
            Errand::SignIn { email } => {
                let limit = self.0.config.mailed_link_time_max;
                let Some((account, organisation)) = self.account_of_email(&email).await? else {
                    self.store_nothing(Kind::SignIn, limit).await?;
                    return Ok(None);
                };
                let ticket = self.new_ticket(Kind::SignIn, (account, organisation), limit);
                self.store_ticket(&ticket).await?;
                let link = origin.page("link", &ticket.secret);
                Some(letter(organisation, email, Text::SignIn, &link, limit))
            }
            Errand::Reset { email } => {
                let limit = self.0.config.mailed_link_time_max;
                let Some((account, organisation)) = self.account_of_email(&email).await? else {
                    self.store_nothing(Kind::Reset, limit).await?;
                    return Ok(None);
                };
                let ticket = self.new_ticket(Kind::Reset, (account, organisation), limit);
                self.store_ticket(&ticket).await?;
                let link = origin.page("reset", &ticket.secret);
                Some(letter(organisation, email, Text::Reset, &link, limit))
            }
            Errand::Verify { account } => {
                let Some((organisation, email)) = self.address_of(account) else { return Ok(None) };
                let limit = self.0.config.link_time_max;
                let ticket = self.new_ticket(Kind::Verify, (account, organisation), limit);
                self.store_ticket(&ticket).await?;
                let link = origin.page("verify", &ticket.secret);
                Some(letter(organisation, email, Text::Verify, &link, limit))
            }
            Errand::Taken { email } => {
                let Some((_, organisation)) = self.account_of_email(&email).await? else {
                    return Ok(None);
                };
                let link = origin.text();
                Some(letter(organisation, email, Text::Taken, &link, Duration::ZERO))
            }
            Errand::Invite { organisation, email, token } => {
                let taken = self.account_of_email(&email).await?.is_some();
                let (text, link) = if taken {
                    (Text::InvitedElsewhere, origin.text())
                } else {
                    (Text::Invited, origin.page("invitation", &token))
                };
                let limit = self.0.config.invitation_time_max;
                Some(letter(organisation, email, text, &link, limit))
            }
            Errand::Changed { account, what } => {
                let Some((organisation, email)) = self.address_of(account) else { return Ok(None) };
                let text = match what {
                    Changed::Password => Text::PasswordChanged,
                    Changed::Factors => Text::FactorsChanged,
                };
                Some(letter(organisation, email, text, &origin.text(), Duration::ZERO))
            }
        })
    }

    /// Tells an account by mail what changed, where mail can be sent. Nobody waits for it.
    pub(crate) fn tell(&self, account: AccountId, what: Changed) {
        let told = self.0.post.take(Errand::Changed { account, what });
        if let Err(error) = told
            && self.0.post.can_send()
        {
            tracing::warn!(%error, "an account was not told of a change");
        }
    }

    async fn account_of_email(
        &self,
        email: &str,
    ) -> Result<Option<(AccountId, OrganisationId)>, Error> {
        let email = email.to_owned();
        let found = self.0.db.read(async move |read| {
            let sql = "SELECT id, organisation FROM account WHERE email = ?";
            let row = read.query_optional(sql, params![email]).await?;
            row.map(|row| Ok::<_, Error>((row.get("id")?, row.get("organisation")?))).transpose()
        });
        found.await
    }

    fn address_of(&self, account: AccountId) -> Option<(OrganisationId, String)> {
        let live = self.0.live.read();
        let account = live.accounts.get(&account)?;
        Some((account.organisation, account.email.to_string()))
    }

    fn new_ticket(
        &self,
        kind: Kind,
        (account, organisation): (AccountId, OrganisationId),
        limit: Duration,
    ) -> NewTicket {
        let base = &self.0.base;
        let created = base.clock.now();
        NewTicket {
            kind,
            secret: token::secret(&base.entropy),
            account,
            organisation,
            proves: true,
            created,
            expires: created.plus(limit),
        }
    }

    /// The same work in the rows for an address that has no account: a link of somebody, taken back in the same commit.
    async fn store_nothing(&self, kind: Kind, limit: Duration) -> Result<(), Error> {
        let anybody = {
            let live = self.0.live.read();
            live.accounts.iter().next().map(|(id, account)| (*id, account.organisation))
        };
        let Some(anybody) = anybody else { return Ok(()) };
        let ticket = self.new_ticket(kind, anybody, limit);
        let stored = self.0.db.write(async move |tx| {
            tickets::insert(tx, &ticket).await?;
            tickets::withdraw(tx, &ticket).await
        });
        stored.await
    }

    async fn store_ticket(&self, ticket: &NewTicket) -> Result<(), Error> {
        let ticket = ticket.clone();
        self.0.db.write(async move |tx| tickets::insert(tx, &ticket).await).await
    }
}

#[derive(Clone, Copy)]
enum Text {
    SignIn,
    Reset,
    Verify,
    Taken,
    Invited,
    InvitedElsewhere,
    PasswordChanged,
    FactorsChanged,
}

/// In both languages: whoever gets it may not have chosen one yet.
fn letter(
    organisation: OrganisationId,
    to: String,
    text: Text,
    link: &str,
    limit: Duration,
) -> Letter {
    let (subject, english, korean) = match text {
        Text::SignIn => (
            "Your link to sign in · 로그인 링크",
            "Open this link to sign in. Whoever has it can sign in as you, once.",
            "이 링크를 열면 로그인됩니다. 링크를 가진 사람은 누구나 한 번 로그인할 수 있습니다.",
        ),
        Text::Reset => (
            "Set a new password · 새 비밀번호 설정",
            "Open this link to set a new password. Your old password works until you do. If you did not ask for it, do nothing.",
            "이 링크를 열어 새 비밀번호를 정하세요. 그때까지 기존 비밀번호가 유효합니다. 요청하지 않았다면 무시하세요.",
        ),
        Text::Verify => (
            "Is this your address? · 이메일 주소 확인",
            "Open this link where you signed in to show that this address is yours. If you made no account, do nothing.",
            "로그인한 곳에서 이 링크를 열어 주소를 확인하세요. 계정을 만들지 않았다면 무시하세요.",
        ),
        Text::Taken => (
            "You have an account already · 이미 계정이 있습니다",
            "Somebody, perhaps you, wanted to make an account with this address, which has one. Sign in, or ask for a new password, here:",
            "누군가(어쩌면 당신이) 이 주소로 계정을 만들려고 했지만 이미 계정이 있습니다. 여기서 로그인하거나 새 비밀번호를 요청하세요:",
        ),
        Text::Invited => (
            "You are invited · 초대장",
            "You are invited to Madang. Open this link to make your account.",
            "마당에 초대되었습니다. 이 링크를 열어 계정을 만드세요.",
        ),
        Text::InvitedElsewhere => (
            "You are invited · 초대장",
            "You are invited to another organisation, but an address has one account in one organisation, and yours has one.",
            "다른 조직에 초대되었지만, 주소 하나는 한 조직의 계정 하나만 가질 수 있고 이미 계정이 있습니다.",
        ),
        Text::PasswordChanged => (
            "Your password was changed · 비밀번호가 변경되었습니다",
            "Your password was changed, and your other sessions have ended. If that was not you, ask for a new one here:",
            "비밀번호가 변경되어 다른 세션이 종료되었습니다. 본인이 아니라면 여기서 새 비밀번호를 요청하세요:",
        ),
        Text::FactorsChanged => (
            "How you sign in was changed · 로그인 수단이 변경되었습니다",
            "A second factor or a passkey of your account was added or removed. If that was not you, set a new password here:",
            "계정의 2단계 인증 수단이나 패스키가 추가되거나 제거되었습니다. 본인이 아니라면 여기서 새 비밀번호를 정하세요:",
        ),
    };
    let minutes = limit.as_secs() / 60;
    let until = match minutes {
        0 => String::new(),
        1..=120 => format!("\nIt works for {minutes} minutes. · {minutes}분 동안 유효합니다.\n"),
        _ => {
            let hours = minutes / 60;
            format!("\nIt works for {hours} hours. · {hours}시간 동안 유효합니다.\n")
        }
    };
    let body = format!("{english}\n{korean}\n\n{link}\n{until}");
    Letter { organisation, to, subject: subject.into(), body }
}

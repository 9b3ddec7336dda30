//! Somebody who goes, or who asks what is kept about them, over all rooms. Identity forgets them in one commit, and a command for
//! each room goes with it, carried out soon, in parts, and again after any crash.

use std::sync::Arc;
use std::time::Duration;

use articles::Articles;
use base::personal::{Forgotten, Someone, Texts, Told};
use base::{AccountId, Clock, ErrorKind, Failure, OrganisationId, Timestamp};
use comments::Comments;
use delivery::Delivery;
use identity::{Farewell, Identity};
use relational::{Claims, Command, Commands, NewCommand, Tx, Unhandled};
use serde::{Deserialize, Serialize};

/// What each room has to do; `messages` are those that wait for them or went to them, and `account` what was written about them
/// while they were being removed.
const ACCOUNT: &str = "account.forget";
const ARTICLES: &str = "articles.forget";
const COMMENTS: &str = "comments.forget";
const MESSAGES: &str = "messages.forget";

/// Whoever was let in before can write for as long as a request may take; then it is looked once more.
const AGAIN: Duration = Duration::from_mins(1);

/// What the commands carry. Their rows go when they are done.
#[derive(Clone, Serialize, Deserialize)]
struct Gone {
    account: String,
    /// Where messages are found by it: a command that fails for good is kept.
    email: Option<String>,
    /// In microseconds since 1970; the address may be somebody else's afterwards.
    removed: i64,
    texts: Texts,
    /// What was written while they were being removed is forgotten too.
    is_second: bool,
}

/// The rooms that keep something about people.
#[derive(Clone)]
pub(crate) struct Persons {
    pub(crate) identity: Identity,
    pub(crate) articles: Articles,
    pub(crate) comments: Comments,
    pub(crate) delivery: Delivery,
}

/// Sends the commands in the commit that removes somebody.
pub(crate) struct Farewells(pub(crate) Clock);

impl Farewell for Farewells {
    fn forget<'a>(
        &'a self,
        tx: &'a mut Tx,
        who: &'a Someone,
        texts: Texts,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), relational::Error>> + 'a>> {
        Box::pin(async move {
            for name in [ACCOUNT, ARTICLES, COMMENTS, MESSAGES] {
                let gone = Gone {
                    account: who.account.to_string(),
                    email: (name == MESSAGES && who.is_verified).then(|| who.email.clone()),
                    removed: self.0.now().micros(),
                    texts,
                    is_second: false,
                };
                tx.send(gone.command(who.organisation, name)).await?;
            }
            Ok(())
        })
    }
}

impl Gone {
    fn command(&self, organisation: OrganisationId, name: &'static str) -> NewCommand {
        NewCommand {
            organisation,
            name,
            key: self.account.clone(),
            payload: serde_json::to_vec(self).expect("texts always become JSON"),
            not_before: None,
        }
    }
}

impl Persons {
    /// Registers what carries the commands out.
    pub(crate) fn handle(
        &self,
        commands: &mut Commands,
        clock: &Clock,
    ) -> Result<(), relational::Error> {
        let forget = async move |tx: &mut Tx, who: &Someone, _: &Gone| {
            let forgotten = Identity::forget(tx, who).await;
            forgotten.map_err(|error| Unhandled::new(error.kind(), &error))?;
            Ok(Forgotten::All)
        };
        register(commands, clock, ACCOUNT, forget)?;
        let rooms = self.clone();
        let forget = async move |tx: &mut Tx, who: &Someone, gone: &Gone| {
            let forgotten = rooms.articles.forget(tx, who, gone.texts).await;
            forgotten.map_err(|error| Unhandled::new(error.kind(), &error))
        };
        register(commands, clock, ARTICLES, forget)?;
        let rooms = self.clone();
        let forget = async move |tx: &mut Tx, who: &Someone, gone: &Gone| {
            let forgotten = rooms.comments.forget(tx, who, gone.texts).await;
            forgotten.map_err(|error| Unhandled::new(error.kind(), &error))
        };
        register(commands, clock, COMMENTS, forget)?;
        let rooms = self.clone();
        let forget = async move |tx: &mut Tx, who: &Someone, gone: &Gone| {
            let rows = |error: relational::Error| Unhandled::new(error.kind(), &error);
            let mut mails = Forgotten::All;
            if who.is_verified {
                let until = Timestamp::from_micros(gone.removed);
                let forgotten = rooms.delivery.forget(tx, who, until).await;
                mails = forgotten.map_err(|error| Unhandled::new(error.kind(), &error))?;
            }
            // Answers that are kept for requests that are sent twice.
            let subject = crate::adapters::claimant(base::access::Subject::Account(who.account));
            let answers = Claims::forget(tx, who.organisation, &subject).await.map_err(rows)?;
            Ok(mails.and(answers))
        };
        register(commands, clock, MESSAGES, forget)
    }
}

fn register<F>(
    commands: &mut Commands,
    clock: &Clock,
    name: &'static str,
    forget: F,
) -> Result<(), relational::Error>
where
    F: AsyncFn(&mut Tx, &Someone, &Gone) -> Result<Forgotten, Unhandled> + Send + Sync + 'static,
{
    let clock = clock.clone();
    commands.handle(name, async move |tx: &mut Tx, command: &Command| {
        let invalid =
            |error: &(dyn std::error::Error + 'static)| Unhandled::new(ErrorKind::Invalid, error);
        let mut gone: Gone =
            serde_json::from_slice(&command.payload).map_err(|error| invalid(&error))?;
        let account: AccountId = gone.account.parse().map_err(|error| invalid(&error))?;
        let organisation = command.organisation;
        let is_verified = gone.email.is_some();
        let email = gone.email.clone().unwrap_or_default();
        let who = Someone { organisation, account, email, is_verified };
        let forgotten = forget(tx, &who, &gone).await?;
        let not_before = match (forgotten, gone.is_second) {
            (Forgotten::Part, _) => None,
            (Forgotten::All, false) => {
                gone.is_second = true;
                Some(clock.now().plus(AGAIN))
            }
            (Forgotten::All, true) => return Ok(()),
        };
        let next = NewCommand { not_before, ..gone.command(organisation, name) };
        tx.send(next).await.map_err(|error| Unhandled::new(error.kind(), &error))?;
        Ok(())
    })
}

/// What is kept about somebody, part by part.
pub(crate) struct Telling {
    rooms: Arc<Persons>,
    who: Someone,
    /// They ask themselves.
    is_own: bool,
    room: usize,
    after: Option<String>,
}

impl Telling {
    pub(crate) fn new(rooms: Arc<Persons>, who: Someone, is_own: bool) -> Self {
        Self { rooms, who, is_own, room: 0, after: None }
    }

    /// The next lines, each a JSON object; nothing when all was told.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, Failure> {
        loop {
            let (rooms, who, after) = (&self.rooms, &self.who, self.after.take());
            let Told { lines, next } = match self.room {
                0 => rooms.identity.told(who, after).await?,
                1 => rooms.articles.told(who, after).await?,
                2 => rooms.comments.told(who, self.is_own, after).await?,
                3 if who.is_verified => rooms.delivery.told(who, after).await?,
                _ => return Ok(None),
            };
            match next {
                Some(next) => self.after = Some(next),
                None => self.room += 1,
            }
            if !lines.is_empty() {
                return Ok(Some(lines.join("\n") + "\n"));
            }
        }
    }
}

//! Making accounts and coming in: by mail, by invitation, as an app, with a second factor.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base::access::{Authority, Door, Principal, Refused};
use base::{ErrorKind, Failure, OrganisationId, PageRequest, Timestamp};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{DAY, HERE, House, PASSWORD, house, house_with, http, quick};
use crate::{
    AccessToken, Challenge, Config, Entered, Error, Filter, Grant, Holds, Letter, Mailer, Needs,
    NewAccount, NewSession, Role, Showing, SignUp, Visitor, totp,
};

/// Keeps what would go out.
#[derive(Default)]
pub(super) struct Box_ {
    letters: Mutex<Vec<Letter>>,
    more: Notify,
}

impl Mailer for Box_ {
    fn send(
        &self,
        letter: Letter,
    ) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + '_>> {
        self.letters.lock().push(letter);
        self.more.notify_one();
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Box_ {
    /// The next letter, and the token in it.
    pub(super) async fn next(&self) -> (Letter, String) {
        loop {
            let letter = {
                let mut letters = self.letters.lock();
                if letters.is_empty() { None } else { Some(letters.remove(0)) }
            };
            let Some(letter) = letter else {
                let more = tokio::time::timeout(Duration::from_secs(10), self.more.notified());
                more.await.expect("a letter");
                continue;
            };
            let token = letter.body.split_once("?token=").map_or("", |(_, rest)| rest);
            let token = token.split_whitespace().next().unwrap_or_default().to_owned();
            return (letter, token);
        }
    }
}

pub(super) async fn with_mail(config: Config) -> (House, Arc<Box_>) {
    let mails = Arc::<Box_>::default();
    let needs = Needs { mailer: Some(mails.clone()), web: None, farewell: None };
    (house_with(config, needs).await, mails)
}

fn new(email: &str, password: &str) -> NewAccount {
    NewAccount { email: email.into(), password: password.into(), organisation: None }
}

impl House {
    async fn sign_up(&self, email: &str) {
        self.identity.sign_up(HERE, new(email, PASSWORD)).await.unwrap();
    }

    async fn tokens(&self, email: &str) -> (NewSession, AccessToken) {
        let entered = self.enter(email, PASSWORD, Holds::Tokens).await.unwrap();
        let session = entered.session().unwrap();
        let access = session.access.clone().unwrap();
        (session, access)
    }

    async fn shows(&self, text: &str) -> Result<Principal, Refused> {
        let (id, secret) = text.strip_prefix("madang_").unwrap().split_once('_').unwrap();
        self.identity.authenticate(Door::Http, id, secret).await
    }

    async fn challenge(&self, email: &str, holds: Holds) -> Challenge {
        match self.enter(email, PASSWORD, holds).await.unwrap() {
            Entered::Second(challenge) => challenge,
            Entered::In(_) => panic!("no second factor was asked for"),
        }
    }

    async fn rows(&self, sql: &'static str) -> usize {
        let rows = self.db.read(async move |read| read.query(sql, &[]).await).await.unwrap();
        rows.len()
    }

    /// Codes are on; gives the secret and the recovery codes.
    pub(super) async fn codes_on(&self, principal: &Principal) -> (Vec<u8>, Vec<String>) {
        let by = http(principal);
        let made = self.identity.begin_totp(by, HERE, Some(PASSWORD)).await.unwrap();
        let secret = un_base32(&made.secret);
        let code = self.code(&secret);
        let codes = self.identity.confirm_totp(by, &code).await.unwrap();
        self.base.clock.advance(Duration::from_secs(30));
        (secret, codes.0)
    }

    fn code(&self, secret: &[u8]) -> String {
        totp::code(secret, totp::step(self.base.clock.now()))
    }
}

fn un_base32(text: &str) -> Vec<u8> {
    let mut bits = 0_u64;
    let (mut count, mut bytes) = (0, Vec::new());
    for letter in text.bytes() {
        let value = if letter.is_ascii_uppercase() { letter - b'A' } else { letter - b'2' + 26 };
        bits = (bits << 5) | u64::from(value);
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xff).unwrap());
        }
    }
    bytes
}

#[tokio::test]
async fn an_account_may_do_little_until_its_address_is_shown_to_be_its_own() {
    let (house, mails) = with_mail(quick()).await;
    house.sign_up("mina@b.c").await;
    let (letter, token) = mails.next().await;
    assert_eq!(letter.to, "mina@b.c");
    let session = house.sign_in("mina@b.c", PASSWORD).await.unwrap();
    let mina = session.principal;
    assert!(!house.identity.profile(&mina).await.unwrap().is_verified);
    assert!(house.may(&mina, "devices.read", "device/a"));
    assert!(!house.may(&mina, "devices.write", "device/a"));
    let error = house.try_key(&mina, &[("devices.write", "*")]).await.unwrap_err();
    assert!(matches!(error, Error::GrantTooWide { .. }));

    // The link alone opens nothing, nor does it with somebody else's session or a wrong password.
    house.sign_up("joon@b.c").await;
    let joon = house.sign_in("joon@b.c", PASSWORD).await.unwrap().principal;
    for showing in
        [Showing::Nothing, Showing::Session(&joon), Showing::Password("not the password")]
    {
        house.identity.verify(HERE, &token, showing).await.unwrap_err();
        assert!(!house.identity.profile(&mina).await.unwrap().is_verified);
    }
    let mut epoch = house.identity.epoch();
    epoch.mark_unchanged();
    house.identity.verify(HERE, &token, Showing::Session(&mina)).await.unwrap();
    assert!(epoch.has_changed().unwrap());
    assert!(house.may(&mina, "devices.write", "device/a"));
    let again = house.identity.verify(HERE, &token, Showing::Session(&mina)).await;
    assert!(matches!(again, Err(Error::LinkInvalid)), "a link works once");
    let later = house.again(quick()).await;
    assert!(later.profile(&mina).await.unwrap().is_verified);

    // Where nobody comes in before that, the password beside the link is the way.
    let (strict, mails) = with_mail(Config { unverified_sign_in: false, ..quick() }).await;
    strict.sign_up("mina@b.c").await;
    let error = strict.sign_in("mina@b.c", PASSWORD).await.unwrap_err();
    assert_eq!(error.to_string(), "the address or the password is wrong");
    let (_, token) = mails.next().await;
    strict.identity.verify(HERE, &token, Showing::Password(PASSWORD)).await.unwrap();
    strict.sign_in("mina@b.c", PASSWORD).await.unwrap();
}

#[tokio::test]
async fn nothing_tells_whether_an_address_has_an_account() {
    let (house, mails) = with_mail(quick()).await;
    house.sign_up("mina@b.c").await;
    mails.next().await;
    let identity = &house.identity;
    let known = [
        identity.sign_up(HERE, new("mina@b.c", "some other password")).await.map_err(texts),
        identity.mail_link(HERE, "mina@b.c").map_err(texts),
        identity.mail_reset(HERE, "mina@b.c").map_err(texts),
    ];
    let checks = || {
        let text = house.base.metrics.text();
        text.lines()
            .find(|line| line.contains("identity_password_checks_total"))
            .unwrap()
            .to_owned()
    };
    let before = checks();
    let unknown = [
        identity.sign_up(HERE, new("nobody@b.c", "some other password")).await.map_err(texts),
        identity.mail_link(HERE, "stranger@b.c").map_err(texts),
        identity.mail_reset(HERE, "stranger@b.c").map_err(texts),
    ];
    assert_eq!(known, unknown);
    assert_eq!(before, checks(), "sign-up compares no password in either case");
    let mut told = Vec::new();
    for _ in 0..4 {
        let (letter, token) = mails.next().await;
        told.push((letter.to, !token.is_empty()));
    }
    told.sort();
    let wanted =
        [("mina@b.c", false), ("mina@b.c", true), ("mina@b.c", true), ("nobody@b.c", true)];
    assert_eq!(told, wanted.map(|(to, has)| (to.to_owned(), has)), "the stranger gets none");
    assert_eq!(
        house.sign_in("mina@b.c", "some other password").await.unwrap_err().to_string(),
        house.sign_in("nobody2@b.c", "some other password").await.unwrap_err().to_string()
    );

    // Asking is limited by the address that is written, also when it is nobody's.
    for email in ["mina@b.c", "stranger@b.c"] {
        let asked = (0..10).take_while(|_| identity.mail_link(HERE, email).is_ok()).count();
        assert_eq!(asked, 3, "{email}");
        assert!(matches!(identity.mail_reset(HERE, email), Err(Error::TooManyAttempts)));
    }
}

#[tokio::test]
async fn a_mail_is_written_some_time_after_it_was_asked_for_and_costs_as_much_for_nobody() {
    let pause = Duration::from_millis(600);
    let (house, mails) = with_mail(Config { mails_pause: pause, ..quick() }).await;
    house.administrator().await;
    // Of the password.
    mails.next().await;
    let clock = house.base.clock.clone();
    let written = || {
        let text = house.base.metrics.text();
        let line =
            text.lines().find(|line| line.starts_with("madang_relational_transactions_total"));
        line.unwrap().rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let (before, began) = (written(), clock.instant());
    house.identity.mail_reset(HERE, "admin@localhost").unwrap();
    mails.next().await;
    let took = clock.instant().duration_since(began);
    assert!(took >= pause / 2, "{took:?}");
    let for_somebody = written() - before;
    assert_eq!(house.rows("SELECT 1 AS one FROM ticket WHERE kind = 'reset'").await, 1);
    for email in ["nobody@localhost", "admin@localhost"] {
        house.identity.mail_reset(HERE, email).unwrap();
    }
    mails.next().await;
    assert_eq!(written() - before, 3 * for_somebody, "nobody's costs a commit too");
    assert_eq!(
        house.rows("SELECT 1 AS one FROM ticket WHERE kind = 'reset'").await,
        2,
        "and leaves none"
    );
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn texts(error: Error) -> String {
    error.to_string()
}

#[tokio::test]
async fn without_a_mail_server_links_are_refused_alike_and_nobody_is_checked() {
    let house = house(quick()).await;
    let stranger = house.stranger("mina@b.c").await;
    assert!(house.identity.profile(&stranger).await.unwrap().is_verified);
    assert!(house.may(&stranger, "devices.write", "device/a"));
    for email in ["mina@b.c", "nobody@b.c"] {
        assert!(matches!(house.identity.mail_link(HERE, email), Err(Error::NoMail)));
        assert!(matches!(house.identity.mail_reset(HERE, email), Err(Error::NoMail)));
    }
}

#[tokio::test]
async fn a_mailed_link_signs_in_once_for_ten_minutes_also_under_a_race() {
    let (house, mails) = with_mail(quick()).await;
    let admin = house.administrator().await;
    mails.next().await;
    house.identity.mail_link(HERE, "Admin@localhost").unwrap();
    let (letter, token) = mails.next().await;
    assert!(letter.body.contains("http://localhost:8080/#/link?token="), "{}", letter.body);
    let stored = house.rows("SELECT 1 AS one FROM ticket WHERE kind = 'sign-in' AND used IS NULL");
    assert_eq!(stored.await, 1);
    let hashes =
        house.db.read(async move |read| read.query("SELECT token_hash FROM ticket", &[]).await);
    for row in hashes.await.unwrap() {
        assert_ne!(row.get::<String>("token_hash").unwrap(), token, "only its hash is stored");
    }
    let many = (0..8).map(|_| {
        let (identity, token) = (house.identity.clone(), token.clone());
        async move { identity.redeem_link(&HERE.into(), &token, Holds::Cookie).await.is_ok() }
    });
    let opened = futures::future::join_all(many).await;
    assert_eq!(opened.into_iter().filter(|opened| *opened).count(), 1);

    house.identity.mail_link(HERE, "admin@localhost").unwrap();
    let (_, token) = mails.next().await;
    // Of another kind, it opens nothing.
    assert!(house.identity.finish_reset(&token, "a quite new password").await.is_err());
    let session = Showing::Session(&admin);
    assert!(house.identity.verify(HERE, &token, session).await.is_err());
    house.base.clock.advance(Duration::from_mins(10));
    assert!(matches!(house.redeem(&token).await, Err(Error::LinkInvalid)), "too late");
}

#[tokio::test]
async fn no_way_to_a_password_takes_one_that_others_guess_first() {
    const LEAKED: &str = "leaked in a far place";
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("leaked");
    let hash = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, LEAKED.as_bytes());
    std::fs::write(&list, format!("{}:7\r\n", crate::token::hex(hash.as_ref()))).unwrap();
    let config = Config { leaked_passwords: list.clone(), user_passwords_checked: true, ..quick() };
    let (house, mails) = with_mail(config).await;
    let admin = house.administrator().await;
    mails.next().await;
    for weak in ["password123", "Admin-localhost-1", LEAKED] {
        let refused = house.set_password(&admin, None, Some(PASSWORD), weak).await;
        assert!(matches!(refused, Err(Error::Password(_))), "{weak}: {refused:?}");
        let refused = house.identity.sign_up(HERE, new("admin@localhost.kr", weak)).await;
        assert!(matches!(refused, Err(Error::Password(_))), "{weak}: {refused:?}");
        let refused = house.identity.check_new_of_user(weak, "admin@localhost").await;
        assert!(matches!(refused, Err(Error::Password(_))), "{weak}: {refused:?}");
        house.identity.mail_reset(HERE, "admin@localhost").unwrap();
        let (_, token) = mails.next().await;
        let refused = house.identity.finish_reset(&token, weak).await;
        assert!(matches!(refused, Err(Error::Password(_))), "{weak}: {refused:?}");
    }
    std::fs::remove_file(&list).unwrap();
    let refused = house.set_password(&admin, None, Some(PASSWORD), "another long password").await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "nobody knows: {refused}");
    assert!(house.sign_in("admin@localhost", PASSWORD).await.is_ok());
}

#[tokio::test]
async fn a_reset_sets_the_password_ends_every_session_and_signs_nobody_in() {
    let (house, mails) = with_mail(quick()).await;
    house.administrator().await;
    mails.next().await;
    let open = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    let (app, access) = house.tokens("admin@localhost").await;
    assert!(house.shows(&access.text).await.is_ok());
    house.identity.mail_reset(HERE, "admin@localhost").unwrap();
    let (_, token) = mails.next().await;
    assert!(matches!(house.redeem(&token).await, Err(Error::LinkInvalid)), "it is no sign-in link");
    let error = house.identity.finish_reset(&token, "short").await.unwrap_err();
    assert!(matches!(error, Error::Password(_)));
    let mut epoch = house.identity.epoch();
    epoch.mark_unchanged();
    house.identity.finish_reset(&token, "a quite new password").await.unwrap();
    assert!(epoch.has_changed().unwrap());
    assert!(house.identity.session(&open.token).await.is_err());
    assert!(house.shows(&access.text).await.is_err());
    assert!(house.identity.refresh(&app.token).await.is_err());
    let (letter, _) = mails.next().await;
    assert!(letter.subject.contains("password was changed"), "{letter:?}");
    assert!(house.identity.finish_reset(&token, "a third password").await.is_err(), "used");
    assert!(house.sign_in("admin@localhost", PASSWORD).await.is_err());
    assert!(house.sign_in("admin@localhost", "a quite new password").await.is_ok());
}

#[tokio::test]
async fn who_made_an_account_with_another_s_address_loses_it_when_the_owner_comes() {
    let (house, mails) = with_mail(quick()).await;
    house.sign_up("mina@b.c").await;
    mails.next().await;
    let thief = house.sign_in("mina@b.c", PASSWORD).await.unwrap();
    let (_, access) = house.tokens("mina@b.c").await;
    house.codes_on(&thief.principal).await;
    mails.next().await;

    house.identity.mail_link(HERE, "mina@b.c").unwrap();
    let (_, token) = mails.next().await;
    let owner = house.redeem(&token).await.unwrap();
    assert!(house.identity.session(&owner.token).await.is_ok());
    assert!(house.identity.session(&thief.token).await.is_err());
    assert!(house.shows(&access.text).await.is_err());
    assert!(house.sign_in("mina@b.c", PASSWORD).await.is_err(), "nor by the password");
    let profile = house.identity.profile(&owner.principal).await.unwrap();
    assert!(profile.is_verified && !profile.has_password && !profile.has_second_factor);
}

#[tokio::test]
async fn an_invitation_is_for_one_address_and_one_use() {
    let (house, mails) = with_mail(Config { sign_up: SignUp::Invitation, ..quick() }).await;
    let admin = house.administrator().await;
    mails.next().await;
    let refused = house.identity.sign_up(HERE, new("x@b.c", PASSWORD)).await;
    assert!(matches!(refused, Err(Error::SignUpClosed)));
    let by = http(&admin);
    let first = house.identity.invite(by, "Mina@b.c", Role::Member).await.unwrap();
    assert!(first.link.is_none(), "it went by mail");
    let (_, old) = mails.next().await;
    let second = house.identity.invite(by, "mina@b.c", Role::Member).await.unwrap();
    let (letter, token) = mails.next().await;
    assert_eq!(letter.to, "mina@b.c");
    let waiting =
        house.identity.invitations(admin.organisation, &PageRequest::default()).await.unwrap();
    assert_eq!(waiting.items, [second.invitation], "in place of the first");
    let accept = async |token: &str| {
        house.identity.accept(&HERE.into(), token, PASSWORD).await.map(|in_| in_.session().unwrap())
    };
    assert!(matches!(accept(&old).await, Err(Error::LinkInvalid)));
    let mina = accept(&token).await.unwrap().principal;
    assert!(matches!(accept(&token).await, Err(Error::LinkInvalid)));
    assert_eq!(mina.organisation, admin.organisation);
    assert!(house.identity.profile(&mina).await.unwrap().is_verified, "the mail reached her");
    assert!(house.may(&mina, "devices.write", "device/a") && !house.may(&mina, "keys.write", "*"));
    assert!(house.identity.invite(http(&mina), "n@b.c", Role::Admin).await.is_err());

    // Whoever has an account is told so by mail, and the inviter is told nothing.
    let known = house.identity.invite(by, "mina@b.c", Role::Member).await.unwrap();
    let (letter, link) = mails.next().await;
    assert!(known.link.is_none() && link.is_empty() && letter.body.contains("one account"));
    house.identity.invite(by, "joon@b.c", Role::Member).await.unwrap();
    let (_, token) = mails.next().await;
    let joons =
        house.identity.invitations(admin.organisation, &PageRequest::default()).await.unwrap();
    let joons = joons.items.iter().find(|it| it.email == "joon@b.c").unwrap().id;
    let (stranger, _) = with_mail(quick()).await;
    let stranger = stranger.administrator().await;
    let elsewhere = Principal { organisation: OrganisationId::fixed(9), ..stranger };
    assert!(house.identity.withdraw(http(&elsewhere), joons).await.is_err());
    house.identity.withdraw(by, joons).await.unwrap();
    assert!(matches!(accept(&token).await, Err(Error::LinkInvalid)), "taken back");

    let closed = super::house(Config { sign_up: SignUp::Closed, ..quick() }).await;
    let admin = closed.administrator().await;
    let refused = closed.identity.invite(http(&admin), "m@b.c", Role::Member).await;
    assert!(matches!(refused, Err(Error::InvitationsClosed)));
}

#[tokio::test]
async fn an_app_shows_one_text_for_minutes_and_exchanges_the_other() {
    let house = house(quick()).await;
    house.administrator().await;
    let (session, first) = house.tokens("admin@localhost").await;
    assert!(session.token.starts_with("madang_refresh_"));
    let admin = house.shows(&first.text).await.unwrap();
    assert_eq!(admin, session.principal);
    assert!(house.identity.session(&session.token).await.is_err(), "it is no cookie");
    let bare = session.token.strip_prefix("madang_refresh_").unwrap();
    assert!(house.identity.session(bare).await.is_err());
    for text in [&first.text[..first.text.len() - 1], &session.token] {
        assert!(house.shows(text).await.is_err(), "{text}");
    }
    let (id, secret) = first.text["madang_".len()..].split_once('_').unwrap();
    for door in [Door::Mqtt, Door::Resp, Door::Stomp] {
        let refused = house.identity.authenticate(door, id, secret).await;
        assert_eq!(refused, Err(Refused::Unauthenticated), "a person is no device: {door:?}");
    }

    let next = house.identity.refresh(&session.token).await.unwrap();
    let second = next.access.clone().unwrap();
    assert!(house.shows(&first.text).await.is_err(), "the newest opens");
    assert!(house.shows(&second.text).await.is_ok());
    house.base.clock.advance(Duration::from_mins(10));
    assert!(house.shows(&second.text).await.is_err(), "its time is over");
    let next = house.identity.refresh(&next.token).await.unwrap();
    let third = next.access.clone().unwrap();
    assert!(house.shows(&third.text).await.is_ok());
    let later = house.again(quick()).await;
    let (id, secret) = third.text["madang_".len()..].split_once('_').unwrap();
    assert!(later.authenticate(Door::Http, id, secret).await.is_ok(), "after a restart");
    house.base.clock.advance(30 * DAY);
    assert!(house.identity.refresh(&next.token).await.is_err(), "however often it was exchanged");
}

#[tokio::test]
async fn a_text_that_is_exchanged_twice_ends_the_session_for_both() {
    let house = house(quick()).await;
    house.administrator().await;
    let (stolen, _) = house.tokens("admin@localhost").await;
    let (other, others) = house.tokens("admin@localhost").await;
    let next = house.identity.refresh(&stolen.token).await.unwrap();
    let access = next.access.clone().unwrap();
    assert!(house.shows(&access.text).await.is_ok());
    let mut epoch = house.identity.epoch();
    epoch.mark_unchanged();
    let error = house.identity.refresh(&stolen.token).await.unwrap_err();
    assert!(matches!(error, Error::TokenInvalid), "{error}");
    assert!(epoch.has_changed().unwrap(), "open connections hear of it");
    assert!(house.shows(&access.text).await.is_err());
    assert!(house.identity.refresh(&next.token).await.is_err());
    assert!(house.shows(&others.text).await.is_ok(), "another session goes on");
    let seen = house.audit(OrganisationId::DEFAULT).await;
    assert!(seen.iter().any(|entry| entry.action == "session.token-reused"));

    // Of many at once one wins, and the session is over all the same.
    let many = (0..8).map(|_| {
        let (identity, token) = (house.identity.clone(), other.token.clone());
        async move { identity.refresh(&token).await.ok() }
    });
    let won: Vec<_> = futures::future::join_all(many).await.into_iter().flatten().collect();
    assert_eq!(won.len(), 1);
    assert!(house.shows(&won[0].access.clone().unwrap().text).await.is_err());
    assert_eq!(house.rows("SELECT 1 AS one FROM spent_token").await, 0);
    for unknown in ["", "madang_refresh_", "madang_refresh_x", "x"] {
        assert!(matches!(house.identity.refresh(unknown).await, Err(Error::TokenInvalid)));
        house.identity.end_tokens(unknown).await.unwrap();
    }
}

#[tokio::test]
async fn sessions_are_listed_and_ended_by_their_account_only() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let member = house.join(&admin, "mina@b.c", Role::Member).await;
    let visitor = Visitor { address: HERE, agent: "Firefox\n on Debian".into() };
    let given = crate::SignIn {
        email: "admin@localhost".into(),
        password: PASSWORD.into(),
        holds: Holds::Cookie,
    };
    let cookie = house.identity.sign_in(&visitor, given).await.unwrap().session().unwrap();
    house.base.clock.advance(Duration::from_secs(1));
    let (app, access) = house.tokens("admin@localhost").await;
    assert!(house.shows(&access.text).await.is_ok());
    let listed = house.identity.sessions(&admin, Some(&cookie.token)).await.unwrap();
    let current: Vec<_> = listed.iter().filter(|session| session.is_current).collect();
    assert_eq!(current.len(), 1);
    assert_eq!((current[0].id, &*current[0].agent), (cookie.id, "Firefox on Debian"));
    assert_eq!((listed[0].id, listed[0].holds), (app.id, Holds::Tokens), "newest first");
    assert_eq!(listed[0].address, "127.0.0.1");

    let refused = house.identity.end_session(http(&member), app.id).await;
    assert!(matches!(refused, Err(Error::NotThere("session"))), "of another it is not there");
    house.identity.end_session(http(&admin), app.id).await.unwrap();
    assert!(house.shows(&access.text).await.is_err());
    assert!(house.identity.refresh(&app.token).await.is_err());
    let (app, _) = house.tokens("admin@localhost").await;
    let by = http(&admin);
    let ended = house.identity.end_other_sessions(by, Some(&cookie.token)).await.unwrap();
    assert_eq!(ended, listed.len() - 2 + 1);
    assert!(house.identity.refresh(&app.token).await.is_err());
    assert!(house.identity.session(&cookie.token).await.is_ok());
    let key = house.key(&admin, &[("*", "*")]).await;
    let key = house.open_with(&key.mqtt_user, &key.mqtt_password).await.unwrap();
    assert!(matches!(house.identity.sessions(&key, None).await, Err(Error::NotAnAccount)));
}

#[tokio::test]
async fn a_password_is_changed_by_who_knows_it() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    for current in [None, Some("not the password")] {
        let error = house.set_password(&admin, None, current, "a quite new password").await;
        assert!(matches!(error, Err(Error::CurrentPassword)), "{current:?}");
    }
    house.set_password(&admin, None, Some(PASSWORD), "a quite new password").await.unwrap();
}

#[tokio::test]
async fn with_codes_on_a_password_or_a_link_is_half_of_the_way() {
    let (house, mails) = with_mail(quick()).await;
    let admin = house.administrator().await;
    mails.next().await;
    let by = http(&admin);
    assert!(house.identity.begin_totp(by, HERE, None).await.is_err(), "the password is asked for");
    let made = house.identity.begin_totp(by, HERE, Some(PASSWORD)).await.unwrap();
    assert!(
        made.uri.starts_with("otpauth://totp/Madang:admin%40localhost?secret="),
        "{}",
        made.uri
    );
    assert!(house.sign_in("admin@localhost", PASSWORD).await.is_ok(), "not on before a code");
    assert!(matches!(house.identity.confirm_totp(by, "000000").await, Err(Error::CodeRefused)));
    let (secret, _) = house.codes_on(&admin).await;
    let (letter, _) = mails.next().await;
    assert!(letter.subject.starts_with("How you sign in was changed"));
    assert!(matches!(
        house.identity.begin_totp(by, HERE, Some(PASSWORD)).await,
        Err(Error::FactorExists)
    ));

    let visitor = Visitor::from(HERE);
    let second = async |challenge: &str, code: &str, holds| {
        house.identity.second(&visitor, challenge, code, holds).await
    };
    let challenge = house.challenge("admin@localhost", Holds::Cookie).await.token;
    assert!(house.identity.session(&challenge).await.is_err(), "it is no session");
    assert!(second(&challenge, &house.code(&secret), Holds::Tokens).await.is_err(), "nor an app's");
    assert!(matches!(second(&challenge, "000000", Holds::Cookie).await, Err(Error::CodeWrong)));
    let code = house.code(&secret);
    let session = second(&challenge, &format!(" {code} "), Holds::Cookie).await.unwrap();
    assert!(house.identity.session(&session.token).await.is_ok());
    assert!(second(&challenge, &code, Holds::Cookie).await.is_err(), "used");

    // The same code again, within its time, with the right password.
    let challenge = house.challenge("admin@localhost", Holds::Cookie).await.token;
    assert!(matches!(second(&challenge, &code, Holds::Cookie).await, Err(Error::CodeWrong)));
    house.base.clock.advance(Duration::from_secs(30));
    assert!(second(&challenge, &house.code(&secret), Holds::Cookie).await.is_ok());

    house.identity.mail_link(HERE, "admin@localhost").unwrap();
    let (_, link) = mails.next().await;
    let entered = house.identity.redeem_link(&visitor, &link, Holds::Cookie).await.unwrap();
    assert!(matches!(entered, Entered::Second(_)), "a link is half of the way too");
    let challenge = house.challenge("admin@localhost", Holds::Tokens).await.token;
    house.base.clock.advance(Duration::from_mins(5));
    let late = second(&challenge, &house.code(&secret), Holds::Tokens).await;
    assert!(matches!(late, Err(Error::LinkInvalid)), "too late");
    let stored = house.db.read(async move |read| {
        read.query_one("SELECT sealed FROM totp", &[]).await?.get::<Vec<u8>>("sealed")
    });
    let stored = stored.await.unwrap();
    assert!(!stored.windows(8).any(|bytes| bytes == &secret[..8]), "sealed in rows");
}

#[tokio::test]
async fn wrong_codes_are_counted_by_challenge_and_by_account() {
    let config = Config { second_tries_max: 3, second_per_account_max: 5, ..quick() };
    let house = house(config).await;
    let admin = house.administrator().await;
    let (secret, _) = house.codes_on(&admin).await;
    let visitor = Visitor::from(HERE);
    let mut answers = Vec::new();
    for _ in 0..2 {
        let challenge = house.challenge("admin@localhost", Holds::Cookie).await.token;
        for _ in 0..4 {
            let tried = house.identity.second(&visitor, &challenge, "000000", Holds::Cookie).await;
            answers.push(tried.unwrap_err());
        }
    }
    let kind = |error: &Error| match error {
        Error::CodeWrong => 'w',
        Error::LinkInvalid => 'l',
        Error::TooManyAttempts => 't',
        _ => '?',
    };
    let kinds: String = answers.iter().map(kind).collect();
    assert_eq!(kinds, "wwwlwwtl");
    let challenge = house.challenge("admin@localhost", Holds::Cookie).await.token;
    let code = house.code(&secret);
    let right = house.identity.second(&visitor, &challenge, &code, Holds::Cookie).await;
    assert!(matches!(right, Err(Error::TooManyAttempts)), "a right code does not help");
    house.base.clock.advance(Duration::from_mins(15));
    let challenge = house.challenge("admin@localhost", Holds::Cookie).await.token;
    let code = house.code(&secret);
    assert!(house.identity.second(&visitor, &challenge, &code, Holds::Cookie).await.is_ok());
}

#[tokio::test]
async fn a_recovery_code_stands_for_a_code_once() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let (secret, codes) = house.codes_on(&admin).await;
    assert_eq!(codes.iter().collect::<HashSet<_>>().len(), 10);
    let visitor = Visitor::from(HERE);
    let by = http(&admin);
    let enter = async |code: &str| {
        let challenge = house.challenge("admin@localhost", Holds::Cookie).await.token;
        house.identity.second(&visitor, &challenge, code, Holds::Cookie).await
    };
    enter(&codes[0]).await.unwrap();
    assert!(matches!(enter(&codes[0]).await, Err(Error::CodeWrong)));
    enter(&codes[1].replace('-', " ").to_lowercase()).await.unwrap();
    let newer = house.identity.new_recovery_codes(by, &codes[2]).await.unwrap().0;
    assert!(enter(&codes[3]).await.is_err(), "replaced");
    assert!(house.identity.end_totp(by, "000000").await.is_err());
    house.identity.end_totp(by, &newer[0]).await.unwrap();
    assert!(house.sign_in("admin@localhost", PASSWORD).await.is_ok());
    assert!(house.identity.end_totp(by, &house.code(&secret)).await.is_err(), "it is off");
    assert_eq!(house.rows("SELECT 1 AS one FROM recovery_code").await, 0);
}

#[tokio::test]
async fn a_new_session_is_never_the_one_that_was_there() {
    // Session fixation: what somebody brings along is neither kept nor opened.
    let house = house(quick()).await;
    house.administrator().await;
    let one = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    let two = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    assert_ne!(one.token, two.token);
    house.identity.sign_out(&two.token).await.unwrap();
    assert!(house.identity.session(&two.token).await.is_err());
    assert!(house.identity.session(&one.token).await.is_ok());
}

#[tokio::test]
async fn the_audit_log_is_filtered_and_exported() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let mina = house.join(&admin, "mina@b.c", Role::Member).await;
    house.base.clock.advance(Duration::from_secs(10));
    let since = house.base.clock.now();
    let grants = vec![Grant::new("devices.read", "*")];
    let new = crate::NewKey { label: "=cmd|' /C calc'!A0, \"x\"".into(), grants };
    let key = house.identity.create_key(http(&mina), new).await.unwrap();
    house.base.clock.advance(Duration::from_secs(10));
    house.identity.revoke_key((&admin, Door::Mqtt), key.id).await.unwrap();
    assert!(!house.may(&mina, "keys.write", "*"));
    house.identity.write_denials().await.unwrap();
    let found = async |filter: Filter| {
        let page = PageRequest { after: None, limit: 100 };
        let page = house.identity.audit(admin.organisation, &filter, &page).await.unwrap();
        page.items.into_iter().map(|entry| entry.action).collect::<Vec<_>>()
    };
    let some = |text: &str| Some(text.to_owned());
    let keys = Filter { action: some("key.*"), ..Filter::default() };
    assert_eq!(found(keys.clone()).await, ["key.revoke", "key.create"]);
    assert_eq!(found(Filter { door: some("mqtt"), ..keys.clone() }).await, ["key.revoke"]);
    assert_eq!(found(Filter { actor: some("Mina@b.c"), ..keys.clone() }).await, ["key.create"]);
    let until = Some(since.plus(Duration::from_secs(10)));
    assert_eq!(found(Filter { until, ..keys.clone() }).await, ["key.create"]);
    let from = Some(since.plus(Duration::from_micros(1)));
    assert_eq!(found(Filter { from, ..keys.clone() }).await, ["key.revoke"]);
    let denied = Filter { outcome: Some(crate::Outcome::Denied), ..Filter::default() };
    assert_eq!(found(denied).await, ["keys.write"]);
    assert!(found(Filter { actor: some("nobody@b.c"), ..keys.clone() }).await.is_empty());
    assert!(found(Filter { action: some("key"), ..Filter::default() }).await.is_empty());
    let wrong = PageRequest { after: some("not a cursor"), limit: 1 };
    let wrong = house.identity.audit(admin.organisation, &keys, &wrong).await;
    assert!(matches!(wrong, Err(Error::Cursor)));

    let (csv, next) = house.identity.audit_csv(admin.organisation, &keys, None).await.unwrap();
    assert_eq!(next, None);
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines[0], "id,time,subject,door,action,resource,outcome,detail");
    assert!(lines[2].ends_with(r#","done","'=cmd|' /C calc'!A0, ""x""""#), "{}", lines[2]);
    let elsewhere = house.identity.audit_csv(OrganisationId::fixed(9), &keys, None).await.unwrap();
    assert_eq!(elsewhere.0.lines().count(), 1);
    assert!(Timestamp::from_micros(0) < since);
}

#[tokio::test]
async fn a_note_of_a_deed_that_is_rolled_back_is_not_there() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let change = crate::Change::of(http(&admin), "device.rename", "device/a".into());
    for is_kept in [false, true] {
        let (identity, change) = (house.identity.clone(), change.clone());
        let done = house.db.write(async move |tx| {
            identity.note_in(tx, &change).await?;
            if is_kept { Ok(()) } else { Err(Error::NotThere("device")) }
        });
        assert_eq!(done.await.is_ok(), is_kept);
        let seen = house.audit(admin.organisation).await;
        let noted = seen.iter().filter(|entry| entry.action == "device.rename").count();
        assert_eq!(noted, usize::from(is_kept));
    }
}

/// How far pairs are from having no order: the z of the sign test.
fn apart(one: &[Duration], other: &[Duration]) -> f64 {
    let signs = one.iter().zip(other).map(|(mine, theirs)| match mine.cmp(theirs) {
        std::cmp::Ordering::Greater => 1.0,
        std::cmp::Ordering::Equal => 0.0,
        std::cmp::Ordering::Less => -1.0,
    });
    let count = f64::from(u32::try_from(one.len()).unwrap());
    signs.sum::<f64>() / count.sqrt()
}

#[tokio::test]
async fn time_does_not_tell_whether_an_address_has_an_account() {
    // With the real cost of a hash. Both of a pair are slowed down alike by whatever else runs here, and which of them is
    // the first follows no beat (Thue and Morse); by chance alone they are further apart than this once in fifteen thousand runs.
    let many = 100_000;
    let house = house(Config {
        attempts_per_pair_max: many,
        attempts_per_account_max: many,
        attempts_per_address_max: many,
        sign_up: SignUp::Open,
        ..Config::default()
    })
    .await;
    house.sign_up("mina@b.c").await;
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for pair in 0..64_u32 {
        let mut turns = [("mina@b.c", &mut known), ("nobody@b.c", &mut unknown)];
        if pair.count_ones() % 2 == 1 {
            turns.reverse();
        }
        for (email, times) in turns {
            let began = house.base.clock.instant();
            house.sign_in(email, "not the password").await.unwrap_err();
            times.push(house.base.clock.instant().duration_since(began));
        }
    }
    let z = apart(&known, &unknown);
    assert!(z.abs() < 4.0, "z = {z:.1}");
    // The test itself sees what it should: an answer without a hash.
    let slower: Vec<_> = unknown.iter().map(|time| *time * 4).collect();
    assert!(apart(&slower, &unknown) > 4.0);
}

use std::net::IpAddr;
use std::time::Duration;

use base::access::{Action, Authority, Door, Principal, Refused, Resource, Subject};
use base::{Base, ErrorKind, KeyId, OrganisationId, PageRequest};
use relational::Db;
use tempfile::TempDir;

use crate::{
    Config, Error, Filter, Grant, Holds, Identity, KeyCredentials, Needs, NewAccount, NewKey,
    NewSession, Role, SignIn, SignUp, Visitor, key_text,
};

mod entering;
mod issuer;
mod leaving;
mod passkeys;
mod people;
mod providers;
mod users;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const PASSWORD: &str = "correct horse battery";
const DAY: Duration = Duration::from_hours(24);

fn http(principal: &Principal) -> crate::By<'_> {
    (principal, Door::Http)
}

/// A whole identity on a folder of its own.
struct House {
    identity: Identity,
    base: Base,
    db: Db,
    dir: TempDir,
}

fn quick() -> Config {
    let (sign_up, mails_pause) = (SignUp::Open, Duration::ZERO);
    Config { hash_memory_kib: 64, hash_passes: 1, sign_up, mails_pause, ..Config::default() }
}

async fn house(config: Config) -> House {
    house_with(config, Needs::default()).await
}

async fn house_with(mut config: Config, needs: Needs) -> House {
    let dir = tempfile::tempdir().unwrap();
    let base = Base::simulated("2026-01-01T00:00:00Z".parse().unwrap(), 11);
    let rows = relational::Config { path: dir.path().join("rows.db"), ..Default::default() };
    let db = Db::open(rows, &base).await.unwrap();
    config.key_file = dir.path().join("identity.key");
    config.removed_file = dir.path().join("removed");
    let identity = Identity::open(config, &base, db.clone(), needs).await.unwrap();
    House { identity, base, db, dir }
}

impl House {
    /// The default organisation's administrator, who came by the link and set a password.
    async fn administrator(&self) -> Principal {
        let link = self.identity.administrator_link().await.unwrap().unwrap();
        let session = self.redeem(&link).await.unwrap();
        self.set_password(&session.principal, None, None, PASSWORD).await.unwrap();
        session.principal
    }

    async fn redeem(&self, link: &str) -> Result<NewSession, Error> {
        let entered = self.identity.redeem_link(&HERE.into(), link, Holds::Cookie).await?;
        Ok(entered.session().expect("no second factor"))
    }

    async fn set_password(
        &self,
        principal: &Principal,
        keep: Option<&str>,
        current: Option<&str>,
        new: &str,
    ) -> Result<(), Error> {
        self.identity.set_password((http(principal), HERE), keep, current, new).await
    }

    /// Somebody who was invited, without a mail server.
    async fn join(&self, inviter: &Principal, email: &str, role: Role) -> Principal {
        let link = self.identity.invite(http(inviter), email, role).await.unwrap().link.unwrap();
        let entered = self.identity.accept(&HERE.into(), &link, PASSWORD).await.unwrap();
        entered.session().unwrap().principal
    }

    /// The administrator of another organisation.
    async fn stranger(&self, email: &str) -> Principal {
        let new = NewAccount { email: email.into(), password: PASSWORD.into(), organisation: None };
        self.identity.sign_up(HERE, new).await.unwrap();
        self.sign_in(email, PASSWORD).await.unwrap().principal
    }

    async fn sign_in(&self, email: &str, password: &str) -> Result<NewSession, Error> {
        let entered = self.enter(email, password, Holds::Cookie).await?;
        Ok(entered.session().expect("no second factor"))
    }

    async fn enter(
        &self,
        email: &str,
        password: &str,
        holds: Holds,
    ) -> Result<crate::Entered, Error> {
        let given = SignIn { email: email.into(), password: password.into(), holds };
        self.identity.sign_in(&Visitor::from(HERE), given).await
    }

    async fn key(&self, maker: &Principal, grants: &[(&str, &str)]) -> KeyCredentials {
        self.try_key(maker, grants).await.unwrap()
    }

    async fn try_key(
        &self,
        maker: &Principal,
        grants: &[(&str, &str)],
    ) -> Result<KeyCredentials, Error> {
        let grants = grants.iter().map(|(action, on)| Grant::new(*action, *on)).collect();
        self.identity.create_key(http(maker), NewKey { label: "roof".into(), grants }).await
    }

    async fn open_with(&self, user: &str, password: &str) -> Result<Principal, Refused> {
        self.identity.authenticate(Door::Mqtt, user, password).await
    }

    fn may(&self, principal: &Principal, action: &'static str, path: &str) -> bool {
        let resource = Resource { organisation: principal.organisation, path };
        self.identity.authorize(principal, Action(action), resource).is_ok()
    }

    async fn audit(&self, organisation: OrganisationId) -> Vec<crate::Entry> {
        self.identity.write_denials().await.unwrap();
        self.identity
            .audit(organisation, &Filter::default(), &PageRequest::default())
            .await
            .unwrap()
            .items
    }

    /// Another start on the same folder.
    async fn again(&self, config: Config) -> Identity {
        self.opened(config, Needs::default()).await
    }

    async fn again_with(&self, needs: Needs) -> Identity {
        self.opened(quick(), needs).await
    }

    async fn opened(&self, config: Config, needs: Needs) -> Identity {
        let base = Base::simulated(self.base.clock.now(), 12);
        let key_file = self.dir.path().join("identity.key");
        let removed_file = self.dir.path().join("removed");
        let config = Config { key_file, removed_file, ..config };
        Identity::open(config, &base, self.db.clone(), needs).await.unwrap()
    }
}

#[tokio::test]
async fn the_first_start_gives_a_link_that_works_once() {
    let house = house(Config::default()).await;
    let identity = &house.identity;
    let first = identity.administrator_link().await.unwrap().unwrap();
    let link = identity.administrator_link().await.unwrap().unwrap();
    assert!(matches!(house.redeem(&first).await, Err(Error::LinkInvalid)), "replaced");

    let session = house.redeem(&link).await.unwrap();
    assert_eq!(session.principal.organisation, OrganisationId::DEFAULT);
    assert!(matches!(house.redeem(&link).await, Err(Error::LinkInvalid)), "used");
    for link in ["", "x", &"x".repeat(5_000)] {
        assert!(matches!(house.redeem(link).await, Err(Error::LinkInvalid)));
    }
    let profile = identity.profile(&session.principal).await.unwrap();
    assert_eq!(profile.email.as_deref(), Some("admin@localhost"));
    assert!(!profile.has_password);
    assert_eq!(profile.grants, [Grant::all()]);

    // Whoever came in and set no password can still come by the next start's link.
    let again = house.again(Config::default()).await;
    assert!(again.administrator_link().await.unwrap().is_some());
    let token = Some(&*session.token);
    house.set_password(&session.principal, token, None, PASSWORD).await.unwrap();
    assert!(identity.profile(&session.principal).await.unwrap().has_password);
    assert_eq!(again.administrator_link().await.unwrap(), None);
    assert!(identity.session(&session.token).await.is_ok(), "the session that asked goes on");
}

#[tokio::test]
async fn a_link_ends_after_a_day_and_with_a_password() {
    let house = house(quick()).await;
    let link = house.identity.administrator_link().await.unwrap().unwrap();
    house.base.clock.advance(DAY);
    assert!(matches!(house.redeem(&link).await, Err(Error::LinkInvalid)));

    let unused = house.identity.administrator_link().await.unwrap().unwrap();
    let second = house.again(quick()).await;
    let admin = house.stranger("a@b.c").await;
    let member = house.join(&admin, "d@b.c", Role::Member).await;

    assert_eq!(member.organisation, admin.organisation);
    assert!(
        second.redeem_link(&HERE.into(), &unused, Holds::Cookie).await.is_ok(),
        "links of others are as they were"
    );
}

#[tokio::test]
async fn a_password_lets_in_and_nothing_else_does() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let session = house.sign_in(" Admin@LOCALHOST ", PASSWORD).await.unwrap();
    assert_eq!(session.principal, admin);
    assert_eq!(house.identity.session(&session.token).await, Ok(admin));

    for (email, password) in [
        ("admin@localhost", "wrong password"),
        ("admin@localhost", ""),
        ("admin@localhost", &"x".repeat(2_000)),
        ("nobody@localhost", PASSWORD),
        ("", PASSWORD),
        ("' OR 1=1 --", PASSWORD),
        ("admin@localhost\0", PASSWORD),
    ] {
        let error = house.sign_in(email, password).await.unwrap_err();
        assert_eq!(error.to_string(), "the address or the password is wrong", "{email}");
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    }
    for token in ["", "x", &session.token[1..], &"x".repeat(5_000)] {
        assert_eq!(house.identity.session(token).await, Err(Refused::Unauthenticated));
    }
    let seen = house.audit(OrganisationId::DEFAULT).await;
    assert!(seen.iter().any(|it| it.outcome == "denied" && it.door == "http"), "{seen:?}");
}

#[tokio::test]
async fn an_unknown_account_costs_as_much_as_a_known_one() {
    let house = house(quick()).await;
    house.administrator().await;
    let checks = |count: u32| {
        let line = format!("identity_password_checks_total {count}\n");
        house.base.metrics.text().contains(&line)
    };
    house.sign_in("admin@localhost", "wrong password").await.unwrap_err();
    assert!(checks(1));
    house.sign_in("nobody@localhost", "wrong password").await.unwrap_err();
    house.sign_in("no address", "wrong password").await.unwrap_err();
    assert!(checks(3));
}

#[tokio::test]
async fn guessing_is_limited_and_the_right_password_does_not_help() {
    let house = house(Config { attempts_per_pair_max: 3, ..quick() }).await;
    house.administrator().await;
    for email in ["admin@localhost", "nobody@localhost"] {
        for _ in 0..3 {
            let error = house.sign_in(email, "wrong password").await.unwrap_err();
            assert!(matches!(error, Error::SignInFailed), "{error}");
        }
        let error = house.sign_in(email, PASSWORD).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooMany, "{email}");
    }
    house.base.clock.advance(Duration::from_mins(15));
    assert!(house.sign_in("admin@localhost", PASSWORD).await.is_ok());
}

#[tokio::test]
async fn a_session_slides_ends_and_is_one_of_few() {
    let house = house(Config { sessions_per_account_max: 2, ..quick() }).await;
    house.administrator().await;
    let session = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    for _ in 0..3 {
        house.base.clock.advance(20 * DAY);
        assert!(house.identity.session(&session.token).await.is_ok(), "each use moves the end");
    }
    for _ in 0..2 {
        house.base.clock.advance(14 * DAY);
        assert!(house.identity.session(&session.token).await.is_ok());
    }
    house.base.clock.advance(2 * DAY);
    let aged = house.identity.session(&session.token).await;
    assert_eq!(aged, Err(Refused::Unauthenticated), "ninety days are the most");
    let session = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    house.base.clock.advance(30 * DAY);
    let expired = house.identity.session(&session.token).await;
    assert_eq!(expired, Err(Refused::Unauthenticated));

    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(house.sign_in("admin@localhost", PASSWORD).await.unwrap());
        house.base.clock.advance(Duration::from_secs(1));
    }
    assert!(house.identity.session(&sessions[0].token).await.is_err(), "the oldest went");
    assert!(house.identity.session(&sessions[2].token).await.is_ok());

    let mut epoch = house.identity.epoch();
    epoch.mark_unchanged();
    house.identity.sign_out(&sessions[2].token).await.unwrap();
    assert!(epoch.has_changed().unwrap());
    assert!(house.identity.session(&sessions[2].token).await.is_err());
    house.identity.sign_out(&sessions[2].token).await.unwrap();
    house.identity.sign_out("never was").await.unwrap();
}

#[tokio::test]
async fn a_new_password_ends_other_sessions_and_the_old_password() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let kept = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    let other = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    let error = house.set_password(&admin, None, Some(PASSWORD), "too short").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let new = "another long password";
    house.set_password(&admin, Some(&kept.token), Some(PASSWORD), new).await.unwrap();
    assert!(house.identity.session(&kept.token).await.is_ok());
    assert!(house.identity.session(&other.token).await.is_err());
    assert!(house.sign_in("admin@localhost", PASSWORD).await.is_err());
    assert!(house.sign_in("admin@localhost", new).await.is_ok());

    let key = house.key(&admin, &[("*", "*")]).await;
    let holder = house.open_with(&key.mqtt_user, &key.mqtt_password).await.unwrap();
    let error = house.set_password(&holder, None, None, PASSWORD).await.unwrap_err();
    assert!(matches!(error, Error::NotAnAccount));
}

#[tokio::test]
async fn sign_up_is_closed_unless_it_is_opened() {
    let closed = house(Config { sign_up: SignUp::Closed, ..quick() }).await;
    let new = |email: &str, password: &str| NewAccount {
        email: email.into(),
        password: password.into(),
        organisation: Some("Yard".into()),
    };
    let error = closed.identity.sign_up(HERE, new("a@b.c", PASSWORD)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden);

    let open = house(Config { sign_ups_per_address_max: 3, accounts_max: 3, ..quick() }).await;
    open.identity.sign_up(HERE, new("a@b.c", PASSWORD)).await.unwrap();
    let one = open.sign_in("a@b.c", PASSWORD).await.unwrap().principal;
    open.identity.sign_up(HERE, new("A@B.C ", "another password")).await.unwrap();
    open.sign_in("a@b.c", "another password").await.unwrap_err();
    assert_eq!(open.sign_in("a@b.c", PASSWORD).await.unwrap().principal, one, "as it was");
    for (email, password) in [
        ("a@b.d", "short"),
        ("ab.d", PASSWORD),
        ("a@", PASSWORD),
        ("안녕@b.d", PASSWORD),
        ("a b@c.d", PASSWORD),
    ] {
        let error = open.identity.sign_up(HERE, new(email, password)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{email}");
    }
    open.identity.sign_up(HERE, new("b@b.c", PASSWORD)).await.unwrap();
    let two = open.sign_in("b@b.c", PASSWORD).await.unwrap().principal;
    assert_ne!(one.organisation, two.organisation);
    let error = open.identity.sign_up(HERE, new("c@b.c", PASSWORD)).await.unwrap_err();
    assert!(matches!(error, Error::Limit { what: "accounts", max: 3 }), "{error}");
    let profile = open.sign_in("b@b.c", PASSWORD).await.unwrap().principal;
    let profile = open.identity.profile(&profile).await.unwrap();
    assert_eq!(profile.organisation_name, "Yard");

    let few = house(Config { sign_ups_per_address_max: 1, ..quick() }).await;
    few.identity.sign_up(HERE, new("a@b.c", PASSWORD)).await.unwrap();
    let error = few.identity.sign_up(HERE, new("b@b.c", PASSWORD)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooMany);
}

#[tokio::test]
async fn a_key_opens_with_its_secret_only() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let key = house.key(&admin, &[("mqtt.publish", "mqtt/data/*")]).await;
    let other = house.key(&admin, &[("mqtt.publish", "*")]).await;
    assert_eq!(key.token, format!("madang_{}_{}", key.mqtt_user, key.mqtt_password));
    assert_eq!((key.mqtt_user.len(), key.mqtt_password.len()), (32, 43));

    let holder = house.open_with(&key.mqtt_user, &key.mqtt_password).await.unwrap();
    assert_eq!((holder.subject, &*holder.name), (Subject::Key(key.id), "roof"));
    let hyphenated = key.id.to_string();
    for (user, password) in [
        (&*key.mqtt_user, &*other.mqtt_password),
        (&other.mqtt_user, &key.mqtt_password),
        (&key.mqtt_user, ""),
        (&key.mqtt_user, &key.mqtt_password[1..]),
        (&key.mqtt_user, &"x".repeat(5_000)),
        ("", &key.mqtt_password),
        (&hyphenated, &key.mqtt_password),
        (&key_text(KeyId::fixed(7)), &key.mqtt_password),
        ("옥상옥상옥상옥상옥상옥", &key.mqtt_password),
    ] {
        let refused = house.open_with(user, password).await;
        assert_eq!(refused, Err(Refused::Unauthenticated), "{user}");
    }
    assert!(!format!("{key:?}").contains(&key.mqtt_password));
    let seen = house.audit(OrganisationId::DEFAULT).await;
    let denied: Vec<_> = seen.iter().filter(|entry| entry.outcome == "denied").collect();
    assert_eq!(denied.len(), 2, "of both keys, gathered: {denied:?}");
    assert!(denied.iter().all(|entry| entry.door == "mqtt" && entry.subject == "nobody"));
}

#[tokio::test]
async fn a_key_may_do_what_it_was_given_and_nothing_else() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let grants = [("devices.*", "device/roof-*"), ("lake.query", "*")];
    let key = house.key(&admin, &grants).await;
    let holder = house.open_with(&key.mqtt_user, &key.mqtt_password).await.unwrap();
    for (action, path, allowed) in [
        ("devices.write", "device/roof-1", true),
        ("devices.read", "device/roof-", true),
        ("devices.write", "device/cellar", false),
        ("devices.write", "*", false),
        ("devicesx.write", "device/roof-1", false),
        ("lake.query", "*", true),
        ("lake.queryx", "*", false),
        ("keys.write", "*", false),
    ] {
        assert_eq!(house.may(&holder, action, path), allowed, "{action} {path}");
    }
    assert!(house.may(&admin, "keys.write", "anything"));
    let seen = house.audit(OrganisationId::DEFAULT).await;
    assert!(seen.iter().any(|it| it.action == "keys.write" && it.outcome == "denied"));
}

#[tokio::test]
async fn a_key_is_never_given_more_than_its_maker_has() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let maker = house.key(&admin, &[("keys.write", "*"), ("devices.*", "device/a*")]).await;
    let maker = house.open_with(&maker.mqtt_user, &maker.mqtt_password).await.unwrap();
    for grant in [("devices.read", "device/ab"), ("devices.*", "device/a*"), ("keys.write", "*")] {
        house.key(&maker, &[grant]).await;
    }
    for grant in [
        ("*", "*"),
        ("devices.read", "*"),
        ("devices.read", "device/*"),
        ("devices.read", "device/b"),
        ("mqtt.publish", "device/a"),
        ("*", "device/a"),
        ("keys.*", "*"),
    ] {
        let error = house.try_key(&maker, &[("keys.write", "*"), grant]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{grant:?}");
    }
    for grant in [("*", "a*b"), ("De", "*"), ("*", "")] {
        let error = house.try_key(&admin, &[grant]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{grant:?}");
    }
    assert_eq!(house.try_key(&admin, &[]).await.unwrap_err().kind(), ErrorKind::Invalid);

    // A member gives less than an administrator.
    let member = house.join(&admin, "m@b.c", Role::Member).await;
    house.key(&member, &[("mqtt.publish", "mqtt/data/roof")]).await;
    assert!(house.try_key(&member, &[("keys.write", "*")]).await.is_err());
    let promoted = house.identity.invite(http(&member), "n@b.c", Role::Admin).await;
    assert!(matches!(promoted, Err(Error::GrantTooWide { .. })));
}

#[tokio::test]
async fn a_revoked_key_opens_nothing_and_open_doors_hear_of_it() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let stranger = house.stranger("x@y.z").await;
    let key = house.key(&admin, &[("*", "*")]).await;
    let holder = house.open_with(&key.mqtt_user, &key.mqtt_password).await.unwrap();
    let mut epoch = house.identity.epoch();
    epoch.mark_unchanged();

    let error = house.identity.revoke_key(http(&stranger), key.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "another organisation's key is not there");
    assert!(!epoch.has_changed().unwrap());
    assert!(house.identity.is_current(&holder));

    house.identity.revoke_key(http(&admin), key.id).await.unwrap();
    assert!(epoch.has_changed().unwrap(), "within the call");
    assert!(!house.identity.is_current(&holder));
    assert!(!house.may(&holder, "devices.read", "*"), "also where it is already in");
    let refused = house.open_with(&key.mqtt_user, &key.mqtt_password).await;
    assert_eq!(refused, Err(Refused::Unauthenticated));
    let again = house.identity.revoke_key(http(&admin), key.id).await;
    assert!(matches!(again, Err(Error::NoSuchKey)));
    let later = house.again(quick()).await;
    let refused = later.authenticate(Door::Http, &key.mqtt_user, &key.mqtt_password).await;
    assert_eq!(refused, Err(Refused::Unauthenticated), "after a restart too");
}

#[tokio::test]
async fn nobody_reaches_into_another_organisation() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let stranger = house.stranger("x@y.z").await;
    house.key(&stranger, &[("*", "*")]).await;
    let theirs = Resource { organisation: stranger.organisation, path: "device/a" };
    let system = Principal {
        organisation: admin.organisation,
        subject: Subject::System("sample"),
        name: "sample".into(),
    };
    let key = house.key(&admin, &[("*", "*")]).await;
    let key = house.open_with(&key.mqtt_user, &key.mqtt_password).await.unwrap();
    for principal in [&admin, &system, &key] {
        assert!(house.may(principal, "devices.read", "device/a"));
        let refused = house.identity.authorize(principal, Action("devices.read"), theirs);
        assert_eq!(refused, Err(Refused::Forbidden), "{principal:?}");
    }
    let denied = async |organisation| {
        let seen = house.audit(organisation).await;
        seen.iter().filter(|entry| entry.outcome == "denied").count()
    };
    assert_eq!(denied(admin.organisation).await, 3, "it is told to the organisation that tried");
    assert_eq!(denied(stranger.organisation).await, 0);

    for principal in [&admin, &key] {
        // Nor by saying so.
        let forged = Principal { organisation: stranger.organisation, ..principal.clone() };
        assert!(!house.may(&forged, "devices.read", "device/a"));
        assert!(!house.identity.is_current(&forged));
    }
    let keys = house.identity.keys(admin.organisation, &PageRequest::default()).await.unwrap();
    assert_eq!(keys.items.len(), 1);
}

#[tokio::test]
async fn keys_and_the_audit_log_are_listed_in_pages() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(house.key(&admin, &[("lake.query", "*"), ("devices.read", "*")]).await.id);
        house.base.clock.advance(Duration::from_secs(1));
    }
    let mut page = PageRequest { after: None, limit: 2 };
    let mut listed = Vec::new();
    loop {
        let part = house.identity.keys(admin.organisation, &page).await.unwrap();
        assert!(part.items.iter().all(|key| key.grants.len() == 2));
        listed.extend(part.items.iter().map(|key| key.id));
        page.after = part.next;
        if page.after.is_none() {
            break;
        }
    }
    assert_eq!(listed, made);

    let (all, page) = (Filter::default(), PageRequest { after: None, limit: 3 });
    let first = house.identity.audit(admin.organisation, &all, &page).await.unwrap();
    assert_eq!(first.items.len(), 3);
    assert!(first.items.iter().all(|entry| entry.action == "key.create"), "newest first");
    let rest = PageRequest { after: first.next, limit: 100 };
    let rest = house.identity.audit(admin.organisation, &Filter::default(), &rest).await.unwrap();
    let actions: Vec<_> = rest.items.iter().map(|entry| &*entry.action).collect();
    assert!(actions.contains(&"session.link") && actions.contains(&"account.set-password"));
    assert_eq!(rest.items.len(), 4, "{actions:?}");
}

#[tokio::test]
async fn the_servers_own_keys_go_on_over_restarts_up_to_a_limit() {
    let house = house(quick()).await;
    let config = Config { server_keys_max: 2, ..quick() };
    let new = || NewKey { label: "announced".into(), grants: vec![Grant::all()] };
    let admin = house.administrator().await;
    let same_label = NewKey { label: "announced".into(), grants: vec![Grant::all()] };
    let users = house.identity.create_key(http(&admin), same_label).await.unwrap();
    let mut keys = Vec::new();
    let mut last = house.identity.clone();
    for _ in 0..3 {
        last = house.again(config.clone()).await;
        keys.push(last.ensure_key(OrganisationId::DEFAULT, new()).await.unwrap());
        house.base.clock.advance(Duration::from_secs(1));
    }
    let mut opens = Vec::new();
    for key in &keys {
        let holder = last.authenticate(Door::Http, &key.mqtt_user, &key.mqtt_password).await;
        opens.push(holder.is_ok());
    }
    assert_eq!(opens, [false, true, true]);
    let holder = last.authenticate(Door::Http, &users.mqtt_user, &users.mqtt_password).await;
    assert!(holder.is_ok(), "a person's key of the same label is another");
}

#[tokio::test]
async fn a_restart_knows_everybody() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let session = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    let key = house.key(&admin, &[("lake.query", "*")]).await;
    let later = house.again(quick()).await;
    assert_eq!(later.session(&session.token).await, Ok(admin));
    let holder = later.authenticate(Door::Http, &key.mqtt_user, &key.mqtt_password).await.unwrap();
    let resource = Resource { organisation: holder.organisation, path: "*" };
    assert!(later.authorize(&holder, Action("lake.query"), resource).is_ok());
    assert!(later.authorize(&holder, Action("devices.read"), resource).is_err());
    assert_eq!(later.administrator_link().await.unwrap(), None);
}

#[tokio::test]
async fn refusals_are_gathered_bounded_and_counted() {
    let house = house(Config { denials_waiting_max: 2, denials_interval: DAY, ..quick() }).await;
    let admin = house.administrator().await;
    let key = house.key(&admin, &[("lake.query", "*")]).await;
    let holder = house.open_with(&key.mqtt_user, &key.mqtt_password).await.unwrap();
    for path in ["a", "a", "a", "b", "c"] {
        assert!(!house.may(&holder, "devices.read", path));
    }
    let metrics = house.base.metrics.text();
    assert!(metrics.contains("identity_denied_total 5\n"), "{metrics}");
    assert!(metrics.contains("identity_denials_dropped_total 1\n"), "{metrics}");
    let seen = house.audit(OrganisationId::DEFAULT).await;
    let denied = |path: &str| {
        let found = seen.iter().find(|it| it.outcome == "denied" && it.resource == path);
        found.map(|entry| entry.detail.clone())
    };
    assert_eq!(denied("a").as_deref(), Some("3 times"));
    assert_eq!(denied("b").as_deref(), Some("1 times"));
    assert_eq!(denied("c"), None);
}

#[tokio::test]
async fn the_last_refusals_are_written_at_shutdown() {
    let house = house(Config { denials_interval: DAY, ..quick() }).await;
    let admin = house.administrator().await;
    let key = house.key(&admin, &[("lake.query", "*")]).await;
    let holder = house.open_with(&key.mqtt_user, &key.mqtt_password).await.unwrap();
    assert!(!house.may(&holder, "devices.read", "a"));
    assert!(house.identity.0.base.tasks.stop(Duration::from_secs(10)).await);
    let page = PageRequest::default();
    let seen = house.again(quick()).await;
    let seen = seen.audit(OrganisationId::DEFAULT, &Filter::default(), &page).await.unwrap();
    assert!(seen.items.iter().any(|entry| entry.outcome == "denied"));
}

#[tokio::test]
async fn a_key_beyond_the_limit_is_refused() {
    let house = house(Config { keys_max: 1, ..quick() }).await;
    let admin = house.administrator().await;
    house.key(&admin, &[("*", "*")]).await;
    let error = house.try_key(&admin, &[("*", "*")]).await.unwrap_err();
    assert_eq!(error.to_string(), "there are 1 keys already, which is the most");
}

#[test]
fn wrong_configuration_is_named() {
    let config = Config { member_grants: vec![Grant::new("X", "*")], ..Config::default() };
    let error = config.check().unwrap_err().to_string();
    assert_eq!(error, "identity: member_grants: the grant names no action: X");
}

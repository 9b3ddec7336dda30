use std::collections::BTreeSet;

use base::AccountId;
use base::personal::Texts;

use super::entering::{Box_, with_mail};
use super::*;
use crate::{
    About, Edit, GroupChange, GroupsFilter, Members, NewGroup, NewPerson, PeopleFilter, Person,
    PersonChange,
};

fn named(email: &str) -> NewPerson {
    NewPerson {
        about: About {
            email: email.into(),
            user_name: Some(email.into()),
            name: Some("Mina Kim".into()),
            ..About::default()
        },
        role: Role::Member,
        is_suspended: false,
        password: Some(PASSWORD.into()),
    }
}

async fn add(house: &House, by: &Principal, new: NewPerson) -> Result<Person, Error> {
    house.identity.add_person((http(by), HERE), new).await
}

async fn change(
    house: &House,
    by: &Principal,
    id: AccountId,
    change: PersonChange,
) -> Result<Person, Error> {
    house.identity.change_person((http(by), HERE), id, change).await
}

fn suspended(is_suspended: bool) -> PersonChange {
    PersonChange { is_suspended: Some(is_suspended), ..PersonChange::default() }
}

fn roled(role: Role) -> PersonChange {
    PersonChange { role: Some(role), ..PersonChange::default() }
}

fn account(principal: &Principal) -> AccountId {
    match principal.subject {
        Subject::Account(id) => id,
        _ => panic!("not an account"),
    }
}

async fn listed(house: &House, by: &Principal, filter: PeopleFilter) -> Vec<String> {
    let page = PageRequest::default();
    let people = house.identity.people(by.organisation, &filter, &page).await.unwrap();
    people.items.into_iter().map(|person| person.about.email).collect()
}

#[tokio::test]
async fn who_is_suspended_comes_in_by_nothing_until_they_are_restored() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let mina = add(&house, &admin, named("mina@b.c")).await.unwrap();
    let cookie = house.sign_in("mina@b.c", PASSWORD).await.unwrap();
    let app = house.enter("mina@b.c", PASSWORD, Holds::Tokens).await.unwrap().session().unwrap();
    let principal = cookie.principal.clone();
    assert!(house.may(&principal, "devices.read", "*"));
    let epoch = house.identity.epoch();
    change(&house, &admin, mina.id, suspended(true)).await.unwrap();
    assert!(epoch.has_changed().unwrap(), "doors are told");
    assert!(!house.identity.is_current(&principal));
    assert!(!house.may(&principal, "devices.read", "*"));
    let sessions = &house.identity;
    assert_eq!(sessions.session(&cookie.token).await.unwrap_err(), Refused::Unauthenticated);
    assert!(matches!(sessions.refresh(&app.token).await, Err(Error::TokenInvalid)));
    for holds in [Holds::Cookie, Holds::Tokens, Holds::Bearer] {
        let entered = house.enter("mina@b.c", PASSWORD, holds).await;
        assert!(matches!(entered, Err(Error::SignInFailed)), "{holds:?}");
    }
    let again = house.again(quick()).await;
    assert!(!again.is_current(&principal), "also after a restart");
    change(&house, &admin, mina.id, suspended(false)).await.unwrap();
    assert!(house.may(&principal, "devices.read", "*"));
    assert!(house.sign_in("mina@b.c", PASSWORD).await.is_ok());
    assert!(house.identity.session(&cookie.token).await.is_err(), "what ended stays ended");
}

#[tokio::test]
async fn who_is_removed_leaves_nothing_personal_and_their_address_is_free() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let mina = add(&house, &admin, named("mina@b.c")).await.unwrap();
    let group = NewGroup { name: "Roofs".into(), members: vec![mina.id], ..NewGroup::default() };
    let group = house.identity.create_group(http(&admin), group).await.unwrap();
    house.sign_in("mina@b.c", PASSWORD).await.unwrap();
    house.identity.remove_person(http(&admin), mina.id, Texts::Keep).await.unwrap();
    let gone = house.identity.person(admin.organisation, mina.id).await;
    assert!(matches!(gone, Err(Error::NotThere("person"))));
    assert!(matches!(house.sign_in("mina@b.c", PASSWORD).await, Err(Error::SignInFailed)));
    assert!(house.identity.members(admin.organisation, group.id).is_empty());
    let rows = house.db.read(async |read| {
        let tables = ["account", "session", "ticket", "audit", "group_member", "invitation"];
        let mut all = Vec::new();
        for table in tables {
            all.extend(read.query(&format!("SELECT * FROM {table}"), &[]).await?);
        }
        Ok::<_, Error>(format!("{all:?}"))
    });
    let rows = rows.await.unwrap();
    assert!(!rows.contains("mina@b.c") && !rows.contains("Mina Kim"), "{rows}");
    let again = house.again(quick()).await;
    assert!(
        again
            .people(admin.organisation, &PeopleFilter::default(), &PageRequest::default())
            .await
            .unwrap()
            .items
            .iter()
            .all(|person| person.id != mina.id)
    );
    let next = add(&house, &admin, named("mina@b.c")).await.unwrap();
    assert_ne!(next.id, mina.id);
    let refused = house.identity.remove_person(http(&admin), mina.id, Texts::Keep).await;
    assert!(matches!(refused, Err(Error::NotThere("person"))));
}

#[tokio::test]
async fn an_organisation_is_never_left_without_an_administrator_who_may_come_in() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let id = account(&admin);
    for wanted in [suspended(true), roled(Role::Member), roled(Role::User)] {
        let refused = change(&house, &admin, id, wanted).await;
        assert!(matches!(refused, Err(Error::LastAdministrator)));
    }
    let refused = house.identity.remove_person(http(&admin), id, Texts::Keep).await;
    assert!(matches!(refused, Err(Error::LastAdministrator)));
    let second = house.join(&admin, "second@b.c", Role::Admin).await;
    change(&house, &admin, account(&second), suspended(true)).await.unwrap();
    let refused = change(&house, &admin, id, roled(Role::Member)).await;
    assert!(matches!(refused, Err(Error::LastAdministrator)), "the other cannot come in");
    change(&house, &admin, account(&second), suspended(false)).await.unwrap();
    // Both at once: one of the two stays.
    let (one, other) = tokio::join!(
        change(&house, &admin, account(&second), roled(Role::Member)),
        change(&house, &second, id, roled(Role::Member)),
    );
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
}

#[tokio::test]
async fn nobody_changes_or_makes_somebody_who_may_do_more_than_they() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let member = house.join(&admin, "member@b.c", Role::Member).await;
    let key = house.key(&admin, &[("accounts.*", "*")]).await;
    let weak = house.identity.authenticate(Door::Http, &key.mqtt_user, &key.mqtt_password);
    let weak = weak.await.unwrap();
    for target in [account(&admin), account(&member)] {
        let about = About { email: "thief@b.c".into(), ..About::default() };
        let changes = [
            suspended(true),
            roled(Role::User),
            PersonChange { about: Some(about), ..PersonChange::default() },
            PersonChange { password: Edit::Set(PASSWORD.into()), ..PersonChange::default() },
        ];
        for wanted in changes {
            let refused = change(&house, &weak, target, wanted).await;
            assert!(matches!(refused, Err(Error::PersonAbove)));
        }
        let refused = house.identity.remove_person(http(&weak), target, Texts::Keep).await;
        assert!(matches!(refused, Err(Error::PersonAbove)));
    }
    for role in [Role::Admin, Role::Member] {
        let refused = add(&house, &weak, NewPerson { role, ..named("new@b.c") }).await;
        assert!(matches!(refused, Err(Error::GrantTooWide { .. })));
    }
    // What one enters by is changed where the password is asked for.
    let own = PersonChange { password: Edit::Set(PASSWORD.into()), ..PersonChange::default() };
    let refused = change(&house, &admin, account(&admin), own).await;
    assert!(matches!(refused, Err(Error::CurrentPassword)));
    // Others' people are not there at all.
    let stranger = house.stranger("stranger@b.c").await;
    for target in [account(&admin), account(&member)] {
        let refused = change(&house, &stranger, target, suspended(true)).await;
        assert!(matches!(refused, Err(Error::NotThere("person"))));
        let seen = house.identity.person(stranger.organisation, target).await;
        assert!(matches!(seen, Err(Error::NotThere("person"))));
    }
    let all = listed(&house, &stranger, PeopleFilter::default()).await;
    assert_eq!(all, ["stranger@b.c"]);
}

#[tokio::test]
async fn a_group_s_grants_are_those_of_everybody_in_it_and_nobody_gives_more_than_they_have() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let mina = house.join(&admin, "mina@b.c", Role::Member).await;
    let (id, organisation) = (account(&mina), admin.organisation);
    let grants = vec![Grant::new("audit.read", "*"), Grant::new("keys.*", "key/7*")];
    let new = NewGroup { name: "Auditors".into(), grants, members: vec![id], ..Default::default() };
    let group = house.identity.create_group(http(&admin), new.clone()).await.unwrap();
    assert_eq!(group.members, 1);
    assert!(house.may(&mina, "audit.read", "x") && house.may(&mina, "keys.write", "key/77"));
    assert!(house.may(&mina, "devices.read", "*"), "and what the role says");
    assert!(!house.may(&mina, "keys.write", "key/8"));
    let taken = house.identity.create_group(http(&admin), new).await;
    assert!(matches!(taken, Err(Error::NameTaken("group"))));
    let again = house.again(quick()).await;
    let resource = Resource { organisation, path: "x" };
    assert!(again.authorize(&mina, Action("audit.read"), resource).is_ok(), "after a restart");
    let changed = async |change: GroupChange, by: &Principal| {
        house.identity.change_group(http(by), group.id, change).await
    };
    let only = |grants: Vec<Grant>| GroupChange { grants: Some(grants), ..Default::default() };
    changed(only(vec![Grant::new("audit.read", "*")]), &admin).await.unwrap();
    assert!(house.may(&mina, "audit.read", "x") && !house.may(&mina, "keys.write", "key/77"));
    // Mina may write accounts now, and still gives nothing that she has not.
    changed(only(vec![Grant::new("accounts.*", "*")]), &admin).await.unwrap();
    for wide in [Grant::all(), Grant::new("audit.read", "*")] {
        let refused = changed(only(vec![wide]), &mina).await;
        assert!(matches!(refused, Err(Error::GrantTooWide { .. })));
    }
    let out = Members::Change { add: vec![], remove: vec![id] };
    let out = GroupChange { members: Some(out), ..Default::default() };
    changed(out, &admin).await.unwrap();
    assert!(!house.may(&mina, "accounts.read", "*"));
    let stale = GroupChange { version: Some(0), name: Some("x".into()), ..Default::default() };
    assert!(matches!(changed(stale, &admin).await, Err(Error::Changed)));
    let stranger = house.stranger("stranger@b.c").await;
    let are = Members::Are(vec![account(&stranger)]);
    let foreign = GroupChange { members: Some(are), ..Default::default() };
    assert!(matches!(changed(foreign, &admin).await, Err(Error::NotThere("person"))));
    let filter = GroupsFilter::default();
    let page = PageRequest::default();
    let seen = house.identity.groups(stranger.organisation, &filter, &page).await.unwrap();
    assert!(seen.items.is_empty());
    let are = GroupChange { members: Some(Members::Are(vec![id])), ..Default::default() };
    changed(are, &admin).await.unwrap();
    house.identity.remove_group(http(&admin), group.id).await.unwrap();
    assert!(!house.may(&mina, "accounts.read", "*"));
    assert!(house.identity.members(organisation, group.id).is_empty());
}

#[tokio::test]
async fn people_are_found_by_what_directories_and_administrators_know_of_them() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    for (email, user_name) in [("mina@b.c", "MINA@dir"), ("joon@b.c", "joon@dir")] {
        let mut new = named(email);
        new.about.user_name = Some(user_name.into());
        new.about.outside_id = Some(format!("out-{email}"));
        add(&house, &admin, new).await.unwrap();
    }
    let of = async |filter: PeopleFilter| listed(&house, &admin, filter).await;
    let all = PeopleFilter::default;
    let mina = vec!["mina@b.c".to_owned()];
    assert_eq!(of(PeopleFilter { user_name: Some("Mina@DIR".into()), ..all() }).await, mina);
    assert_eq!(of(PeopleFilter { email: Some("MINA@b.c".into()), ..all() }).await, mina);
    assert_eq!(of(PeopleFilter { email_begins: Some("mi".into()), ..all() }).await, mina);
    assert_eq!(of(PeopleFilter { outside_id: Some("out-mina@b.c".into()), ..all() }).await, mina);
    // Who came by hand is known by their address.
    let by_hand = PeopleFilter { user_name: Some("admin@localhost".into()), ..all() };
    assert_eq!(of(by_hand).await, ["admin@localhost"]);
    let nobody = PeopleFilter { user_name: Some("mina@b.c".into()), ..all() };
    assert!(of(nobody).await.is_empty(), "the directory calls her something else");
    let mut twice = named("other@b.c");
    twice.about.user_name = Some("mina@DIR".into());
    assert!(matches!(add(&house, &admin, twice).await, Err(Error::NameTaken("person"))));
    assert!(matches!(add(&house, &admin, named("joon@b.c")).await, Err(Error::AccountExists)));
    let (some, count) = house.identity.people_at(admin.organisation, &all(), (1, 1)).await.unwrap();
    assert_eq!((some.len(), count), (1, 3));
    let page = PageRequest { after: None, limit: 2 };
    let first = house.identity.people(admin.organisation, &all(), &page).await.unwrap();
    let page = PageRequest { after: first.next, limit: 2 };
    let rest = house.identity.people(admin.organisation, &all(), &page).await.unwrap();
    let ids: BTreeSet<_> = first.items.iter().chain(&rest.items).map(|it| it.id).collect();
    assert_eq!((ids.len(), rest.next), (3, None));
}

/// The token of the next letter to somebody that leads to a page.
async fn token(mails: &Box_, to: &str, page: &str) -> String {
    loop {
        let (letter, token) = mails.next().await;
        if letter.to == to && letter.body.contains(&format!("/#/{page}?token=")) {
            return token;
        }
    }
}

#[tokio::test]
async fn whoever_gives_somebody_another_address_takes_no_second_factor_off() {
    let (house, mails) = with_mail(quick()).await;
    let admin = house.administrator().await;
    let mina = add(&house, &admin, named("mina@b.c")).await.unwrap();
    house.identity.mail_link(HERE, "mina@b.c").unwrap();
    let link = token(&mails, "mina@b.c", "link").await;
    let session = house.redeem(&link).await.unwrap();
    house.set_password(&session.principal, None, None, PASSWORD).await.unwrap();
    house.codes_on(&session.principal).await;
    let about = About { email: "other@b.c".into(), ..mina.about };
    let readdress = PersonChange { about: Some(about), ..PersonChange::default() };
    let person = change(&house, &admin, mina.id, readdress).await.unwrap();
    assert!(!person.is_verified);
    house.identity.mail_link(HERE, "other@b.c").unwrap();
    let link = token(&mails, "other@b.c", "link").await;
    let entered = house.identity.redeem_link(&HERE.into(), &link, Holds::Cookie).await.unwrap();
    assert!(matches!(entered, crate::Entered::Second(_)), "whoever reads the mail alone is not in");
    let entered = house.enter("other@b.c", PASSWORD, Holds::Cookie).await.unwrap();
    assert!(matches!(entered, crate::Entered::Second(_)), "the password is as it was");
    assert!(house.identity.person(admin.organisation, mina.id).await.unwrap().is_verified);
}

#[tokio::test]
async fn who_is_not_verified_may_nothing_that_they_will_not_be_allowed() {
    let (house, _mails) = with_mail(quick()).await;
    let admin = house.administrator().await;
    for (role, email, may) in [(Role::Member, "member@b.c", true), (Role::User, "user@b.c", false)]
    {
        add(&house, &admin, NewPerson { role, ..named(email) }).await.unwrap();
        let principal = house.sign_in(email, PASSWORD).await.unwrap().principal;
        assert_eq!(house.may(&principal, "devices.read", "*"), may, "{email}");
        assert!(!house.may(&principal, "articles.write", "*"), "not yet");
    }
}

/// A client that goes away takes its request with it, but not what was begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_asker_went_away_is_known_to_memory_all_the_same() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let mina = add(&house, &admin, named("mina@b.c")).await.unwrap();
    let principal = house.sign_in("mina@b.c", PASSWORD).await.unwrap().principal;
    let asked = change(&house, &admin, mina.id, suspended(true));
    // Long enough for the task to begin, and no longer.
    drop(tokio::time::timeout(Duration::from_micros(1), asked).await);
    for _ in 0..500 {
        if !house.identity.is_current(&principal) {
            break;
        }
        house.base.clock.sleep(Duration::from_millis(20)).await;
    }
    let stored = house.identity.person(admin.organisation, mina.id).await.unwrap();
    assert_eq!(stored.suspended.is_some(), !house.identity.is_current(&principal));
    assert!(stored.suspended.is_some(), "it had begun");
    // Asked once more it finds all done, and memory is right.
    change(&house, &admin, mina.id, suspended(true)).await.unwrap();
    assert!(!house.identity.is_current(&principal));
}

#[tokio::test]
async fn the_link_of_a_start_is_an_administrator_s_who_may_come_in() {
    let house = house(quick()).await;
    let link = house.identity.administrator_link().await.unwrap().unwrap();
    let first = house.redeem(&link).await.unwrap().principal;
    let second = NewPerson { role: Role::Admin, password: None, ..named("second@b.c") };
    let second = add(&house, &first, second).await.unwrap();
    house.identity.remove_person(http(&first), account(&first), Texts::Keep).await.unwrap();
    let link = house.identity.administrator_link().await.unwrap().unwrap();
    assert_eq!(account(&house.redeem(&link).await.unwrap().principal), second.id);
}

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::AccountId;
use base::access::Subject;
use base::personal::{Someone, Texts};
use parking_lot::Mutex;
use relational::{Tx, params};

use super::*;
use crate::Farewell;

/// Hears who goes, and can be unwilling.
#[derive(Default)]
struct Rooms {
    told: Mutex<Vec<(Someone, Texts)>>,
    is_full: AtomicBool,
}

impl Farewell for Rooms {
    fn forget<'a>(
        &'a self,
        _tx: &'a mut Tx,
        who: &'a Someone,
        texts: Texts,
    ) -> Pin<Box<dyn Future<Output = Result<(), relational::Error>> + 'a>> {
        Box::pin(async move {
            if self.is_full.load(Ordering::Relaxed) {
                return Err(relational::Error::CommandsFull { length: 1 });
            }
            self.told.lock().push((who.clone(), texts));
            Ok(())
        })
    }
}

fn account(principal: &Principal) -> AccountId {
    match principal.subject {
        Subject::Account(id) => id,
        other => panic!("{other:?} is no account"),
    }
}

async fn with_rooms() -> (House, Arc<Rooms>) {
    let rooms = Arc::new(Rooms::default());
    let needs = Needs { farewell: Some(rooms.clone()), ..Needs::default() };
    (house_with(quick(), needs).await, rooms)
}

fn listed(house: &House) -> Vec<String> {
    let text = std::fs::read_to_string(house.dir.path().join("removed")).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[tokio::test]
async fn rooms_are_told_in_the_commit_that_removes_somebody_or_nobody_goes() {
    let (house, rooms) = with_rooms().await;
    let admin = house.administrator().await;
    let mina = house.join(&admin, "mina@b.c", Role::Member).await;
    let id = account(&mina);
    rooms.is_full.store(true, Ordering::Relaxed);
    let refused = house.identity.remove_person(http(&admin), id, Texts::Erase).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::TooMany);
    assert!(house.sign_in("mina@b.c", PASSWORD).await.is_ok());
    assert_eq!(listed(&house), Vec::<String>::new());
    rooms.is_full.store(false, Ordering::Relaxed);
    house.identity.remove_person(http(&admin), id, Texts::Erase).await.unwrap();
    let who = Someone {
        organisation: admin.organisation,
        account: id,
        email: "mina@b.c".into(),
        is_verified: false,
    };
    assert_eq!(*rooms.told.lock(), [(who, Texts::Erase)]);
    let listed = listed(&house);
    assert_eq!(listed.len(), 1);
    assert!(listed[0].starts_with(&id.to_string()) && listed[0].ends_with(" erase"), "{listed:?}");
    assert!(!listed[0].contains("mina"));
}

#[tokio::test]
async fn who_comes_back_with_the_rows_of_a_backup_is_removed_again() {
    let (house, rooms) = with_rooms().await;
    let admin = house.administrator().await;
    let mina = account(&house.join(&admin, "mina@b.c", Role::Member).await);
    let jun = account(&house.join(&admin, "jun@b.c", Role::Member).await);
    house.identity.remove_person(http(&admin), mina, Texts::Erase).await.unwrap();
    let restored = house.db.write(async move |tx: &mut Tx| {
        let sql =
            "UPDATE account SET removed = NULL, suspended = NULL, email = 'mina@b.c' WHERE id = ?";
        tx.execute(sql, params![mina]).await?;
        Ok::<_, Error>(())
    });
    restored.await.unwrap();
    let again = house.again_with(Needs { farewell: Some(rooms.clone()), ..Needs::default() }).await;
    assert!(again.person(admin.organisation, mina).await.is_ok(), "the rows say so");
    rooms.told.lock().clear();
    assert_eq!(again.remove_again().await.unwrap(), 1);
    assert!(matches!(again.person(admin.organisation, mina).await, Err(Error::NotThere(_))));
    assert!(again.person(admin.organisation, jun).await.is_ok());
    let told = rooms.told.lock().clone();
    assert_eq!((told[0].0.account, &*told[0].0.email, told[0].1), (mina, "mina@b.c", Texts::Erase));
    assert_eq!(again.remove_again().await.unwrap(), 0, "once");
}

#[tokio::test]
async fn a_list_that_was_lost_is_made_again_from_the_rows() {
    let (house, _) = with_rooms().await;
    let admin = house.administrator().await;
    let mina = account(&house.join(&admin, "mina@b.c", Role::Member).await);
    house.identity.remove_person(http(&admin), mina, Texts::Keep).await.unwrap();
    let before = listed(&house);
    std::fs::remove_file(house.dir.path().join("removed")).unwrap();
    let again = house.again(quick()).await;
    again.remove_again().await.unwrap();
    assert_eq!(listed(&house), before);
}

#[tokio::test]
async fn one_goes_by_the_password_and_not_as_the_last_administrator() {
    let (house, _) = with_rooms().await;
    let admin = house.administrator().await;
    let mina = house.join(&admin, "mina@b.c", Role::Member).await;
    let leave = async |who: &Principal, password: Option<&str>| {
        house.identity.leave((http(who), HERE), password, Texts::Keep).await
    };
    assert!(matches!(leave(&mina, None).await, Err(Error::CurrentPassword)));
    assert!(leave(&mina, Some("another battery")).await.is_err());
    assert!(house.sign_in("mina@b.c", PASSWORD).await.is_ok());
    leave(&mina, Some(PASSWORD)).await.unwrap();
    assert!(matches!(house.sign_in("mina@b.c", PASSWORD).await, Err(Error::SignInFailed)));
    let last = leave(&admin, Some(PASSWORD)).await;
    assert!(matches!(last, Err(Error::LastAdministrator)));
}

#[tokio::test]
async fn what_is_kept_is_told_without_what_opens_a_door() {
    let (house, _) = with_rooms().await;
    let admin = house.administrator().await;
    let mina = house.join(&admin, "mina@b.c", Role::Admin).await;
    house.key(&mina, &[("devices.read", "*")]).await;
    let who = house.identity.someone_below(http(&admin), account(&mina)).unwrap();
    let (mut lines, mut after) = (Vec::new(), None);
    loop {
        let told = house.identity.told(&who, after).await.unwrap();
        lines.extend(told.lines);
        after = told.next;
        if after.is_none() {
            break;
        }
    }
    let all = lines.join("\n");
    for kind in ["account", "session", "key", "audit"] {
        assert!(all.contains(&format!("\"kind\":\"{kind}\"")), "{kind} is missing in {all}");
    }
    assert!(all.contains("mina@b.c") && all.contains("key.create"), "{all}");
    assert!(!all.contains("hash") && !all.contains("argon2"), "{all}");
    let weak = house.join(&admin, "weak@b.c", Role::Member).await;
    let refused = house.identity.someone_below(http(&weak), account(&mina));
    assert!(matches!(refused, Err(Error::PersonAbove)));
}

#[tokio::test]
async fn who_made_an_organisation_for_themselves_may_leave_it_empty() {
    let (house, _) = with_rooms().await;
    let founder = house.stranger("founder@b.c").await;
    let partner = house.join(&founder, "partner@b.c", Role::Member).await;
    let key = house.key(&founder, &[("devices.read", "*")]).await;
    let waiting = house.identity.invite(http(&founder), "late@b.c", Role::Admin).await.unwrap();
    let waiting = waiting.link.unwrap();
    let leave = async |who: &Principal| {
        house.identity.leave((http(who), HERE), Some(PASSWORD), Texts::Keep).await
    };
    let last = leave(&founder).await;
    assert!(matches!(last, Err(Error::LastAdministrator)), "somebody would be left behind");
    leave(&partner).await.unwrap();
    leave(&founder).await.unwrap();
    let open = house.open_with(&key.mqtt_user, &key.mqtt_password).await;
    assert!(open.is_err(), "nothing acts for it any more");
    let accepted = house.identity.accept(&HERE.into(), &waiting, PASSWORD).await;
    assert!(accepted.is_err(), "nobody comes into it any more");
    house.stranger("founder@b.c").await;
}

#[tokio::test]
async fn a_backup_of_when_another_was_the_only_administrator_can_be_entered() {
    let (house, _) = with_rooms().await;
    let admin = house.administrator().await;
    let second = house.join(&admin, "second@b.c", Role::Admin).await;
    house.identity.remove_person(http(&second), account(&admin), Texts::Keep).await.unwrap();
    let restored = house.db.write(async move |tx: &mut Tx| {
        let sql =
            "UPDATE account SET removed = NULL, suspended = NULL, email = 'admin@b.c' WHERE id = ?";
        tx.execute(sql, params![account(&admin)]).await?;
        for table in ["session", "ticket", "account"] {
            let column = if table == "account" { "id" } else { "account" };
            let sql = format!("DELETE FROM {table} WHERE {column} = ?");
            tx.execute(&sql, params![account(&second)]).await?;
        }
        Ok::<_, Error>(())
    });
    restored.await.unwrap();
    let again = house.again(quick()).await;
    assert_eq!(again.remove_again().await.unwrap(), 1);
    assert!(again.administrator_link().await.unwrap().is_some(), "there is a way in");
}

#[tokio::test]
async fn what_was_written_while_somebody_was_removed_is_taken_away() {
    let (house, _) = with_rooms().await;
    let admin = house.administrator().await;
    let mina = account(&house.join(&admin, "mina@b.c", Role::Member).await);
    let who = house.identity.someone(admin.organisation, mina).unwrap();
    house.identity.remove_person(http(&admin), mina, Texts::Keep).await.unwrap();
    let late = who.clone();
    let written = house.db.write(async move |tx: &mut Tx| {
        let sql = "UPDATE account SET email = 'new@b.c', password_hash = 'x' WHERE id = ?";
        tx.execute(sql, params![late.account]).await?;
        Identity::forget(tx, &late).await
    });
    written.await.unwrap();
    let next = house.join(&admin, "new@b.c", Role::Member).await;
    let who = house.identity.someone(admin.organisation, account(&next)).unwrap();
    // Nobody who is there is forgotten by it.
    house.db.write(async move |tx: &mut Tx| Identity::forget(tx, &who).await).await.unwrap();
    assert!(house.sign_in("new@b.c", PASSWORD).await.is_ok());
}

#[tokio::test]
async fn who_has_the_first_administrators_address_by_now_is_not_made_one() {
    let (house, _) = with_rooms().await;
    let admin = house.administrator().await;
    let second = house.join(&admin, "second@b.c", Role::Admin).await;
    house.identity.remove_person(http(&second), account(&admin), Texts::Keep).await.unwrap();
    let user = house.join(&second, &quick().administrator_email, Role::User).await;
    let gone = house.db.write(async move |tx: &mut Tx| {
        let sql = "UPDATE account SET role = 'user' WHERE id = ?";
        tx.execute(sql, params![account(&second)]).await?;
        Ok::<_, Error>(())
    });
    gone.await.unwrap();
    let again = house.again(quick()).await;
    again.remove_again().await.unwrap();
    assert!(again.administrator_link().await.unwrap().is_some(), "there is a way in");
    let person = again.person(admin.organisation, account(&user)).await.unwrap();
    assert_eq!(person.role, Role::User);
}

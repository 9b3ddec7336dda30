use relational::{Tx, params};

use super::*;
use crate::{NewUser, UserChange};

fn new(email: &str) -> NewUser {
    let (email, password) = (email.to_owned(), "eight888".to_owned());
    NewUser { organisation: OrganisationId::DEFAULT, email, password, is_counted: true }
}

/// Makes an account with nothing of a feature beside it.
async fn join(house: &House, email: &str) -> Result<NewSession, Error> {
    let nothing = async |_: &mut Tx, _| Ok::<_, Error>(());
    house.identity.join(&HERE.into(), new(email), nothing).await
}

async fn holder(house: &House, session: &NewSession) -> Result<Principal, Refused> {
    let text = session.access.as_ref().unwrap().text.clone();
    let (id, secret) = text.strip_prefix("madang_").unwrap().split_once('_').unwrap();
    house.identity.authenticate(Door::Http, id, secret).await
}

async fn accounts(house: &House) -> i64 {
    let count = house.db.read(async |read| {
        let row = read.query_one("SELECT COUNT(*) AS count FROM account", params![]).await?;
        row.get::<i64>("count")
    });
    count.await.unwrap()
}

#[tokio::test]
async fn a_user_may_what_users_may_and_their_text_lasts_for_days() {
    let house = house(quick()).await;
    let session = join(&house, "mina@b.c").await.unwrap();
    let mina = holder(&house, &session).await.unwrap();
    assert_eq!((mina.organisation, &*mina.name), (OrganisationId::DEFAULT, "mina@b.c"));
    assert!(house.may(&mina, "articles.write", "*"));
    for action in ["devices.read", "articles.moderate", "keys.write", "accounts.write"] {
        assert!(!house.may(&mina, action, "*"), "{action}");
    }
    assert_eq!(session.token, "", "there is nothing to exchange");
    house.base.clock.advance(29 * DAY);
    holder(&house, &session).await.unwrap();
    house.base.clock.advance(2 * DAY);
    assert_eq!(holder(&house, &session).await.unwrap_err(), Refused::Unauthenticated);
    assert!(
        house.audit(OrganisationId::DEFAULT).await.iter().any(|it| it.action == "account.join")
    );
}

#[tokio::test]
async fn what_the_feature_refuses_leaves_no_account_and_an_address_has_one() {
    let house = house(quick()).await;
    let before = accounts(&house).await;
    let refuse = async |tx: &mut Tx, account| {
        // It sees the account that is being made.
        tx.query_one("SELECT id FROM account WHERE id = ?", params![account]).await?;
        Err::<(), Error>(Error::Name("is taken"))
    };
    let refused = house.identity.join(&HERE.into(), new("mina@b.c"), refuse).await;
    assert!(matches!(refused, Err(Error::Name(_))));
    assert_eq!(accounts(&house).await, before);
    join(&house, "mina@b.c").await.unwrap();
    assert!(matches!(join(&house, "Mina@b.c").await, Err(Error::AccountExists)));
    assert_eq!(accounts(&house).await, before + 1);
    let short = NewUser { password: "seven77".into(), ..new("joon@b.c") };
    let nothing = async |_: &mut Tx, _| Ok::<_, Error>(());
    let refused = house.identity.join(&HERE.into(), short, nothing).await;
    assert!(matches!(refused, Err(Error::Password(_))));
    // The official clients of the interface that users come by enter with such a one.
    let usual = NewUser { password: "password123".into(), ..new("bora@b.c") };
    assert!(house.identity.join(&HERE.into(), usual, nothing).await.is_ok());
}

#[tokio::test]
async fn a_user_changes_their_address_and_password_and_nobody_else_does_so() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let first = join(&house, "mina@b.c").await.unwrap();
    let second = house.enter("mina@b.c", "eight888", Holds::Bearer).await.unwrap();
    let second = second.session().unwrap();
    join(&house, "joon@b.c").await.unwrap();
    let change = async |principal: &Principal, email: Option<&str>, password: Option<&str>| {
        let (email, password) = (email.map(str::to_owned), password.map(str::to_owned));
        let nothing = async |_: &mut Tx| Ok::<_, Error>(());
        let change = UserChange { email, password };
        house.identity.change_user(http(principal), Some(first.id), change, nothing).await
    };
    let mina = &first.principal;
    assert!(matches!(change(mina, Some("joon@b.c"), None).await, Err(Error::AccountExists)));
    let renamed = change(mina, Some("MinSeo@b.c"), None).await.unwrap();
    assert_eq!(&*renamed.name, "minseo@b.c");
    holder(&house, &second).await.unwrap();
    change(mina, None, Some("another password")).await.unwrap();
    holder(&house, &first).await.unwrap();
    assert_eq!(holder(&house, &second).await.unwrap_err(), Refused::Unauthenticated);
    assert!(house.enter("minseo@b.c", "another password", Holds::Bearer).await.is_ok());
    for (email, password) in [("mina@b.c", "another password"), ("minseo@b.c", "eight888")] {
        assert!(house.enter(email, password, Holds::Bearer).await.is_err());
    }
    for (email, password) in [(Some("root@b.c"), None), (None, Some("another password"))] {
        assert!(matches!(change(&admin, email, password).await, Err(Error::NotAUser)));
    }
    change(&admin, Some("admin@localhost"), None).await.unwrap();
}

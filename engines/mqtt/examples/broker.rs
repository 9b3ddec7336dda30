//! A broker to try clients on by hand: `cargo run -p mqtt --example broker -- 18830`, then
//! `mosquitto_sub -p 18830 -u key -P secret -t '#' -v`. One key, everything allowed, rows in a folder of its own.

use std::pin::Pin;
use std::sync::Arc;

use base::access::{Action, Authority, Door, Principal, Refused, Resource, Subject};
use base::{Base, Failure, KeyId, OrganisationId};
use futures::FutureExt;
use futures::future::BoxFuture;
use mqtt::{Accepted, Config, Intake, Message, Mqtt};
use tokio::net::TcpListener;
use tokio::sync::watch;

struct OneKey(watch::Sender<u64>);

impl Authority for OneKey {
    fn authenticate<'a>(
        &'a self,
        _: Door,
        key: &'a str,
        secret: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Principal, Refused>> + Send + 'a>> {
        let subject = Subject::Key(KeyId::fixed(1));
        let principal =
            Principal { organisation: OrganisationId::DEFAULT, subject, name: "key".into() };
        let is_right = (key, secret) == ("key", "secret");
        Box::pin(async move { is_right.then_some(principal).ok_or(Refused::Unauthenticated) })
    }

    fn authorize(&self, _: &Principal, _: Action, _: Resource<'_>) -> Result<(), Refused> {
        Ok(())
    }

    fn epoch(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    fn is_current(&self, _: &Principal) -> bool {
        true
    }
}

struct Nobody;

impl Intake for Nobody {
    fn accept<'a>(&'a self, _: &'a Principal, _: &'a Message) -> BoxFuture<'a, Accepted> {
        async { Accepted::NotMine }.boxed()
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "1883".to_owned()).parse::<u16>()?;
    let folder = tempfile::tempdir()?;
    let base = Base::system();
    let rows = relational::Config { path: folder.path().join("rows.db"), ..Default::default() };
    let db = relational::Db::open(rows, &base).await?;
    let authority = Arc::new(OneKey(watch::Sender::new(1)));
    let mqtt = Mqtt::open(Config::default(), &base, db, authority, Arc::new(Nobody)).await?;
    mqtt.serve(TcpListener::bind(("127.0.0.1", port)).await?).await?;
    Ok(())
}

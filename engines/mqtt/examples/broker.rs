//! A broker to try clients on by hand: `cargo run -p mqtt --example broker -- 18830`, then
//! `mosquitto_sub -p 18830 -u key -P secret -t '#' -v`. Any key, everything allowed, rows in a folder of its own.

use std::sync::Arc;

use base::access::Principal;
use base::{Base, Failure};
use futures::FutureExt;
use futures::future::BoxFuture;
use mqtt::{Accepted, Config, Intake, Message, Mqtt};
use testkit::Anybody;
use tokio::net::TcpListener;

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
    let authority = Arc::new(Anybody::default());
    let mqtt = Mqtt::open(Config::default(), &base, db, authority, Arc::new(Nobody)).await?;
    mqtt.serve(TcpListener::bind(("127.0.0.1", port)).await?, None).await?;
    Ok(())
}

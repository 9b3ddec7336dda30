//! The HTTP operations over engines, and all operations together. Those of a feature stand in the feature.

mod accounts;
mod audit;
mod console;
mod dead_letters;
mod endpoints;
mod health;
mod jobs;
mod keys;
mod kv;
mod messages;
mod mqtt;
mod oidc;
mod overview;
mod passkeys;
mod people;
mod providers;
mod scim;
mod session;
mod sockets;
mod sql;

use std::sync::Arc;

use ::jobs::Jobs;
use ::kv::Kv;
use ::mqtt::Mqtt;
use ::sockets::Sockets;
use anyhow::Result;
use articles::Articles;
use base::access::Authority;
use base::{Base, Tasks};
use certificates::Certificates;
use comments::Comments;
use delivery::Delivery;
use devices::Devices;
use edge::{Gate, Info, Router, Routes, Sessions};
use identity::Identity;
use lake::Lake;
use relational::Db;

use crate::adapters::KeyedRequests;
use crate::persons::Persons;
use crate::wiring::{Added, Bases, Ground};

/// What the operations reach.
#[derive(Clone)]
pub(crate) struct Doors {
    pub(crate) base: Base,
    /// Where handlers run.
    pub(crate) handlers: Tasks,
    pub(crate) started: base::Timestamp,
    /// Nothing while no door is open, as when only the document is made.
    pub(crate) mqtt_address: Option<std::net::SocketAddr>,
    pub(crate) db: Db,
    pub(crate) identity: Identity,
    pub(crate) lake: Lake,
    pub(crate) delivery: Delivery,
    pub(crate) jobs: Jobs,
    pub(crate) persons: Arc<Persons>,
    pub(crate) comments: Comments,
    pub(crate) devices: Devices,
    pub(crate) articles: Articles,
    pub(crate) sockets: Sockets,
    pub(crate) mqtt: Mqtt,
    pub(crate) kv: Kv,
    /// Nothing where the certificate is from files, or there is none.
    pub(crate) certificates: Option<Certificates>,
    /// The room of a development tool.
    pub(crate) added: Option<(Added, Ground)>,
}

const INFO: Info = Info {
    title: "Madang",
    version: env!("CARGO_PKG_VERSION"),
    description: "The backend of a product company in one binary. Errors are RFC 9457 problems; lists are pages by cursor.",
};

impl Doors {
    fn routes(&self) -> Routes<Doors> {
        let routes = Routes::new(self.clone())
            .join(session::routes(self))
            .join(accounts::routes(self))
            .join(people::routes(self))
            .join(scim::routes(self))
            .join(passkeys::routes(self))
            .join(providers::routes(self))
            .join(oidc::routes(self))
            .join(keys::routes(self))
            .join(audit::routes(self))
            .join(self.devices.routes())
            .join(self.articles.routes())
            .join(self.comments.routes())
            .join(overview::routes(self))
            .join(sql::routes(self))
            .join(messages::routes(self))
            .join(endpoints::routes(self))
            .join(sockets::routes(self))
            .join(mqtt::routes(self))
            .join(kv::routes(self))
            .join(dead_letters::routes(self))
            .join(jobs::routes(self))
            .join(health::routes(self));
        match &self.added {
            Some((added, ground)) => routes.join(added(ground.clone())),
            None => routes,
        }
    }

    /// Everything that the HTTP port answers.
    pub(crate) fn router(
        &self,
        authority: Arc<dyn Authority>,
        sessions: Arc<dyn Sessions>,
        config: edge::Config,
    ) -> Router {
        let claims = Arc::new(KeyedRequests(relational::Claims::new(&self.db)));
        let (base, handlers) = (self.base.clone(), self.handlers.clone());
        let gate = Gate { authority, sessions, claims: Some(claims), config, base, handlers };
        self.routes().describe(INFO).pages(console::pages()).build(gate)
    }

    /// The OpenAPI document as it is kept in docs/.
    pub(crate) fn document(&self) -> Result<String> {
        let document = self.routes().describe(INFO).document(INFO);
        Ok(serde_json::to_string_pretty(&document)? + "\n")
    }
}

/// Makes the document without serving anything: on an empty stack in a temporary folder.
pub(crate) fn openapi_document() -> Result<String> {
    let folder = tempfile::tempdir()?;
    let mut settings = crate::config::Settings::default();
    let place = folder.path().display().to_string();
    settings.set(&["data_dir"], toml::Value::String(place))?;
    let config = settings.config()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let base = Base::system();
        let bases = Bases { io: base.clone(), handlers: base.clone() };
        let rooms = crate::wiring::open(&config, None, &bases, None).await?;
        let document = rooms.doors.document();
        base.tasks.stop(std::time::Duration::from_secs(5)).await;
        document
    })
}

fn failed_rows(error: relational::Error) -> edge::Error {
    edge::Error::of(error.kind(), error)
}

#[cfg(test)]
mod tests;

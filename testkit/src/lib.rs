//! Development only: starts the real binary and talks to it as its users do, over real sockets.
//!
//! Nothing here is part of the product. Start at [`Stack`], one running `madang`; [`proofs`] holds the
//! acceptance lines, called with small counts by the tests and with full counts by `cargo xtask prove`. [`sim`] is for parts
//! that run inside a test: time, disk and network from one seed.

mod blog;
mod browser;
mod certificates;
mod databases;
pub mod disk;
mod doorman;
mod embedded;
mod http;
mod isso;
mod line;
mod load;
mod mailbox;
mod mosquitto;
mod mqtt_client;
mod node;
mod pebble;
pub mod proofs;
mod rabbitmq;
mod redis;
mod resp;
mod servers;
pub mod sim;
mod stack;
mod stomp_client;
mod wait;

pub use blog::Blog;
pub use browser::Browser;
pub use certificates::Certificates;
pub use databases::{Databases, Fresh};
pub use doorman::{Anybody, Doorman};
pub use embedded::Embedded;
pub use http::{Http, Reply, Stream};
pub use isso::Isso;
pub use load::{Figures, Publishers, Sent};
pub use mailbox::{Mail, Mailbox};
pub use mosquitto::Mosquitto;
pub use mqtt_client::{MqttClient, Puback};
pub use node::{Node, NodeLaunch};
pub use pebble::Pebble;
pub use rabbitmq::RabbitMq;
pub use redis::{RedisCluster, RedisKind, RedisSentinel, RedisServer, cache_folder};
pub use resp::{Resp, Value};
pub use servers::{Database, MariaDb, Postgres};
pub use stack::{Launch, Stack, free_port};
pub use stomp_client::{StompClient, StompFrame};
pub use wait::{metric, until, within, within_every};

//! Who tells the addresses of a name: the machine's resolver, or a test's.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

/// The addresses of a name, as found now.
pub(crate) type Lookup<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

pub(crate) trait Names: Send + Sync + 'static {
    fn addresses<'a>(&'a self, host: &'a str, port: u16) -> Lookup<'a>;
}

/// The machine's own resolver.
pub(crate) struct SystemNames;

impl Names for SystemNames {
    fn addresses<'a>(&'a self, host: &'a str, port: u16) -> Lookup<'a> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

//! Against Pebble, which looks at the doors, and against a stand-in that goes wrong.

mod faults;
mod issued;
mod stand_in;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::{Base, Stream, Tls};
use rustls::ServerConfig;
use rustls::crypto::ring;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const NAME: &str = "madang.test";
const OTHER_NAME: &str = "www.madang.test";

/// A data directory.
struct Place {
    folder: TempDir,
    base: Base,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), base: Base::system() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open(&self, config: &Config) -> Certificates {
        // Each process has figures of its own.
        let base = Base { metrics: Base::system().metrics, ..self.base.clone() };
        let (folder, keys) = (self.path("certificates"), self.path("keys/certificates"));
        Certificates::open(config.clone(), &folder, &keys, &base).unwrap()
    }
}

fn config_of(directory: &str, authority: &str) -> Config {
    Config {
        directory: directory.to_owned(),
        domains: vec![NAME.to_owned(), OTHER_NAME.to_owned()],
        terms_agreed: true,
        contacts: vec!["mailto:ops@madang.test".to_owned()],
        certificate_authorities: Some(authority.into()),
        back_off_min: Duration::from_millis(50),
        ..Config::default()
    }
}

/// Sockets of an HTTP and an HTTPS door.
struct Sockets {
    http: TcpListener,
    tls: TcpListener,
}

impl Sockets {
    async fn open() -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0");
        Self { http: listen().await.unwrap(), tls: listen().await.unwrap() }
    }

    fn ports(&self) -> (u16, u16) {
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        (port(&self.http), port(&self.tls))
    }

    /// Answers as the doors of the server do, and has the certificate seen to.
    fn serve(self, certificates: &Certificates, base: &Base) {
        let (asked, http) = (certificates.clone(), self.http);
        base.tasks.spawn("test_http", async move {
            loop {
                let (mut stream, _) = http.accept().await.unwrap();
                let mut buffer = vec![0; 4_096];
                let count = stream.read(&mut buffer).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&buffer[..count]).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default();
                let token = path.strip_prefix("/.well-known/acme-challenge/").unwrap_or_default();
                let (status, body) = match asked.http_answer(token) {
                    Some(answer) => ("200 OK", answer),
                    None => ("404 Not Found", String::new()),
                };
                let length = body.len();
                let said = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                stream.write_all(said.as_bytes()).await.ok();
            }
        });
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(certificates.resolver());
        config.alpn_protocols = vec![b"http/1.1".to_vec(), ACME_TLS.to_vec()];
        let (shown, tls, tasks) = (Tls::new(Arc::new(config)), self.tls, base.tasks.clone());
        base.tasks.spawn("test_tls", async move {
            loop {
                let (stream, _) = tls.accept().await.unwrap();
                let mut stream = Stream::accepted(stream, Some(&shown)).unwrap();
                tasks.spawn("test_connection", async move {
                    // It says back what it hears, for as long as it is asked.
                    let mut buffer = [0; 64];
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        if stream.write_all(&buffer[..count]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        let kept = certificates.clone();
        base.tasks.spawn("test_certificates", async move { kept.keep().await });
    }
}

//! A small real HTTP server on a free port, which does as each request's script says.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{Base, Clock};
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// What the receiver does with one request; without a script it takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Script {
    /// Status, headers as lines, body.
    Answer(u16, &'static str, &'static str),
    /// A redirect to this place.
    Redirect(String),
    /// Reads the request and never answers.
    Stall,
    /// Answers with a head and never ends the body.
    StallAfterHead(u16),
    /// Answers with a body that does not end.
    Flood(u16),
    /// Answers with a head that does not end.
    FloodHead,
    /// Goes away without an answer.
    Drop,
}

/// A request that arrived whole.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) path: String,
    /// By their names in small letters.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
    /// The status that its sender was told.
    pub(crate) status: Option<u16>,
    /// The name that TLS was made for.
    pub(crate) name: Option<String>,
    pub(crate) at: Instant,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn was_taken(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

#[derive(Clone)]
pub(crate) struct Receiver(Arc<Inner>);

struct Inner {
    port: u16,
    clock: Clock,
    scripts: Mutex<VecDeque<Script>>,
    /// What is done when no script is left.
    always: Mutex<Script>,
    got: watch::Sender<Vec<Got>>,
    connections: watch::Sender<usize>,
}

const TAKE: Script = Script::Answer(200, "", "ok");
pub(crate) const AUTHORITY: &[u8] = include_bytes!("certificates/authority.pem");

impl Receiver {
    pub(crate) async fn open(base: &Base) -> Self {
        Self::on(base, "127.0.0.1:0", None).await
    }

    /// With a certificate for `hooks.example.test`.
    pub(crate) async fn with_tls(base: &Base) -> Self {
        let chain = CertificateDer::pem_slice_iter(include_bytes!("certificates/receiver.pem"));
        let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("certificates/receiver.key"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key.unwrap())
            .unwrap();
        Self::on(base, "127.0.0.1:0", Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    pub(crate) async fn on(base: &Base, address: &str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let receiver = Self(Arc::new(Inner {
            port: listener.local_addr().unwrap().port(),
            clock: base.clock.clone(),
            scripts: Mutex::default(),
            always: Mutex::new(TAKE),
            got: watch::channel(Vec::new()).0,
            connections: watch::channel(0).0,
        }));
        let (inner, tasks) = (receiver.0.clone(), base.tasks.clone());
        drop(base.tasks.spawn("receiver", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                inner.connections.send_modify(|count| *count += 1);
                let (inner, tls) = (inner.clone(), tls.clone());
                drop(tasks.spawn("receiver.connection", async move {
                    // A client that goes away is one of the things being tested.
                    let ended = match tls {
                        None => serve(&inner, stream, None).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => {
                                let name = stream.get_ref().1.server_name().map(str::to_owned);
                                serve(&inner, stream, name).await
                            }
                            Err(error) => Err(error),
                        },
                    };
                    drop(ended);
                }));
            }
        }));
        receiver
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.port
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook?token=secret", self.0.port)
    }

    pub(crate) fn connections(&self) -> usize {
        *self.0.connections.borrow()
    }

    /// What to do with the next requests.
    pub(crate) fn script(&self, scripts: impl IntoIterator<Item = Script>) {
        self.0.scripts.lock().extend(scripts);
    }

    /// What to do with all requests that no script is for.
    pub(crate) fn always(&self, script: Script) {
        *self.0.always.lock() = script;
    }

    pub(crate) fn take_all(&self) {
        self.always(TAKE);
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.0.got.borrow().clone()
    }

    pub(crate) async fn wait_until(&self, fits: impl Fn(&[Got]) -> bool) -> Vec<Got> {
        let mut got = self.0.got.subscribe();
        let wait = got.wait_for(|all| fits(all));
        let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
        waited.expect("the requests come").expect("the receiver lives").clone()
    }

    pub(crate) async fn wait_for(&self, count: usize) -> Vec<Got> {
        self.wait_until(|all| all.len() >= count).await
    }
}

async fn serve(
    inner: &Inner,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    name: Option<String>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let Some((key, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(key.to_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let script = inner.scripts.lock().pop_front().unwrap_or_else(|| inner.always.lock().clone());
    let status = match &script {
        Script::Answer(status, ..) | Script::StallAfterHead(status) | Script::Flood(status) => {
            Some(*status)
        }
        Script::Redirect(_) => Some(302),
        Script::Stall | Script::Drop | Script::FloodHead => None,
    };
    let body = String::from_utf8(body).unwrap();
    let at = inner.clock.instant();
    inner.got.send_modify(|all| all.push(Got { path, headers, body, status, name, at }));
    let head = |status: u16, rest: &str| format!("HTTP/1.1 {status} Said\r\n{rest}\r\n");
    match script {
        Script::Answer(status, lines, body) => {
            let rest = format!("{lines}content-length: {}\r\n", body.len());
            stream.write_all((head(status, &rest) + body).as_bytes()).await?;
        }
        Script::Redirect(place) => {
            let rest = format!("location: {place}\r\ncontent-length: 0\r\n");
            stream.write_all(head(302, &rest).as_bytes()).await?;
        }
        Script::Stall => std::future::pending().await,
        Script::StallAfterHead(status) => {
            let rest = "content-length: 9\r\n";
            stream.write_all((head(status, rest) + "half").as_bytes()).await?;
            stream.flush().await?;
            std::future::pending::<()>().await;
        }
        Script::Flood(status) => {
            stream.write_all(head(status, "").as_bytes()).await?;
            loop {
                stream.write_all(&[b'x'; 4096]).await?;
            }
        }
        Script::FloodHead => {
            stream.write_all(b"HTTP/1.1 200 Said\r\n").await?;
            loop {
                stream.write_all(b"x-more: and more and more and more and more\r\n").await?;
            }
        }
        Script::Drop => {}
    }
    stream.flush().await?;
    stream.shutdown().await
}

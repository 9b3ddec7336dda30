use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConnection, StreamOwned};
use serde_json::{Value, json};
use testkit::Certificates as Authority;

use super::*;

/// An authority that says what a test wants, over TLS, and never issues anything.
pub(super) struct StandIn {
    folder: TempDir,
    pub(super) directory: String,
    pub(super) asked: Arc<Mutex<Vec<Asked>>>,
}

/// A request: method and path, and what was signed.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) what: String,
    pub(super) said: Value,
}

/// A status, further headers and a body.
pub(super) type Said = (u16, Vec<(&'static str, String)>, Value);

pub(super) fn problem(kind: &str, detail: &str) -> Value {
    json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail})
}

/// An answer to what the stand-in has no answer of its own for; it hears its own URL.
type Say = dyn Fn(&Asked, &str) -> Said + Send + Sync;

impl StandIn {
    pub(super) fn start(say: impl Fn(&Asked, &str) -> Said + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = Authority::new(folder.path()).unwrap();
        let chain = CertificateDer::pem_file_iter(made.path("chain.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(made.path("key.pem")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.map(Result::unwrap).collect(), key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(vec![]));
        let (directory, heard) = (format!("{url}/directory"), asked.clone());
        let (config, say): (_, Box<Say>) = (Arc::new(config), Box::new(say));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { break };
                answer(stream, &config, |asked| {
                    heard.lock().push(asked.clone());
                    own(asked, &url).unwrap_or_else(|| say(asked, &url))
                });
            }
        });
        Self { folder, directory, asked }
    }

    pub(super) fn config(&self) -> Config {
        let authority = self.folder.path().join("authority.pem");
        config_of(&self.directory, authority.to_str().unwrap())
    }

    pub(super) fn count(&self, what: &str) -> usize {
        self.asked.lock().iter().filter(|asked| asked.what == what).count()
    }
}

/// What every authority answers.
fn own(asked: &Asked, url: &str) -> Option<Said> {
    let said = match asked.what.as_str() {
        "GET /directory" => {
            let body = json!({
                "newNonce": format!("{url}/nonce"),
                "newAccount": format!("{url}/account"),
                "newOrder": format!("{url}/order"),
                "renewalInfo": format!("{url}/renewal"),
            });
            (200, vec![], body)
        }
        "HEAD /nonce" => (200, vec![], Value::Null),
        "POST /account" => {
            (201, vec![("location", format!("{url}/account/1"))], json!({"status": "valid"}))
        }
        _ => return None,
    };
    Some(said)
}

fn answer(stream: TcpStream, config: &Arc<ServerConfig>, say: impl Fn(&Asked) -> Said) {
    let connection = ServerConnection::new(config.clone()).unwrap();
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        // Somebody who does not trust the door, or gave up.
        if stream.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let lower = head.to_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    let signed = serde_json::from_slice::<Value>(&body).unwrap_or_default();
    let payload = URL_SAFE_NO_PAD.decode(signed["payload"].as_str().unwrap_or_default()).unwrap();
    let what = head.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ");
    let said = serde_json::from_slice(&payload).unwrap_or_default();
    let (status, headers, body) = say(&Asked { what, said });
    // A text is sent as it is: a page of something that stands before the authority.
    let body = match body {
        Value::Null => String::new(),
        Value::String(text) => text,
        body => body.to_string(),
    };
    let mut text = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
    text += "replay-nonce: bm9uY2U\r\nconnection: close\r\n";
    for (name, value) in headers {
        text.extend([name, ": ", &value, "\r\n"]);
    }
    let stream = stream.get_mut();
    stream.write_all(format!("{text}\r\n{body}").as_bytes()).ok();
    stream.conn.send_close_notify();
    stream.flush().ok();
}

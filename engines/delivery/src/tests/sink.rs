//! A small real SMTP server on a free port, which does as each message's script says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{Base, Clock};
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the sink does with one message; without a script it takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    Take,
    /// Answers `MAIL`, `RCPT`, `DATA` or the text itself (`.`) with this.
    Answer(&'static str, &'static str),
    /// Never answers the verb.
    Stall(&'static str),
    /// Takes the text and goes away without saying so.
    DropAfterText,
}

/// A message whose text arrived.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) text: String,
    /// When its MAIL came.
    pub(super) begun: Instant,
    pub(super) was_taken: bool,
}

impl Received {
    pub(super) fn header(&self, name: &str) -> String {
        let (head, _) = self.text.split_once("\r\n\r\n").expect("a mail has a head");
        let head = head.replace("\r\n ", " ");
        let mut lines = head.split("\r\n").filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).unwrap_or_default()
    }

    pub(super) fn body(&self) -> &str {
        self.text.split_once("\r\n\r\n").expect("a mail has a body").1
    }
}

#[derive(Clone)]
pub(super) struct Sink(Arc<Inner>);

struct Inner {
    port: u16,
    clock: Clock,
    /// Lines of the EHLO answer, such as `AUTH PLAIN`.
    offers: Vec<&'static str>,
    scripts: Mutex<VecDeque<Script>>,
    received: watch::Sender<Vec<Received>>,
    connections: watch::Sender<usize>,
}

impl Sink {
    pub(super) async fn open(base: &Base) -> Self {
        Self::offering(base, &[]).await
    }

    pub(super) async fn offering(base: &Base, offers: &[&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sink = Self(Arc::new(Inner {
            port: listener.local_addr().unwrap().port(),
            clock: base.clock.clone(),
            offers: offers.to_vec(),
            scripts: Mutex::default(),
            received: watch::channel(Vec::new()).0,
            connections: watch::channel(0).0,
        }));
        let (inner, tasks) = (sink.0.clone(), base.tasks.clone());
        drop(base.tasks.spawn("sink", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                inner.connections.send_modify(|count| *count += 1);
                let inner = inner.clone();
                drop(tasks.spawn("sink.connection", async move {
                    let ended = Session { inner, script: Script::Take }.run(stream).await;
                    // A client that goes away is one of the things being tested.
                    drop(ended);
                }));
            }
        }));
        sink
    }

    pub(super) fn port(&self) -> u16 {
        self.0.port
    }

    pub(super) fn connections(&self) -> usize {
        *self.0.connections.borrow()
    }

    /// What to do with the next messages.
    pub(super) fn script(&self, scripts: impl IntoIterator<Item = Script>) {
        self.0.scripts.lock().extend(scripts);
    }

    pub(super) fn received(&self) -> Vec<Received> {
        self.0.received.borrow().clone()
    }

    /// Waits until this many texts arrived.
    pub(super) async fn wait_for(&self, count: usize) -> Vec<Received> {
        let mut received = self.0.received.subscribe();
        let wait = received.wait_for(|all| all.len() >= count);
        let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
        waited.expect("the mails come").expect("the sink lives").clone()
    }
}

struct Session {
    inner: Arc<Inner>,
    script: Script,
}

impl Session {
    async fn run(mut self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        stream.write_all(b"220 sink\r\n").await?;
        let (mut from, mut to, mut begun) = (String::new(), String::new(), None);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.strip_suffix("\r\n").expect("commands end in CRLF");
            let verb = line.split([' ', ':']).next().unwrap_or_default();
            if verb == "MAIL" {
                self.script = self.inner.scripts.lock().pop_front().unwrap_or(Script::Take);
                begun = Some(self.inner.clock.instant());
            }
            let answer = match verb {
                "EHLO" => self.greeting(),
                "MAIL" => {
                    from = path(line);
                    "250 ok\r\n".to_owned()
                }
                "RCPT" => {
                    to = path(line);
                    "250 ok\r\n".to_owned()
                }
                "AUTH" if line == "AUTH PLAIN AGtpbQBwOnc=" => "235 hello\r\n".to_owned(),
                "AUTH" => "535 5.7.8 who are you\r\n".to_owned(),
                "DATA" => "354 go on\r\n".to_owned(),
                "RSET" | "NOOP" => "250 ok\r\n".to_owned(),
                "QUIT" => "221 bye\r\n".to_owned(),
                _ => panic!("unexpected command {line:?}"),
            };
            let is_go_on = self.answer(&mut stream, verb, &answer).await?;
            if verb == "QUIT" {
                return Ok(());
            }
            if verb == "DATA" && is_go_on {
                let text = read_text(&mut stream).await?;
                let mail = Received {
                    from: from.clone(),
                    to: to.clone(),
                    text,
                    begun: begun.expect("MAIL comes first"),
                    was_taken: self.script == Script::Take,
                };
                self.inner.received.send_modify(|all| all.push(mail));
                if self.script == Script::DropAfterText {
                    return Ok(());
                }
                self.answer(&mut stream, ".", "250 taken\r\n").await?;
            }
        }
    }

    /// Answers as the script says; whether that was the usual answer.
    async fn answer(
        &self,
        stream: &mut BufReader<TcpStream>,
        verb: &str,
        usual: &str,
    ) -> std::io::Result<bool> {
        match self.script {
            Script::Stall(at) if at == verb => std::future::pending().await,
            Script::Answer(at, reply) if at == verb => {
                stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
                Ok(false)
            }
            _ => {
                stream.write_all(usual.as_bytes()).await?;
                Ok(true)
            }
        }
    }

    fn greeting(&self) -> String {
        let mut lines = vec!["sink"];
        lines.extend(&self.inner.offers);
        let last = lines.len() - 1;
        let line = |(at, text)| format!("250{}{text}\r\n", if at == last { ' ' } else { '-' });
        lines.into_iter().enumerate().map(line).collect()
    }
}

fn path(line: &str) -> String {
    let (_, rest) = line.split_once('<').expect("a path");
    rest.split_once('>').expect("a path").0.to_owned()
}

/// Reads up to the lone dot and takes the doubled dots back.
async fn read_text(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        assert!(line.ends_with("\r\n"), "a bare line feed: {line:?}");
        if line == ".\r\n" {
            return Ok(text);
        }
        text.push_str(line.strip_prefix('.').unwrap_or(&line));
    }
}

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

/// Where in a message's way the server is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// The attempt is written, its connection is there, nothing was sent.
    Connected,
    /// The whole message is there, nobody has answered.
    Read,
    /// The answer is on its way, its end is not written.
    Answered,
}

pub(super) const STEPS: [Step; 3] = [Step::Connected, Step::Read, Step::Answered];

/// Kills a process with signal 9 at a step of a message, once each time it is set.
#[derive(Default)]
pub(super) struct Trigger {
    pid: AtomicI32,
    set: Mutex<Option<(Step, u64)>>,
}

impl Trigger {
    pub(super) fn set(&self, pid: u32, step: Step, after: u64) {
        self.pid.store(i32::try_from(pid).unwrap_or(0), Ordering::SeqCst);
        *self.set.lock() = Some((step, after));
    }

    pub(super) fn has_gone_off(&self) -> bool {
        self.set.lock().is_none()
    }

    pub(super) fn clear(&self) {
        *self.set.lock() = None;
    }

    fn reached(&self, step: Step) {
        let mut set = self.set.lock();
        match &mut *set {
            Some((wanted, left)) if *wanted == step && *left > 0 => *left -= 1,
            Some((wanted, _)) if *wanted == step => {
                if let Some(pid) = Pid::from_raw(self.pid.load(Ordering::SeqCst)) {
                    // It may have ended by itself; the next start tells.
                    kill_process(pid, Signal::KILL).ok();
                }
                *set = None;
            }
            _ => {}
        }
    }
}

/// How an HTTP server treats those who post to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Temper {
    Well,
    /// Refuses, breaks off, stalls, answers 429, 500 and 503 by chance; takes about half.
    Moody,
    /// Takes nothing and never answers, until it is woken.
    Asleep,
}

/// An HTTP server on a free port that counts what it has taken.
pub(super) struct Receiver {
    pub(super) port: u16,
    inner: Arc<Inner>,
}

struct Inner {
    temper: Temper,
    is_awake: AtomicBool,
    chance: AtomicU64,
    trigger: Arc<Trigger>,
    taken: Mutex<BTreeMap<String, u32>>,
    refused: AtomicU64,
}

const STALL: Duration = Duration::from_secs(3);

impl Receiver {
    pub(super) fn open(temper: Temper, seed: u64, trigger: &Arc<Trigger>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let inner = Arc::new(Inner {
            temper,
            is_awake: AtomicBool::new(temper != Temper::Asleep),
            chance: AtomicU64::new(seed),
            trigger: trigger.clone(),
            taken: Mutex::default(),
            refused: AtomicU64::new(0),
        });
        let serving = inner.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let inner = serving.clone();
                // A client that goes away is one of the things being tested.
                std::thread::spawn(move || inner.serve(&stream).ok());
            }
        });
        Ok(Self { port, inner })
    }

    pub(super) fn wake(&self) {
        self.inner.is_awake.store(true, Ordering::SeqCst);
    }

    /// How often each message was taken: by its `webhook-id`, or by its body.
    pub(super) fn taken(&self) -> BTreeMap<String, u32> {
        self.inner.taken.lock().clone()
    }

    pub(super) fn refused(&self) -> u64 {
        self.inner.refused.load(Ordering::SeqCst)
    }
}

impl Inner {
    fn serve(&self, stream: &TcpStream) -> Result<()> {
        self.trigger.reached(Step::Connected);
        let (id, body) = read_request(stream)?;
        self.trigger.reached(Step::Read);
        let key = id.unwrap_or(body);
        let mood = match self.temper {
            _ if !self.is_awake.load(Ordering::SeqCst) => 2,
            Temper::Moody => self.number() % 12,
            Temper::Well | Temper::Asleep => 11,
        };
        let answer = match mood {
            0 => "",
            1 => "HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno",
            2 => {
                self.refused.fetch_add(1, Ordering::SeqCst);
                stall(stream);
                return Ok(());
            }
            3 | 4 => "HTTP/1.1 429 Slow\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n",
            5 => "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        };
        if answer.starts_with("HTTP/1.1 200") {
            // Taken is taken, also when nobody is left to hear it.
            *self.taken.lock().entry(key).or_default() += 1;
        } else {
            self.refused.fetch_add(1, Ordering::SeqCst);
        }
        let mut stream = stream;
        stream.write_all(answer.as_bytes())?;
        stream.flush()?;
        self.trigger.reached(Step::Answered);
        Ok(())
    }

    /// SplitMix64: repeats by seed.
    fn number(&self) -> u64 {
        let seed = self.chance.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst);
        let z = (seed ^ (seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Waits until the client has gone, or long enough.
fn stall(stream: &TcpStream) {
    let mut stream = stream;
    stream.set_read_timeout(Some(STALL)).ok();
    let mut byte = [0];
    stream.read_exact(&mut byte).ok();
}

/// The `webhook-id` of a request, and its body.
fn read_request(stream: &TcpStream) -> Result<(Option<String>, String)> {
    let mut reader = BufReader::new(stream);
    let (mut id, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        anyhow::ensure!(reader.read_line(&mut line)? > 0, "the client has gone");
        let Some((name, value)) = line.trim_end().split_once(':') else {
            if line.trim_end().is_empty() {
                break;
            }
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "webhook-id" => id = Some(value.trim().to_owned()),
            "content-length" => length = value.trim().parse()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((id, String::from_utf8(body)?))
}

//! What a connection and a delivery cost: `cargo run --release -p sockets --example load -- 10000 100 20000`, which is idle
//! subscribers, subscribers of one topic, and messages to it. The server is a process of its own, and so are its figures.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "figures are measured in real time and printed"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use base::{Base, Failure};
use eventlog::EventLog;
use relational::Db;
use rustix::process::{Resource as Limit, Rlimit, getrlimit, setrlimit};
use sockets::{Config, Sockets};
use testkit::Anybody;
use tokio::net::TcpListener;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let limit = getrlimit(Limit::Nofile);
    setrlimit(Limit::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    if arguments.first().is_some_and(|it| it == "serve") {
        return tokio::runtime::Runtime::new()?.block_on(serve());
    }
    let number = |place: usize, usual: usize| match arguments.get(place) {
        Some(text) => text.parse::<usize>(),
        None => Ok(usual),
    };
    let (idle, subscribers, messages) = (number(0, 10_000)?, number(1, 100)?, number(2, 20_000)?);
    let server = Server::start()?;
    idle_ones(&server, idle)?;
    deliveries(&server, subscribers, messages)
}

async fn serve() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let base = Base::system();
    let rows = relational::Config { path: folder.path().join("rows.db"), ..Default::default() };
    let db = Db::open(rows, &base).await?;
    let log = eventlog::Config { dir: folder.path().join("log"), ..Default::default() };
    let log = EventLog::open(log, &base).await?;
    let authority = Arc::new(Anybody::default());
    let config = Config { connections_max: 100_000, ..Config::default() };
    let sockets = Sockets::open(config, &base, (log, db), authority, Vec::new()).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    sockets.listen(listener, None).await;
    Ok(())
}

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start() -> Result<Self, Failure> {
        let program = std::env::current_exe()?;
        let mut child = Command::new(program).arg("serve").stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        Ok(Self { child, address: line.trim().to_owned() })
    }

    fn resident(&self) -> Result<u64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.split_whitespace().nth(1).ok_or("no VmRSS")?.parse::<u64>()? * 1024)
    }

    /// Seconds of user and system time.
    fn cpu(&self) -> Result<f64, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> =
            stat.rsplit_once(')').ok_or("no stat")?.1.split_whitespace().collect();
        let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
    }

    fn subscribe(&self, topic: &str) -> Result<TcpStream, Failure> {
        let mut stream = TcpStream::connect(&self.address)?;
        let frames = format!(
            "CONNECT\naccept-version:1.2\nlogin:a\npasscode:b\n\n\0SUBSCRIBE\nid:0\ndestination:{topic}\nreceipt:1\n\n\0"
        );
        stream.write_all(frames.as_bytes())?;
        let (mut read, mut buffer) = (Vec::new(), [0; 1_024]);
        while !read.windows(12).any(|it| it == b"receipt-id:1") {
            let count = stream.read(&mut buffer)?;
            read.extend_from_slice(&buffer[..count]);
        }
        Ok(stream)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn idle_ones(server: &Server, count: usize) -> Result<(), Failure> {
    let first = server.subscribe("/topic/idle")?;
    let before = server.resident()?;
    let mut streams = vec![first];
    for number in 0..count {
        streams.push(server.subscribe(&format!("/topic/idle.{}", number % 100))?);
    }
    let after = server.resident()?;
    let each = (after - before) / count as u64;
    println!(
        "{count} idle subscribers: {each} bytes resident each ({before} before, {after} after)"
    );
    let cpu = server.cpu()?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    println!("CPU of the server while they are idle for 2 s: {:.3} s", server.cpu()? - cpu);
    Ok(())
}

fn deliveries(server: &Server, subscribers: usize, messages: usize) -> Result<(), Failure> {
    let mut readers = Vec::new();
    for _ in 0..subscribers {
        let mut stream = server.subscribe("/topic/fan")?;
        readers.push(std::thread::spawn(move || {
            let mut buffer = vec![0; 256 << 10];
            let mut count = 0;
            while count < messages {
                let read = stream.read(&mut buffer)?;
                if read == 0 {
                    return Err(std::io::Error::other(format!("closed after {count} messages")));
                }
                count += memchr::memchr_iter(0, &buffer[..read]).count();
            }
            Ok(())
        }));
    }
    let mut sender = server.subscribe("/topic/none")?;
    let frame = format!("SEND\ndestination:/topic/fan\n\n{}\0", "x".repeat(64));
    let batch = frame.repeat(99)
        + &format!("SEND\ndestination:/topic/fan\nreceipt:2\n\n{}\0", "x".repeat(64));
    let (cpu, began) = (server.cpu()?, Instant::now());
    let mut buffer = [0; 1_024];
    for _ in 0..messages / 100 {
        sender.write_all(batch.as_bytes())?;
        if sender.read(&mut buffer)? == 0 {
            return Err("the sender is closed".into());
        }
    }
    for reader in readers {
        reader.join().map_err(|_| "a reader panicked")??;
    }
    let (took, cpu) = (began.elapsed().as_secs_f64(), server.cpu()? - cpu);
    let count = (subscribers * messages) as f64;
    println!(
        "{count} deliveries to {subscribers}: {:.0}/s, {:.3} µs of server CPU each, {:.0}/s and core",
        count / took,
        cpu * 1e6 / count,
        count / cpu
    );
    Ok(())
}

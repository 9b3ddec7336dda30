//! `madang kv`: a small client of a running store, ours or any that speaks RESP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};

#[derive(Args)]
pub(crate) struct Options {
    /// Address and port of the store
    #[arg(long, global = true, value_name = "ADDRESS", default_value = "127.0.0.1:6379")]
    server: String,
    /// The key to log in with, as ID:SECRET; others on this machine can see it
    #[arg(long = "key", global = true, value_name = "KEY", conflicts_with = "key_file")]
    login: Option<String>,
    /// A file that holds the key
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The database's number
    #[arg(long, global = true, value_name = "NUMBER", default_value_t = 0)]
    db: u8,
    #[command(subcommand)]
    deed: Deed,
}

#[derive(Subcommand)]
enum Deed {
    /// Print what a key holds
    Get { key: String },
    /// Give a key a value
    Set {
        key: String,
        value: String,
        /// Seconds after which it goes
        #[arg(long, value_name = "SECONDS")]
        expire: Option<u64>,
    },
    /// Print changes of keys as they happen, until it is interrupted
    Watch {
        /// Keys that match this
        #[arg(default_value = "*")]
        pattern: String,
        /// Let the store tell of changes if it does not; needs `kv.admin`
        #[arg(long)]
        turn_on: bool,
    },
    /// Print what the store counts
    Stats,
    /// Print keys, some of which may come twice while they are being changed
    Keys {
        /// Only those that begin so
        #[arg(default_value = "")]
        prefix: String,
        /// At most so many
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
    },
}

/// How long a store may take for a reply.
const PATIENCE: Duration = Duration::from_secs(30);
/// No reply of these commands nests deeper.
const DEPTH_MAX: usize = 8;
const KEYS_AT_ONCE: &str = "500";

pub(crate) fn run(options: &Options, out: &mut dyn Write) -> Result<()> {
    let mut store = Store::connect(options)?;
    match &options.deed {
        Deed::Get { key } => get(&mut store, key, out),
        Deed::Set { key, value, expire } => {
            let seconds = expire.map(|seconds| seconds.to_string());
            let mut request = vec!["SET", key, value];
            request.extend(seconds.iter().flat_map(|seconds| ["EX", seconds]));
            store.ask(&request)?;
            Ok(writeln!(out, "OK")?)
        }
        Deed::Watch { pattern, turn_on } => watch(&mut store, pattern, *turn_on, out),
        Deed::Stats => stats(&mut store, out),
        Deed::Keys { prefix, limit } => keys(&mut store, prefix, *limit, out),
    }
}

fn get(store: &mut Store, key: &str, out: &mut dyn Write) -> Result<()> {
    let kind = store.text(&["TYPE", key])?;
    let (request, is_paired): (&[&str], bool) = match kind.as_str() {
        "none" => bail!("there is no key {key}"),
        "string" => (&["GET", key], false),
        "hash" => (&["HGETALL", key], true),
        "list" => (&["LRANGE", key, "0", "-1"], false),
        "set" => (&["SMEMBERS", key], false),
        "zset" => (&["ZRANGE", key, "0", "-1", "WITHSCORES"], true),
        "stream" => (&["XRANGE", key, "-", "+"], false),
        other => bail!("{key} holds a {other}"),
    };
    match store.ask(request)? {
        Reply::List(all) if is_paired => {
            for pair in all.chunks(2) {
                out.write_all(&pair[0].bytes())?;
                out.write_all(b"\t")?;
                out.write_all(&pair.get(1).map(Reply::bytes).unwrap_or_default())?;
                out.write_all(b"\n")?;
            }
        }
        Reply::List(all) => {
            for element in all {
                out.write_all(&element.bytes())?;
                out.write_all(b"\n")?;
            }
        }
        value => {
            out.write_all(&value.bytes())?;
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}

fn watch(store: &mut Store, pattern: &str, turn_on: bool, out: &mut dyn Write) -> Result<()> {
    const EVENTS: &str = "notify-keyspace-events";
    if turn_on {
        store.ask(&["CONFIG", "SET", EVENTS, "KA"])?;
    }
    let db = store.db;
    store.ask(&["PSUBSCRIBE", &format!("__keyspace@{db}__:{pattern}")])?;
    store.stream.get_ref().set_read_timeout(None)?;
    writeln!(out, "changes of {pattern}; if none come, --turn-on lets the store tell of them")?;
    out.flush()?;
    loop {
        let Reply::List(parts) = store.read(0)? else { bail!("no message came") };
        let [_, _, channel, event] = &parts[..] else { continue };
        let channel = channel.bytes();
        let key = channel.splitn(2, |byte| *byte == b':').nth(1).unwrap_or_default();
        out.write_all(&event.bytes())?;
        out.write_all(b"\t")?;
        out.write_all(key)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
}

/// What people ask for first, in their words.
const SHOWN: &[(&str, &str)] = &[
    ("redis_version", "speaks as Redis"),
    ("uptime_in_seconds", "seconds up"),
    ("connected_clients", "clients"),
    ("blocked_clients", "clients that wait"),
    ("used_memory_human", "memory"),
    ("maxmemory_human", "memory at most"),
    ("total_commands_processed", "commands"),
    ("keyspace_hits", "hits"),
    ("keyspace_misses", "misses"),
    ("expired_keys", "expired keys"),
    ("evicted_keys", "evicted keys"),
    ("total_error_replies", "errors"),
    ("appendfsync", "fsync"),
    ("aof_last_write_status", "log"),
];

fn stats(store: &mut Store, out: &mut dyn Write) -> Result<()> {
    let info = store.text(&["INFO"])?;
    let fields: Vec<(&str, &str)> = info.lines().filter_map(|line| line.split_once(':')).collect();
    for (field, name) in SHOWN {
        if let Some((_, value)) = fields.iter().find(|(known, _)| known == field) {
            writeln!(out, "{name:<20} {}", value.trim())?;
        }
    }
    for (db, keys) in
        fields.iter().filter(|(name, value)| name.starts_with("db") && value.starts_with("keys="))
    {
        writeln!(out, "{db:<20} {}", keys.trim())?;
    }
    Ok(())
}

fn keys(store: &mut Store, prefix: &str, limit: usize, out: &mut dyn Write) -> Result<()> {
    // What would stand for other letters stands for itself.
    let mut pattern = String::new();
    for letter in prefix.chars() {
        if "*?[]\\".contains(letter) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('*');
    let (mut cursor, mut left) = ("0".to_owned(), limit);
    loop {
        let request = ["SCAN", &cursor, "MATCH", &pattern, "COUNT", KEYS_AT_ONCE];
        let Reply::List(parts) = store.ask(&request)? else { bail!("no keys came") };
        let [next, Reply::List(found)] = &parts[..] else { bail!("no keys came") };
        for key in found.iter().take(left) {
            out.write_all(&key.bytes())?;
            out.write_all(b"\n")?;
        }
        left = left.saturating_sub(found.len());
        cursor = String::from_utf8_lossy(&next.bytes()).into_owned();
        if cursor == "0" {
            return Ok(());
        }
        if left == 0 {
            eprintln!("more than {limit}: --limit shows more");
            return Ok(());
        }
    }
}

/// A connection that is logged in.
struct Store {
    stream: BufReader<TcpStream>,
    db: u8,
}

#[derive(Debug)]
enum Reply {
    Null,
    Text(Vec<u8>),
    List(Vec<Reply>),
}

impl Reply {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Null => b"(nil)".to_vec(),
            Self::Text(bytes) => bytes.clone(),
            Self::List(all) => all.iter().map(Self::bytes).collect::<Vec<_>>().join(&b' '),
        }
    }
}

impl Store {
    fn connect(options: &Options) -> Result<Self> {
        let stream = TcpStream::connect(&options.server)
            .with_context(|| format!("connect to {}", options.server))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut store = Self { stream: BufReader::new(stream), db: options.db };
        let key = match (&options.login, &options.key_file) {
            (Some(key), _) => Some(key.clone()),
            (None, Some(file)) => Some(
                std::fs::read_to_string(file)
                    .with_context(|| format!("read {}", file.display()))?
                    .trim()
                    .to_owned(),
            ),
            (None, None) => None,
        };
        if let Some(key) = key {
            store.ask(&["AUTH", &key])?;
        }
        if options.db > 0 {
            store.ask(&["SELECT", &options.db.to_string()])?;
        }
        Ok(store)
    }

    fn ask(&mut self, request: &[&str]) -> Result<Reply> {
        let mut bytes = format!("*{}\r\n", request.len()).into_bytes();
        for argument in request {
            bytes.extend_from_slice(format!("${}\r\n{argument}\r\n", argument.len()).as_bytes());
        }
        self.stream.get_mut().write_all(&bytes)?;
        self.read(0)
    }

    fn text(&mut self, request: &[&str]) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.ask(request)?.bytes()).into_owned())
    }

    fn read(&mut self, depth: usize) -> Result<Reply> {
        ensure!(depth < DEPTH_MAX, "a reply nests too deep");
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        ensure!(!line.is_empty(), "the store closed the connection");
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches("\r\n");
        let text = line.get(1..).unwrap_or_default();
        match line.as_bytes()[0] {
            b'+' | b':' => Ok(Reply::Text(text.as_bytes().to_vec())),
            b'-' => bail!("{text}"),
            b'$' => match usize::try_from(text.parse::<i64>()?) {
                Err(_) => Ok(Reply::Null),
                Ok(length) => {
                    let mut bytes = Vec::new();
                    (&mut self.stream).take(length as u64 + 2).read_to_end(&mut bytes)?;
                    ensure!(bytes.len() == length + 2, "the store closed the connection");
                    bytes.truncate(length);
                    Ok(Reply::Text(bytes))
                }
            },
            b'*' => match usize::try_from(text.parse::<i64>()?) {
                Err(_) => Ok(Reply::Null),
                Ok(length) => (0..length)
                    .map(|_| self.read(depth + 1))
                    .collect::<Result<_>>()
                    .map(Reply::List),
            },
            _ => bail!("{} does not speak RESP", self.stream.get_ref().peer_addr()?),
        }
    }
}

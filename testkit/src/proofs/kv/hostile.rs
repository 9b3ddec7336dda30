use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::disk::Dice;
use crate::node::{Node, NodeLaunch};
use crate::proofs::{Ground, Report, Size};
use crate::resp::{Resp, Value, encoded};
use crate::wait::within;

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_mins(2);

/// Whatever clients send, the store goes on, within bounds of memory and time.
pub fn hostile(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let folder = tempfile::tempdir()?;
    let place = Place { ground, folder: folder.path() };
    place.strangers(&mut report)?;
    place.fuzz(&mut report)?;
    place.large_values(&mut report)?;
    place.expiry(&mut report)?;
    place.crowd(&mut report)?;
    place.scripts(&mut report)?;
    Ok(report)
}

struct Place<'a> {
    ground: &'a Ground,
    folder: &'a Path,
}

impl Place<'_> {
    fn launch(&self, name: &str) -> Result<NodeLaunch> {
        let launch = NodeLaunch::new(&self.ground.binary, &self.folder.join(name))?;
        Ok(launch.setting("durability=off"))
    }

    /// Requests that promise a lot, of clients that have not said who they are.
    fn strangers(&self, report: &mut Report) -> Result<()> {
        let node = self.launch("strangers")?.setting("closed=true").start()?;
        let count = self.ground.count(500, 5_000);
        let (before, _) = node.resident()?;
        let promises: [&[u8]; 5] = [
            b"*1000000\r\n",
            b"*2\r\n$4\r\nAUTH\r\n$536870912\r\n",
            b"*10\r\n$16384\r\n",
            b"*3\r\n$4\r\nAUTH\r\n$16384\r\n",
            b"*-5\r\n$9999999999999\r\n",
        ];
        let mut streams = Vec::new();
        for number in 0..count {
            let mut stream = TcpStream::connect(&node.address)?;
            stream.write_all(promises[number % promises.len()])?;
            streams.push(stream);
        }
        node.client()?.ask(&["PING"])?;
        let (after, _) = node.resident()?;
        let each = after.saturating_sub(before) / count as u64;
        report.bound(
            each < 8 << 10,
            format!("{count} strangers who promise large requests: {each} bytes of memory each"),
        );
        let mut stream = TcpStream::connect(&node.address)?;
        // An endless line is cut off; the writing fails when the connection is closed.
        let line = vec![b'a'; 1 << 16];
        let taken = (0..1_000).take_while(|_| stream.write_all(&line).is_ok()).count();
        let peak = node.resident()?.1;
        report.bound(
            taken < 1_000 && peak < after + 64 * MIB,
            format!("a stranger's endless line is refused; memory at most {} MiB", peak / MIB),
        );
        Ok(())
    }

    /// Requests nearly as they should be, and bytes that are none.
    #[allow(clippy::disallowed_methods, reason = "the proof is given a time")]
    fn fuzz(&self, report: &mut Report) -> Result<()> {
        let launch = self.launch("fuzz")?;
        let node = launch.start()?;
        let commands = commands(&mut node.client()?)?;
        let time = if self.ground.size == Size::Test {
            Duration::from_secs(3)
        } else {
            Duration::from_mins(5)
        };
        let (started, mut seeds, mut requests) = (Instant::now(), 0, 0);
        while started.elapsed() < time {
            seeds += 1;
            requests += session(&node, &commands, &mut Dice::new(seeds))
                .with_context(|| format!("seed {seeds}"))?;
            if seeds % 500 == 0 {
                node.client()?.done(&["FLUSHALL"])?;
            }
        }
        let is_alive = node.client()?.ask(&["PING"])? == Value::Simple("PONG".into());
        let said = launch.log();
        let peak = node.resident()?.1 / MIB;
        report.bound(
            is_alive && !said.contains("panicked") && peak < 1_024,
            format!(
                "fuzzed with {} commands for {time:?}: seeds 1 to {seeds}, {requests} requests, no panic, memory at most {peak} MiB{said}",
                commands.len()
            ),
        );
        Ok(())
    }

    fn large_values(&self, report: &mut Report) -> Result<()> {
        let node = self.launch("large")?.start()?;
        let length = self.ground.count(16 << 20, 512 << 20);
        let value: Vec<u8> = (0..=250u8).cycle().take(length).collect();
        let mut client = node.client()?;
        let key = b"a\0key\r\n\xff".to_vec();
        client.done(&[b"SET".to_vec(), key.clone(), value.clone()])?;
        let found = client.done(&[b"GET".to_vec(), key])?;
        ensure!(found == Value::Bulk(value), "another value came back");
        let peak = node.resident()?.1;
        let factor = peak as f64 / length as f64;
        report.bound(
            factor < 6.0 || self.ground.size == Size::Test,
            format!(
                "a value of {} MiB under a key with zero bytes comes back; memory at most {factor:.1} times that",
                length >> 20
            ),
        );
        let over = format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n${}\r\n", (512u64 << 20) + 1);
        client.send(over.as_bytes())?;
        let refused = client.read()?;
        report.bound(
            matches!(&refused, Value::Error(text) if text.contains("invalid bulk length")),
            format!("one byte more than 512 MiB: {refused:?}"),
        );
        Ok(())
    }

    /// Many keys whose time comes within one second.
    #[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
    fn expiry(&self, report: &mut Report) -> Result<()> {
        let node = self.launch("expiry")?.start()?;
        let mut client = node.client()?;
        let count = self.ground.count(50_000, 10_000_000);
        let ahead = self.ground.count(20_000, 90_000);
        client.done(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"])?;
        let due = now(&mut client)? + i64::try_from(ahead)?;
        for from in (0..count).step_by(1_000) {
            let mut bytes = Vec::new();
            for key in from..from + 1_000 {
                let deadline = (due + i64::try_from(key % 1_000)?).to_string();
                let name = format!("key:{key:012}");
                bytes.extend(encoded(&["SET", &name, &"v".repeat(64), "PXAT", &deadline]));
            }
            client.send(&bytes)?;
            for _ in 0..1_000 {
                client.read()?;
            }
        }
        let found = usize::try_from(client.number(&["DBSIZE"])?)?;
        ensure!(found == count, "some expired before all were there");
        let (full, _) = node.resident()?;
        within(PATIENCE, "the second in which they expire", || {
            Ok((now(&mut client)? > due + 1_000).then_some(()))
        })?;
        client.done(&["DEBUG", "SET-ACTIVE-EXPIRE", "1"])?;
        let started = Instant::now();
        let mut times = Vec::new();
        while client.number(&["DBSIZE"])? > 0 {
            ensure!(started.elapsed() < PATIENCE, "they do not go");
            times.extend(pings(&mut client, 20)?);
        }
        let (p99, most) = worst(&mut times);
        let (left, _) = node.resident()?;
        report.bound(
            p99 < self.patience(Duration::from_millis(10)),
            format!(
                "{count} keys that expire within one second are gone after {:?}; a request meanwhile p99 {p99:?}, longest {most:?}; memory {} MiB before, {} MiB after",
                started.elapsed(),
                full / MIB,
                left / MIB
            ),
        );
        Ok(())
    }

    /// Ten thousand connections, which then all wait.
    fn crowd(&self, report: &mut Report) -> Result<()> {
        let node = self.launch("crowd")?.setting("connections_max=20000").start()?;
        let count = self.ground.count(1_000, 10_000);
        let (before, _) = node.resident()?;
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut client = node.client()?;
            client.done(&["PING"])?;
            clients.push(client);
        }
        let mut client = node.client()?;
        let (p99, most) = worst(&mut pings(&mut client, 2_000)?);
        let each = node.resident()?.0.saturating_sub(before) / count as u64;
        report.bound(each < 8 << 10, format!("{count} connections: {each} bytes each"));
        report.bound(
            p99 < self.patience(Duration::from_millis(5)),
            format!("beside {count} connections: PING p99 {p99:?}, longest {most:?}"),
        );
        self.waits(&node, (&mut client, &mut clients), report)?;
        self.times_out(&node, (&mut client, &mut clients), report)
    }

    /// All wait for a hundred lists, and are served in their order.
    fn waits(
        &self,
        node: &Node,
        (client, clients): (&mut Resp, &mut [Resp]),
        report: &mut Report,
    ) -> Result<()> {
        const QUEUES: usize = 100;
        for (number, waiting) in clients.iter_mut().enumerate() {
            waiting.send(&encoded(&["BLPOP", &format!("queue:{}", number % QUEUES), "0"]))?;
            // Who came first is only certain when the others have not come.
            if number % QUEUES == QUEUES - 1 {
                blocked(client, number + 1)?;
            }
        }
        blocked(client, clients.len())?;
        let (p99, most) = worst(&mut pings(client, 2_000)?);
        let (resident, _) = node.resident()?;
        report.bound(
            p99 < self.patience(Duration::from_millis(5)),
            format!(
                "{} of them wait: PING p99 {p99:?}, longest {most:?}, memory {} MiB",
                clients.len(),
                resident / MIB
            ),
        );
        let mut pushes = Vec::new();
        for number in 0..clients.len() {
            let request = ["RPUSH", &format!("queue:{}", number % QUEUES), &number.to_string()];
            pushes.extend(timed(client, &request)?);
        }
        for (number, waiting) in clients.iter_mut().enumerate() {
            let Value::Array(got) = waiting.read()? else { anyhow::bail!("no element") };
            ensure!(got[1] == Value::Bulk(number.to_string().into()), "out of order: {got:?}");
        }
        let (p99, most) = worst(&mut pushes);
        report.bound(
            p99 < self.patience(Duration::from_millis(5)),
            format!("each is served in its order: RPUSH p99 {p99:?}, longest {most:?}"),
        );
        Ok(())
    }

    /// All wait for the same key, in vain, for about the same time.
    fn times_out(
        &self,
        node: &Node,
        (client, clients): (&mut Resp, &mut [Resp]),
        report: &mut Report,
    ) -> Result<()> {
        for waiting in clients.iter_mut() {
            waiting.send(&encoded(&["BLPOP", "nothing", "15"]))?;
        }
        blocked(client, clients.len())?;
        let mut times = Vec::new();
        within(PATIENCE, "the end of all waiting", || {
            times.extend(pings(client, 50)?);
            let is_over = client.text(&["INFO", "clients"])?.contains("blocked_clients:0");
            Ok(is_over.then_some(()))
        })?;
        for waiting in clients.iter_mut() {
            ensure!(waiting.read()? == Value::Null, "an element from nowhere");
        }
        let (p99, most) = worst(&mut times);
        report.bound(
            p99 < self.patience(Duration::from_millis(20)),
            format!(
                "the time of {} who wait for one key ends: PING p99 {p99:?}, longest {most:?}, memory at most {} MiB",
                clients.len(),
                node.resident()?.1 / MIB
            ),
        );
        Ok(())
    }

    /// Scripts that never end, in their kinds.
    fn scripts(&self, report: &mut Report) -> Result<()> {
        let limits = Limits::of(self.ground.size);
        let launch = self.launch("scripts")?;
        let node =
            limits.settings().iter().fold(launch, |launch, one| launch.setting(one)).start()?;
        let mut client = node.client()?;
        client.done(&["SET", "before", "1"])?;
        for (what, code) in ENDLESS {
            self.endless(&node, (what, code, limits.time), report)?;
        }
        self.killed(&node, report)?;
        let (before, _) = node.resident()?;
        let hungry = "local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end";
        let refused = node.client()?.ask(&["EVAL", hungry, "0"])?;
        let (after, _) = node.resident()?;
        let grown = after.saturating_sub(before) / MIB;
        report.bound(
            matches!(&refused, Value::Error(text) if text.starts_with("OOM")) && grown < 128,
            format!(
                "a script that takes ever more memory: {refused:?}, memory grew by {grown} MiB"
            ),
        );
        writes_on(&node, limits.write_bytes, report)?;
        let kept = node.client()?.text(&["GET", "before"])?;
        report.bound(kept == "1", "what was there before these scripts is there");
        Ok(())
    }

    /// A script is ended by its time, and others hear so meanwhile.
    #[allow(clippy::disallowed_methods, reason = "the proof measures real time")]
    fn endless(
        &self,
        node: &Node,
        (what, code, limit): (&str, &str, Duration),
        report: &mut Report,
    ) -> Result<()> {
        let (mut victim, mut other) = (node.client()?, node.client()?);
        let started = Instant::now();
        victim.send(&encoded(&["EVAL", code, "0"]))?;
        within(PATIENCE, "the first word of others", || {
            let is_busy =
                matches!(other.ask(&["PING"])?, Value::Error(text) if text.starts_with("BUSY"));
            Ok(is_busy.then_some(()))
        })?;
        let first = started.elapsed();
        let mut times = Vec::new();
        loop {
            let asked = Instant::now();
            let answer = other.ask(&["PING"])?;
            if answer == Value::Simple("PONG".into()) {
                break;
            }
            times.push(asked.elapsed());
            ensure!(started.elapsed() < limit + PATIENCE, "it goes on");
        }
        let ended = started.elapsed();
        let answer = victim.read()?;
        let peak = node.resident()?.1 / MIB;
        let (p99, most) = worst(&mut times);
        let is_told = matches!(&answer, Value::Error(text) if text.contains("script_time_max"));
        report.bound(
            is_told
                && ended < limit + self.patience(Duration::from_millis(500))
                && p99 < self.patience(Duration::from_millis(20)),
            format!(
                "{what}: others are told BUSY after {first:?}, then {} answers, p99 {p99:?}, longest {most:?}; ended after {ended:?}; memory at most {peak} MiB",
                times.len()
            ),
        );
        Ok(())
    }

    #[allow(clippy::disallowed_methods, reason = "the proof measures real time")]
    fn killed(&self, node: &Node, report: &mut Report) -> Result<()> {
        let (mut victim, mut other) = (node.client()?, node.client()?);
        victim.send(&encoded(&["EVAL", "while true do end", "0"]))?;
        let asked = within(PATIENCE, "SCRIPT KILL", || {
            let asked = Instant::now();
            Ok((other.ask(&["SCRIPT", "KILL"])? == Value::Simple("OK".into())).then_some(asked))
        })?;
        let answer = victim.read()?;
        let took = asked.elapsed();
        report.bound(
            matches!(&answer, Value::Error(text) if text.contains("killed by user"))
                && took < self.patience(Duration::from_secs(6)),
            format!("SCRIPT KILL ends it, {took:?} after it was asked, the wait until it is heard included"),
        );
        Ok(())
    }

    /// Small machines that do other things meanwhile get more time.
    fn patience(&self, time: Duration) -> Duration {
        if self.ground.size == Size::Test { time * 50 } else { time }
    }
}

/// A script that writes for ever is ended, and nothing of it is left.
#[allow(clippy::disallowed_methods, reason = "the proof measures real time")]
fn writes_on(node: &Node, limit: u64, report: &mut Report) -> Result<()> {
    let mut victim = node.client()?;
    let started = Instant::now();
    let code = "while true do redis.call('RPUSH', 'endless', ('x'):rep(1000)) end";
    let answer = victim.ask(&["EVAL", code, "0"])?;
    let ended = started.elapsed();
    let mut other = within(PATIENCE, "the data read back", || Ok(node.client().ok()))?;
    let left = within(PATIENCE, "an answer", || Ok(other.number(&["EXISTS", "endless"]).ok()))?;
    let peak = node.resident()?.1;
    let bound = limit * 4 + 256 * MIB;
    report.bound(
        matches!(&answer, Value::Error(text) if text.contains("script_write_bytes_max"))
            && left == 0
            && peak < bound,
        format!(
            "a script that writes for ever is ended after {ended:?}: {answer:?}; {left} keys of it are left; memory at most {} MiB of {}",
            peak / MIB,
            bound / MIB
        ),
    );
    Ok(())
}

/// Scripts that never end and write nothing.
const ENDLESS: &[(&str, &str)] = &[
    ("while true do end", "while true do end"),
    ("a loop that catches its end", "while true do pcall(function() while true do end end) end"),
    ("a loop in a pattern", "return ('a'):rep(20000):find(('.-'):rep(20) .. 'b')"),
    ("a loop of calls", "while true do redis.pcall('GET', 'before') end"),
];

/// The limits of scripts: those by default, or smaller ones.
struct Limits {
    time: Duration,
    write_bytes: u64,
    is_default: bool,
}

impl Limits {
    fn of(size: Size) -> Self {
        match size {
            Size::Test => {
                Self { time: Duration::from_secs(5), write_bytes: 16 * MIB, is_default: false }
            }
            Size::Full => {
                Self { time: Duration::from_secs(30), write_bytes: 1 << 30, is_default: true }
            }
        }
    }

    fn settings(&self) -> Vec<String> {
        if self.is_default {
            return Vec::new();
        }
        vec![
            "script_busy_after=100ms".to_owned(),
            format!("script_time_max={}s", self.time.as_secs()),
            format!("script_write_bytes_max={}", self.write_bytes),
            // Without optimisation a script takes its time to take memory.
            format!("script_memory_bytes_max={}", 8 * MIB),
        ]
    }
}

/// One client's life: some requests, as they should be or nearly, and its end. Gives how many.
fn session(node: &Node, commands: &[Vec<String>], dice: &mut Dice) -> Result<u64> {
    const WORDS: &[&[u8]] = &[
        b"a",
        b"b",
        b"c",
        b"d{1}",
        b"",
        b"0",
        b"1",
        b"-1",
        b"2",
        b"10",
        b"255",
        b"-9223372036854775808",
        b"9223372036854775807",
        b"18446744073709551616",
        b"3.5",
        b"inf",
        b"-inf",
        b"nan",
        b"1e400",
        b"*",
        b"[a",
        b"(b",
        b"-",
        b"+",
        b"LEFT",
        b"RIGHT",
        b"BEFORE",
        b"COUNT",
        b"LIMIT",
        b"STORE",
        b"BY",
        b"GET",
        b"WITHSCORES",
        b"BYSCORE",
        b"BYLEX",
        b"REV",
        b"NX",
        b"XX",
        b"GT",
        b"EX",
        b"PXAT",
        b"KEEPTTL",
        b"MATCH",
        b"AGGREGATE",
        b"WEIGHTS",
        b"MIN",
        b"u8",
        b"i64",
        b"#1",
        b"SET",
        b"INCRBY",
        b"OVERFLOW",
        b"SAT",
        b"DB",
        b"REPLACE",
        b"ANY",
        b"km",
        b"0.0001",
        b"$",
        b">",
        b"1-1",
        b"STREAMS",
        b"ENTRIESREAD",
        b"return 1",
        b"\0",
        b"\xff\xfe\r\n",
        b"zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
    ];
    let mut below = |end: usize| usize::try_from(dice.below(end as u64)).unwrap_or(0);
    let (mut bytes, mut count) = (Vec::new(), 0);
    for _ in 0..=below(60) {
        count += 1;
        let mut request: Vec<Vec<u8>> =
            commands[below(commands.len())].iter().map(|word| word.clone().into_bytes()).collect();
        for _ in 0..below(8) {
            request.push(WORDS[below(WORDS.len())].to_vec());
        }
        let mut one = encoded(&request);
        match below(40) {
            0 => one.truncate(below(one.len())),
            1 => {
                let at = below(one.len());
                one[at] = u8::try_from(below(256)).unwrap_or(0);
            }
            2 => one = request.join(&b' ').into_iter().chain(*b"\r\n").collect(),
            3 => one.extend((0..below(40)).map(|_| u8::try_from(below(256)).unwrap_or(0))),
            _ => {}
        }
        bytes.extend(one);
    }
    let mut stream = TcpStream::connect(&node.address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // The store may have closed it at a broken request.
    if stream.write_all(&bytes).is_ok() && stream.shutdown(Shutdown::Write).is_ok() {
        let mut replies = Vec::new();
        if let Err(error) = stream.read_to_end(&mut replies) {
            ensure!(error.kind() == std::io::ErrorKind::ConnectionReset, "{error}");
        }
    }
    Ok(count)
}

/// What a store says it has, by words; without what would end the proof rather than the store.
fn commands(client: &mut Resp) -> Result<Vec<Vec<String>>> {
    const LEFT_OUT: &[&str] = &["config|set", "debug|set-active-expire"];
    let Value::Array(names) = client.done(&["COMMAND", "LIST"])? else {
        anyhow::bail!("no list of commands");
    };
    let names = names.into_iter().filter_map(|name| match name {
        Value::Bulk(bytes) => String::from_utf8(bytes).ok(),
        Value::Simple(text) => Some(text),
        _ => None,
    });
    let names = names.filter(|name| !LEFT_OUT.contains(&name.as_str()));
    Ok(names.map(|name| name.split('|').map(str::to_owned).collect()).collect())
}

/// Waits until so many clients wait.
fn blocked(client: &mut Resp, count: usize) -> Result<()> {
    let wanted = format!("blocked_clients:{count}");
    within(PATIENCE, &wanted.clone(), || {
        let info = client.text(&["INFO", "clients"])?;
        Ok(info.lines().any(|line| line.trim() == wanted).then_some(()))
    })
}

/// Milliseconds since 1970, as the store sees it.
fn now(client: &mut Resp) -> Result<i64> {
    let Value::Array(parts) = client.done(&["TIME"])? else { anyhow::bail!("no time") };
    let [Value::Bulk(seconds), Value::Bulk(micros)] = &parts[..] else {
        anyhow::bail!("no time: {parts:?}");
    };
    let number = |bytes: &[u8]| -> Result<i64> { Ok(std::str::from_utf8(bytes)?.parse()?) };
    Ok(number(seconds)? * 1_000 + number(micros)? / 1_000)
}

#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn timed(client: &mut Resp, request: &[&str]) -> Result<Option<Duration>> {
    let started = Instant::now();
    client.done(request)?;
    Ok(Some(started.elapsed()))
}

fn pings(client: &mut Resp, count: usize) -> Result<Vec<Duration>> {
    (0..count).filter_map(|_| timed(client, &["PING"]).transpose()).collect()
}

/// The 99th of a hundred, and the longest.
fn worst(times: &mut [Duration]) -> (Duration, Duration) {
    times.sort_unstable();
    let at = (times.len() * 99 / 100).min(times.len().saturating_sub(1));
    (times.get(at).copied().unwrap_or_default(), times.last().copied().unwrap_or_default())
}

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Threads, comment, words, wrk};
use crate::http::Http;
use crate::isso::Isso;
use crate::proofs::{Ground, Report, Size};
use crate::stack::Launch;

const COMMENTS: usize = 200;
/// Of comments by their place; each is liked so many times as its place is over a multiple of it.
const LIKES: usize = 5;
const CONNECTIONS: usize = 16;

/// A thread of 200 comments with likes: computed anew for each reading, at most a millisecond of processor each; and as it is
/// kept, packed and with its tag, at least 20,000 a second and core while 5 % of requests write elsewhere on the site. Isso
/// with the same thread beside it.
pub fn thread_speed(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let folder = tempfile::tempdir()?;
    let threads = Threads::start(Launch::new(&ground.binary, folder.path()))?;
    fill(&threads)?;
    let path = threads.thread_path("/long");
    let plain = threads.stack.stranger().get(&path)?;
    let comments = plain.ok()?["comments"].as_array().map_or(0, Vec::len);
    let mut client = Client::open(threads.stack.http_address())?;
    let packed = client.get(&path)?;
    report.bound(
        comments == COMMENTS,
        format!(
            "a thread of {comments} comments: {} bytes of JSON, {packed} packed",
            plain.body.len()
        ),
    );

    // A comment that is newer than all: the same thread by another name, which nobody has computed.
    let fresh = ground.count(50, 2_000);
    let before = threads.stack.cpu()?;
    for number in 0..fresh {
        client.get(&format!("{path}&before=ffffffff-0000-7000-8000-{number:012x}"))?;
    }
    let each = threads.stack.cpu()?.saturating_sub(before) / u32::try_from(fresh)?;
    let is_full = ground.size == Size::Full;
    report.bound(
        !is_full || each <= Duration::from_millis(1),
        format!("computed anew, {fresh} readings: {each:?} of processor each"),
    );

    let time = Duration::from_secs(if is_full { 20 } else { 1 });
    let Load { reads, writes, cpu } = load(&threads, &path, time)?;
    let rate = (reads + writes) as f64 / cpu.as_secs_f64();
    report.bound(
        (!is_full || rate >= 20_000.0) && writes * 19 >= reads,
        format!(
            "kept, packed: {rate:.0} requests a second of processor, {:.0} in all, {reads} readings and {writes} likes elsewhere on the site",
            (reads + writes) as f64 / time.as_secs_f64(),
        ),
    );
    if is_full {
        beside(&threads, &path, &mut report)?;
    }
    Ok(report)
}

/// Isso's way of the same thread, both asked by wrk from the last core.
fn beside(threads: &Threads, path: &str, report: &mut Report) -> Result<()> {
    const SECONDS: usize = 10;
    let isso = Isso::start()?;
    let mut parent = None;
    for number in 0..COMMENTS {
        let answered = parent.filter(|_| number % 4 != 0);
        parent = Some(isso.write("/long", &text(number), answered)?);
    }
    isso.like(LIKES as u64)?;
    let shown = Http::new(&isso.address()).get("/?uri=/long")?;
    ensure!(shown.ok()?["total_replies"].as_u64().is_some_and(|count| count > 0), "no thread");
    let bytes = shown.body.len();
    let before = isso.cpu()?;
    let found = wrk(&format!("http://{}/?uri=/long", isso.address()), 4, SECONDS)?;
    let each = (isso.cpu()?.saturating_sub(before)).as_secs_f64() / found.requests;
    report.figure(format!(
        "Isso 0.14.0, two workers, {bytes} bytes of JSON: {:.0} a second, p99 {:.1} ms, {:.1} ms of processor each",
        found.per_second,
        found.p99_millis,
        each * 1_000.0
    ));
    let before = threads.stack.cpu()?;
    let ours = wrk(&format!("http://{}{path}", threads.stack.http_address()), 4, SECONDS)?;
    let each = (threads.stack.cpu()?.saturating_sub(before)).as_secs_f64() / ours.requests;
    report.bound(
        ours.per_second > found.per_second,
        format!(
            "Madang asked the same way: {:.0} a second, p99 {:.1} ms, {:.3} ms of processor each",
            ours.per_second,
            ours.p99_millis,
            each * 1_000.0
        ),
    );
    Ok(())
}

fn fill(threads: &Threads) -> Result<()> {
    let http = threads.stack.stranger();
    let mut parent: Option<String> = None;
    for number in 0..COMMENTS {
        let browser = format!("a-browser-of-reader-{}", number % 20);
        let mut body = comment("/long", &browser, &text(number));
        if number % 4 != 0 {
            body["parent"] = json!(parent);
        }
        let written = http.post(&threads.path("comments"), &body)?.ok()?;
        let id = written["id"].as_str().context("no id")?.to_owned();
        for voter in 0..number % LIKES {
            let like = json!({"liked": true, "browser": format!("a-browser-of-voter-{voter}")});
            http.post(&threads.path(&format!("comments/{id}/like")), &like)?.ok()?;
        }
        parent = Some(id);
    }
    for _ in 0..CONNECTIONS {
        let other = comment("/other", "a-browser-of-reader-1", "elsewhere");
        http.post(&threads.path("comments"), &other)?.ok()?;
    }
    Ok(())
}

/// A comment as people write them: no two are alike, so packing has work to do.
fn text(number: usize) -> String {
    let begin = words(number, 14);
    let end = words(number + COMMENTS, 8);
    format!(
        "{begin}, **{}** and [there](https://example.com/{number}).\n\n{end}.",
        words(number, 2)
    )
}

struct Load {
    reads: usize,
    writes: usize,
    cpu: Duration,
}

/// Each connection reads the thread nineteen times, and then likes a comment of another page, or not any more.
#[allow(clippy::disallowed_methods, reason = "a proof measures real time")]
fn load(threads: &Threads, path: &str, time: Duration) -> Result<Load> {
    let other = threads.stack.stranger().get(&threads.thread_path("/other"))?.ok()?;
    let (reads, writes) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let before = threads.stack.cpu()?;
    let began = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let (reads, writes) = (&reads, &writes);
        let readers: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                let id = other["comments"][number]["id"].as_str().context("no comment")?;
                let like = threads.path(&format!("comments/{id}/like"));
                Ok(scope.spawn(move || -> Result<()> {
                    let mut client = Client::open(threads.stack.http_address())?;
                    let mut is_liked = false;
                    while began.elapsed() < time {
                        for _ in 0..19 {
                            client.get(path)?;
                            reads.fetch_add(1, Ordering::Relaxed);
                        }
                        is_liked = !is_liked;
                        let body = json!({"liked": is_liked, "browser": "a-browser-of-a-voter"});
                        client.post(&like, &body.to_string())?;
                        writes.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                }))
            })
            .collect::<Result<_>>()?;
        for reader in readers {
            reader.join().expect("a reader does not panic")?;
        }
        Ok(())
    })?;
    let cpu = threads.stack.cpu()?.saturating_sub(before);
    Ok(Load { reads: reads.into_inner(), writes: writes.into_inner(), cpu })
}

/// One connection that is kept, and takes packed answers.
struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    address: String,
    body: Vec<u8>,
}

impl Client {
    fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let reader = BufReader::with_capacity(64 << 10, stream.try_clone()?);
        Ok(Self { stream, reader, address: address.to_owned(), body: Vec::new() })
    }

    /// How many bytes the answer has.
    fn get(&mut self, path: &str) -> Result<usize> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\naccept-encoding: gzip\r\n\r\n",
            self.address
        );
        self.ask(&request)
    }

    fn post(&mut self, path: &str, body: &str) -> Result<usize> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        self.ask(&request)
    }

    fn ask(&mut self, request: &str) -> Result<usize> {
        self.stream.write_all(request.as_bytes())?;
        let mut length = 0;
        let mut line = String::new();
        let mut is_first = true;
        loop {
            line.clear();
            ensure!(self.reader.read_line(&mut line)? > 0, "the connection ended");
            if is_first {
                ensure!(line.starts_with("HTTP/1.1 200"), "{line}");
                is_first = false;
            }
            if line == "\r\n" {
                break;
            }
            if let Some(("content-length", value)) = line.split_once(':') {
                length = value.trim().parse()?;
            }
        }
        self.body.resize(length, 0);
        self.reader.read_exact(&mut self.body)?;
        ensure!(length > 0, "nothing came");
        Ok(length)
    }
}

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Threads, comment};
use crate::proofs::{Ground, Report};
use crate::stack::Launch;

const COMMENTS: usize = 200;

/// A thread of 200 comments with likes: computed anew for each reading, at most a millisecond of processor each; and as it is
/// kept, packed and with its tag, at least 20,000 a second and core while 5 % of requests write elsewhere on the site.
#[allow(clippy::disallowed_methods, reason = "a proof measures real time")]
pub fn thread_speed(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let folder = tempfile::tempdir()?;
    let threads = Threads::start(Launch::new(&ground.binary, folder.path()))?;
    fill(&threads)?;
    let path = threads.thread_path("/long");
    let plain = threads.stack.stranger().get(&path)?;
    let comments = plain.ok()?["comments"].as_array().map_or(0, Vec::len);
    report.bound(
        comments == COMMENTS,
        format!("a thread of {comments} comments, {} bytes of JSON", plain.body.len()),
    );

    // A comment that is newer than all: the same thread by another name, which nobody has computed.
    let fresh = ground.count(50, 2_000);
    let mut client = Client::open(threads.stack.http_address())?;
    let before = threads.stack.cpu()?;
    for number in 0..fresh {
        client.get(&format!("{path}&before=ffffffff-0000-7000-8000-{number:012x}"))?;
    }
    let each = threads.stack.cpu()?.saturating_sub(before) / u32::try_from(fresh)?;
    let is_full = ground.size == crate::proofs::Size::Full;
    report.bound(
        !is_full || each <= Duration::from_millis(1),
        format!("computed anew, {fresh} readings: {each:?} of processor each, one statement"),
    );

    let time = Duration::from_secs(if is_full { 20 } else { 1 });
    let (reads, writes, cpu) = load(&threads, &path, time)?;
    let rate = reads as f64 / cpu.as_secs_f64();
    report.bound(
        !is_full || rate >= 20_000.0,
        format!(
            "kept, packed: {reads} readings in {time:?}, {:.0} a second, {rate:.0} a second of processor, beside {writes} likes elsewhere on the site",
            reads as f64 / time.as_secs_f64()
        ),
    );
    Ok(report)
}

fn fill(threads: &Threads) -> Result<()> {
    let http = threads.stack.stranger();
    let text = "A comment of some length, with **marks** and a [link](https://example.com/page), as people write them. ".repeat(2);
    let mut parent: Option<String> = None;
    for number in 0..COMMENTS {
        let mut body = comment("/long", &format!("a-browser-of-reader-{}", number % 20), &text);
        if number % 4 != 0 {
            body["parent"] = json!(parent);
        }
        let written = http.post(&threads.path("comments"), &body)?.ok()?;
        let id = written["id"].as_str().context("no id")?.to_owned();
        for voter in 0..number % 5 {
            let like = json!({"liked": true, "browser": format!("a-browser-of-voter-{voter}")});
            http.post(&threads.path(&format!("comments/{id}/like")), &like)?.ok()?;
        }
        parent = Some(id);
    }
    let other = comment("/other", "a-browser-of-reader-1", "elsewhere");
    http.post(&threads.path("comments"), &other)?.ok()?;
    Ok(())
}

/// Readings by some connections, and for every twenty of them a like of a comment of another page.
#[allow(clippy::disallowed_methods, reason = "a proof measures real time")]
fn load(threads: &Threads, path: &str, time: Duration) -> Result<(usize, usize, Duration)> {
    let other = threads.stack.stranger().get(&threads.thread_path("/other"))?.ok()?;
    let id = other["comments"][0]["id"].as_str().context("no comment")?.to_owned();
    let like = threads.path(&format!("comments/{id}/like"));
    let (reads, writes, is_over) =
        (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let before = threads.stack.cpu()?;
    std::thread::scope(|scope| -> Result<()> {
        let readers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let mut client = Client::open(threads.stack.http_address())?;
                    while !is_over.load(Ordering::Relaxed) {
                        client.get(path)?;
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        let writer = scope.spawn(|| -> Result<()> {
            let http = threads.stack.stranger();
            while !is_over.load(Ordering::Relaxed) {
                let done = writes.load(Ordering::Relaxed);
                if done * 19 >= reads.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                    continue;
                }
                let body = json!({"liked": done % 2 == 0, "browser": "a-browser-of-a-voter"});
                http.post(&like, &body)?.ok()?;
                writes.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let began = Instant::now();
        while began.elapsed() < time {
            std::thread::sleep(Duration::from_millis(10));
        }
        is_over.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().expect("a reader does not panic")?;
        }
        writer.join().expect("a writer does not panic")
    })?;
    let cpu = threads.stack.cpu()?.saturating_sub(before);
    Ok((reads.into_inner(), writes.into_inner(), cpu))
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

    fn get(&mut self, path: &str) -> Result<()> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\naccept-encoding: gzip\r\n\r\n",
            self.address
        );
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
        Ok(())
    }
}

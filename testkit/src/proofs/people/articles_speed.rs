use std::fmt::Write as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Wrk, wrk};
use crate::http::Http;
use crate::line::Line;
use crate::proofs::{Ground, Report, Size};
use crate::servers::Postgres;
use crate::stack::{Launch, Stack};

/// Per core: a list of 20 of 1,000 articles from the rows at least 15,000 times a second with p99 under 5 ms, one article
/// that is kept at least 60,000 times; PostgreSQL beside it. Among writers no read is older than what was acknowledged
/// before it began, on one node and on two over PostgreSQL.
pub fn articles_speed(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let folder = tempfile::tempdir()?;
    let launch = Launch::new(&ground.binary, &folder.path().join("sqlite"));
    {
        let stack = launch.start()?;
        let slug = fill(&stack, ground.count(60, 1_000))?;
        speed(ground, &stack, &slug, "SQLite", &mut report)?;
        stale(ground, &[&stack], "one node, SQLite", &mut report)?;
    }
    let postgres = Postgres::start()?;
    let url = postgres.database("articles")?;
    let node = |name: &str| {
        let launch = Launch::new(&ground.binary, &folder.path().join(name));
        // Servers that share rows have the same keys.
        let launch = ["DELIVERY", "IDENTITY"].iter().fold(launch, |launch, room| {
            let file = folder.path().join(room).display().to_string();
            launch.environment(&format!("MADANG__{room}__KEY_FILE"), &file)
        });
        launch.environment("MADANG__RELATIONAL__URL", &url).start()
    };
    let first = node("first")?;
    let slug = fill(&first, ground.count(60, 1_000))?;
    speed(ground, &first, &slug, "PostgreSQL", &mut report)?;
    let second = node("second")?;
    stale(ground, &[&first, &second], "two nodes, PostgreSQL", &mut report)?;
    Ok(report)
}

/// Somebody with an account.
fn somebody(stack: &Stack, name: &str) -> Result<Http> {
    let user = json!({"user": {
        "username": name, "email": format!("{name}@example.com"), "password": "password123",
    }});
    let user = stack.stranger().post("/conduit/api/users", &user)?.ok()?;
    let token = user["user"]["token"].as_str().context("no token")?;
    Ok(stack.stranger().bearer(token))
}

fn publish(author: &Http, number: usize) -> Result<String> {
    let article = json!({"article": {
        "title": format!("마당 이야기 {number}"),
        "description": "봄부터 겨울까지 마당에서 지낸 기록",
        "body": "감나무 아래 평상을 놓고 저녁을 먹었다. ".repeat(20),
        "tagList": ["마당", "기록"],
    }});
    let made = author.post("/conduit/api/articles", &article)?.ok()?;
    Ok(made["article"]["slug"].as_str().context("no slug")?.to_owned())
}

fn fill(stack: &Stack, count: usize) -> Result<String> {
    let author = somebody(stack, "author")?;
    let mut slug = String::new();
    for number in 0..count {
        slug = publish(&author, number)?;
    }
    let mut escaped = String::new();
    for byte in slug.bytes() {
        write!(escaped, "%{byte:02X}")?;
    }
    Ok(escaped)
}

fn speed(
    ground: &Ground,
    stack: &Stack,
    slug: &str,
    database: &str,
    report: &mut Report,
) -> Result<()> {
    // The line is about a release on a machine of its own.
    let is_full = ground.size == Size::Full;
    let is_bound = is_full && database == "SQLite";
    let of = |least: f64| if is_bound { least } else { 0.0 };
    let list = load(ground, stack, "/conduit/api/articles")?;
    let p99_most = if is_bound { 5.0 } else { f64::INFINITY };
    report.bound(
        list.per_core >= of(15_000.0) && list.found.p99_millis < p99_most,
        format!("list of 20 from {database}: {list}"),
    );
    let article = load(ground, stack, &format!("/conduit/api/articles/{slug}"))?;
    report.bound(
        article.per_core >= of(60_000.0),
        format!("one kept article, {database}: {article}"),
    );
    Ok(())
}

struct Load {
    found: Wrk,
    /// By the processor time that the server took.
    per_core: f64,
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Wrk { per_second, p50_millis, p99_millis, .. } = self.found;
        write!(
            f,
            "{:.0} a second of one core ({per_second:.0} in all), p50 {p50_millis:.2} ms, p99 {p99_millis:.2} ms",
            self.per_core
        )
    }
}

/// 32 connections from the last core, the server on the first.
fn load(ground: &Ground, stack: &Stack, path: &str) -> Result<Load> {
    let url = format!("http://{}{path}", stack.http_address());
    let seconds = ground.count(1, 15);
    let cores = std::thread::available_parallelism()?.get();
    if cores > 1 {
        let pinned = Command::new("taskset")
            .args(["-acp", "0", &stack.pid().to_string()])
            .output()
            .context("taskset")?;
        ensure!(pinned.status.success(), "the server was not pinned to a core");
    }
    ensure!(stack.stranger().get(path)?.status == 200, "{path} is not there");
    let before = stack.cpu()?;
    let found = wrk(&url, 32, seconds)?;
    let spent = stack.cpu()?.saturating_sub(before);
    Ok(Load { per_core: found.requests / spent.as_secs_f64().max(f64::EPSILON), found })
}

/// Writers number what they write; a reader that is shown a smaller number than was acknowledged before it asked was shown
/// something stale.
fn stale(ground: &Ground, stacks: &[&Stack], where_: &str, report: &mut Report) -> Result<()> {
    const ARTICLES: usize = 4;
    const READERS: usize = 4;
    let reads_max = ground.count(2_000, 1_000_000) as u64;
    let author = somebody(stacks[0], "writer")?;
    let slugs: Vec<String> = (0..ARTICLES)
        .map(|number| {
            let article = json!({"article": {
                "title": format!("Count {number}"), "description": "0", "body": "b",
            }});
            let made = author.post("/conduit/api/articles", &article)?.ok()?;
            Ok(made["article"]["slug"].as_str().context("no slug")?.to_owned())
        })
        .collect::<Result<_>>()?;
    let acknowledged: Vec<AtomicU64> = (0..ARTICLES).map(|_| AtomicU64::new(0)).collect();
    let (reads, old, writes) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..ARTICLES)
            .map(|place| {
                let (author, slug) = (&author, &slugs[place]);
                let (acknowledged, writes, is_over) = (&acknowledged[place], &writes, &is_over);
                scope.spawn(move || write(author, slug, (acknowledged, writes), is_over))
            })
            .collect();
        let readers: Vec<_> = (0..READERS)
            .map(|place| {
                let stack = stacks[place % stacks.len()];
                let (slugs, acknowledged) = (&slugs, &acknowledged);
                let (reads, old) = (&reads, &old);
                scope.spawn(move || -> Result<()> {
                    let mut line = Line::open(stack)?;
                    for turn in 0.. {
                        if reads.fetch_add(1, Ordering::Relaxed) >= reads_max {
                            break;
                        }
                        let which = turn % ARTICLES;
                        let least = acknowledged[which].load(Ordering::SeqCst);
                        let shown = number_of(&mut line, &slugs[which])?;
                        old.fetch_add(u64::from(shown < least), Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        for reader in readers {
            reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        }
        is_over.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let (old, writes) = (old.load(Ordering::Relaxed), writes.load(Ordering::Relaxed));
    report.bound(
        old == 0 && writes > 0,
        format!("{where_}: {reads_max} reads beside {writes} writes, {old} stale"),
    );
    Ok(())
}

fn write(
    author: &Http,
    slug: &str,
    (acknowledged, writes): (&AtomicU64, &AtomicU64),
    is_over: &AtomicBool,
) -> Result<()> {
    let path = format!("/conduit/api/articles/{slug}");
    for number in 1_u64.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let change = json!({"article": {"description": number.to_string()}}).to_string();
        author.send("PUT", &path, Some(("application/json", change.as_bytes())))?.ok()?;
        acknowledged.store(number, Ordering::SeqCst);
        writes.fetch_add(1, Ordering::Relaxed);
        // Reads are the most.
        std::thread::park_timeout(Duration::from_millis(2));
    }
    Ok(())
}

fn number_of(line: &mut Line, slug: &str) -> Result<u64> {
    const BEFORE: &[u8] = br#""description":""#;
    let request = format!("GET /conduit/api/articles/{slug} HTTP/1.1\r\nhost: here\r\n\r\n");
    let (status, body) = line.ask(request.as_bytes())?;
    let at = body.windows(BEFORE.len()).position(|it| it == BEFORE);
    let at = at.with_context(|| format!("{status} without a description"))? + BEFORE.len();
    let digits = body[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    Ok(std::str::from_utf8(&body[at..at + digits])?.parse()?)
}

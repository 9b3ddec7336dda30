use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{BLOG, Threads, comment};
use crate::http::{Http, Reply};
use crate::proofs::{Ground, Report};
use crate::stack::Launch;
use crate::wait::within_every;

/// A hundred writers on one thread at once, each with a browser of its own: every comment is sent twice under one nonce,
/// every like by two requests at once, some comments are deleted again. What pages, lists and statistics count is what was
/// acknowledged.
pub fn crowd(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let (writers, each) = (ground.count(20, 100), ground.count(5, 20));
    let folder = tempfile::tempdir()?;
    let threads = Threads::start(Launch::new(&ground.binary, folder.path()))?;
    let first = {
        let body = comment("/crowd", "a-browser-of-nobody-0", "like this one");
        let written = post(&threads.stack.stranger(), &threads.path("comments"), &body, &mut 0)?;
        written["id"].as_str().context("no id")?.to_owned()
    };
    let busy = AtomicUsize::new(0);
    let ends: Vec<Result<Writer>> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..writers)
            .map(|number| {
                let (threads, first, busy) = (&threads, &first, &busy);
                scope.spawn(move || {
                    let mut writer = Writer::new(number);
                    writer.write(threads, first, each)?;
                    busy.fetch_add(writer.busy, Ordering::Relaxed);
                    Ok(writer)
                })
            })
            .collect();
        all.into_iter().map(|one| one.join().expect("a writer does not panic")).collect()
    });
    let mut kept = BTreeSet::from([first.clone()]);
    let mut deleted = BTreeSet::new();
    for end in ends {
        let writer = end?;
        kept.extend(writer.kept);
        deleted.extend(writer.deleted);
    }
    let written = writers * each + 1;
    report.bound(
        kept.len() + deleted.len() == written,
        format!(
            "{writers} writers on one thread, {written} comments sent twice each, {} deleted again; {} refusals while busy",
            deleted.len(),
            busy.load(Ordering::Relaxed)
        ),
    );
    recount(&threads, &first, (&kept, writers), &mut report)?;
    Ok(report)
}

/// What everybody sees afterwards, against what was acknowledged.
fn recount(
    threads: &Threads,
    first: &str,
    (kept, writers): (&BTreeSet<String>, usize),
    report: &mut Report,
) -> Result<()> {
    let api = threads.stack.api();
    let of_site = |rest: &str| format!("/v1/comment-sites/{}/{rest}", threads.site);
    let mut shown = BTreeSet::new();
    let mut before = String::new();
    let mut count = 0;
    let mut likes = 0;
    loop {
        let path = format!("{}{before}", threads.thread_path("/crowd"));
        let thread = threads.stack.stranger().get(&path)?.ok()?;
        let comments = thread["comments"].as_array().context("no comments")?;
        count = thread["count"].as_u64().unwrap_or(count);
        for one in comments.iter().filter(|one| one["deleted"] != true) {
            let id = one["id"].as_str().context("no id")?;
            if id == first {
                likes = one["likes"].as_u64().unwrap_or(0);
            }
            ensure!(shown.insert(id.to_owned()), "{id} is there twice");
        }
        if thread["earlier"] != true {
            break;
        }
        let oldest = comments.first().and_then(|one| one["id"].as_str()).context("no first")?;
        before = format!("&before={oldest}");
    }
    report.bound(
        shown == *kept && count == kept.len() as u64,
        format!(
            "the thread shows {} comments and counts {count}; {} were kept",
            shown.len(),
            kept.len()
        ),
    );
    let wanted = writers as u64;
    report.bound(
        likes == wanted,
        format!("{likes} likes of {wanted} browsers that sent each two at once"),
    );
    let counted = json!({"urls": [format!("{BLOG}/crowd/")]});
    let counted = threads.stack.stranger().post(&threads.path("counts"), &counted)?.ok()?["counts"]
        [0]
    .clone();
    let listed =
        api.all(&of_site("comments"))?.iter().filter(|one| one["state"] == "shown").count();
    let states = api.get(&of_site("states"))?.ok()?;
    let mut totals = Vec::new();
    for by in ["hour", "day", "month"] {
        let path = format!("statistics?by={by}&from={}&to={}", day(&api, -1)?, day(&api, 1)?);
        totals.push(api.get(&of_site(&path))?.ok()?["total"].clone());
    }
    let wanted = json!(kept.len());
    let is_equal = counted == wanted
        && json!(listed) == wanted
        && states["shown"] == wanted
        && totals.iter().all(|total| *total == wanted);
    report.bound(
        is_equal,
        format!(
            "counted for lists {counted}, listed {listed}, by state {}, by hour, day and month {}",
            states["shown"],
            totals.iter().map(Value::to_string).collect::<Vec<_>>().join(" ")
        ),
    );
    Ok(())
}

/// A day around now, by the server's clock.
fn day(api: &Http, days: i64) -> Result<String> {
    let session = api.get("/v1/comment-sites")?;
    let created = session.ok()?["items"][0]["created"].as_str().context("no site")?.to_owned();
    let (year, rest) = created.split_once('-').context("no date")?;
    let (month, rest) = rest.split_once('-').context("no date")?;
    let (year, month, day): (i64, i64, i64) = (year.parse()?, month.parse()?, rest[..2].parse()?);
    // Days before the month and after it are the neighbours' ends.
    let (mut month, mut day) = (month, day + days * 2);
    if day < 1 {
        (month, day) = (month - 1, 27);
    } else if day > 28 {
        (month, day) = (month + 1, 2);
    }
    let year = year + (month - 1).div_euclid(12);
    Ok(format!("{year:04}-{:02}-{day:02}", (month - 1).rem_euclid(12) + 1))
}

struct Writer {
    number: usize,
    browser: String,
    kept: BTreeSet<String>,
    deleted: BTreeSet<String>,
    /// How often the server said that it was busy.
    busy: usize,
}

impl Writer {
    fn new(number: usize) -> Self {
        let browser = format!("a-browser-of-writer-{number}");
        Self { number, browser, kept: BTreeSet::new(), deleted: BTreeSet::new(), busy: 0 }
    }

    fn write(&mut self, threads: &Threads, first: &str, each: usize) -> Result<()> {
        let http = threads.stack.stranger();
        let mut parent: Option<String> = None;
        for index in 0..each {
            let mut body = comment("/crowd", &self.browser, &format!("{} {index}", self.number));
            body["nonce"] = json!(format!("nonce-of-{:04}-{index:06}", self.number));
            if let Some(parent) = &parent {
                body["parent"] = json!(parent);
            }
            let once = post(&http, &threads.path("comments"), &body, &mut self.busy)?;
            let again = post(&http, &threads.path("comments"), &body, &mut self.busy)?;
            ensure!(once["id"] == again["id"], "the same nonce made two comments");
            let id = once["id"].as_str().context("no id")?.to_owned();
            if index % 5 == 4 {
                let path = threads.path(&format!("comments/{id}/delete"));
                post(&http, &path, &json!({"browser": self.browser}), &mut self.busy)?;
                self.deleted.insert(id);
            } else {
                self.kept.insert(id.clone());
                parent = Some(id);
            }
        }
        let path = threads.path(&format!("comments/{first}/like"));
        let body = json!({"liked": true, "browser": self.browser});
        std::thread::scope(|scope| {
            let other = scope.spawn(|| post(&threads.stack.stranger(), &path, &body, &mut 0));
            let own = post(&http, &path, &body, &mut 0);
            other.join().expect("a like does not panic")?;
            own
        })?;
        Ok(())
    }
}

/// Posts until the server is not too busy, and gives what it answered.
fn post(http: &Http, path: &str, body: &Value, busy: &mut usize) -> Result<Value> {
    within_every(Duration::from_millis(20), Duration::from_mins(5), path, || {
        let reply: Reply = http.post(path, body)?;
        match reply.status {
            503 => {
                *busy += 1;
                Ok(None)
            }
            204 => Ok(Some(Value::Null)),
            200 | 201 => Ok(Some(reply.json()?)),
            status => bail!("status {status}: {}", String::from_utf8_lossy(&reply.body)),
        }
    })
}

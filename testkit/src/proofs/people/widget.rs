use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{BLOG, Threads, comment, words};
use crate::browser::Browser;
use crate::embedded::Embedded;
use crate::proofs::{Ground, Report, Size};
use crate::stack::{Launch, Stack};

const WIDGET_BYTES_MAX: usize = 6 << 10;
/// A phone: four times slower than this machine, on a good mobile network.
const TIMES_SLOWER: u32 = 4;
const NETWORK_MILLIS: u32 = 10;
const NETWORK_BYTES_PER_SECOND: u32 = 2_500_000;

/// The widget is at most 6 KB packed; its first comment is painted within 150 ms on a cold page of another origin in a slow
/// Chromium; 500,000 comments are imported within a minute, and the same file again changes nothing.
pub fn widget(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let folder = tempfile::tempdir()?;
    let launch = Launch::new(&ground.binary, folder.path());
    let launch = launch.environment("MADANG__COMMENTS__IMPORT_BYTES_MAX", &FILE_BYTES.to_string());
    let threads = Threads::start(launch)?;
    let packed = threads.stack.stranger().header("accept-encoding", "gzip");
    let length = packed.get("/comments/widget.js")?;
    let length = length.headers.iter().find(|(name, _)| name == "content-length");
    let bytes: usize = length.context("no length")?.1.parse()?;
    report.bound(bytes <= WIDGET_BYTES_MAX, format!("the widget: {bytes} bytes packed, all of it"));
    painted(ground, &threads.stack, &mut report)?;
    imported(ground, &threads, &mut report)?;
    Ok(report)
}

fn painted(ground: &Ground, stack: &Stack, report: &mut Report) -> Result<()> {
    // When the frame after the first comment was shown, in milliseconds since the page was asked for.
    const SEEN: &str = "<script>
        const attach = Element.prototype.attachShadow;
        Element.prototype.attachShadow = function (how) {
            const root = attach.call(this, how);
            new MutationObserver((_, seen) => {
                if (!root.querySelector('article')) return;
                seen.disconnect();
                requestAnimationFrame(() => setTimeout(() => { window.painted = performance.now(); }));
            }).observe(root, { childList: true, subtree: true });
            return root;
        };
        requestAnimationFrame(() => setTimeout(() => { window.bare = performance.now(); }));
        </script>";
    let (blog, site) = Embedded::blog_with(stack, SEEN)?;
    let key = site["key"].as_str().context("no key")?;
    for number in 0..20 {
        let mut body =
            comment("/post", &format!("a-browser-of-reader-{number}"), &words(number, 30));
        body["url"] = json!(format!("{}/post", blog.origin()));
        stack.stranger().post(&format!("/comments/{key}/comments"), &body)?.ok()?;
    }
    let browser = Browser::open(412, 915, "en")?;
    let (mut all, mut bare) = (Vec::new(), Vec::new());
    for visit in 0..ground.count(3, 15) {
        browser.slow(TIMES_SLOWER, NETWORK_MILLIS, NETWORK_BYTES_PER_SECOND)?;
        browser.go(&format!("{}/post?utm_source={visit}", blog.origin()))?;
        browser.until("the first comment", "return window.painted > 0")?;
        for (moments, name) in [(&mut all, "painted"), (&mut bare, "bare")] {
            let moment = browser.script(&format!("return window.{name}"))?;
            moments.push(moment.as_f64().context("no moment")?);
        }
    }
    all.sort_by(f64::total_cmp);
    bare.sort_by(f64::total_cmp);
    let (median, longest) = (all[all.len() / 2], all[all.len() - 1]);
    report.bound(
        ground.size == Size::Test || median < 150.0,
        format!(
            "first of 20 comments painted after {median:.0} ms on a cold page (median of {}, longest {longest:.0} ms), Chromium {TIMES_SLOWER} times slower, \
            {NETWORK_MILLIS} ms and {} Mbit/s away",
            all.len(),
            NETWORK_BYTES_PER_SECOND / 125_000
        ),
    );
    report.figure(format!("the page's own heading after {:.0} ms", bare[bare.len() / 2]));
    Ok(())
}

/// Bytes of one file.
const FILE_BYTES: usize = 16 << 20;
const COMMENTS_PER_PAGE: usize = 100;
const COMMENTS_PER_FILE: usize = 25_000;

#[allow(clippy::disallowed_methods, reason = "a proof measures real time")]
fn imported(ground: &Ground, threads: &Threads, report: &mut Report) -> Result<()> {
    let count = ground.count(3_000, 500_000);
    let api = threads.stack.api();
    let path = |rest: &str| format!("/v1/comment-sites/{}/{rest}", threads.site);
    let mut took = Duration::ZERO;
    let mut added = 0;
    let mut bytes = 0;
    let cpu = threads.stack.cpu()?;
    for begin in (0..count).step_by(COMMENTS_PER_FILE) {
        let file = file(begin, count.min(begin + COMMENTS_PER_FILE));
        bytes += file.len();
        let body = json!({"format": "madang", "text": file});
        let began = Instant::now();
        let done = api.post(&path("import"), &body)?.ok()?;
        took += began.elapsed();
        ensure!(done["skipped"] == 0, "{done}");
        added += done["added"].as_u64().unwrap_or(0);
    }
    let cpu = threads.stack.cpu()?.saturating_sub(cpu);
    report.bound(
        added == count as u64 && (ground.size == Size::Test || took < Duration::from_mins(1)),
        format!(
            "{added} comments of {} pages ({} MB) imported in {:.1} s, {:.1} s of processor",
            count / COMMENTS_PER_PAGE,
            bytes >> 20,
            took.as_secs_f64(),
            cpu.as_secs_f64()
        ),
    );
    let again = json!({"format": "madang", "text": file(0, count.min(COMMENTS_PER_FILE))});
    let again = api.post(&path("import"), &again)?.ok()?;
    let states = api.get(&path("states"))?.ok()?;
    let urls = json!({"urls": [format!("{BLOG}/imported/0")]});
    let counted = threads.stack.stranger().post(&threads.path("counts"), &urls)?.ok()?;
    report.bound(
        again["added"] == 0
            && states["shown"] == count
            && counted["counts"][0] == COMMENTS_PER_PAGE,
        format!(
            "the first file again: {} new; {} are shown, {} of them under the first page",
            again["added"], states["shown"], counted["counts"][0]
        ),
    );
    Ok(())
}

/// Comments in the form of an export, each an answer to the one before on its page.
fn file(begin: usize, end: usize) -> String {
    const FIRST: i64 = 1_600_000_000_000;
    let mut lines = String::new();
    for number in begin..end {
        let page = number / COMMENTS_PER_PAGE;
        let parent = (number % COMMENTS_PER_PAGE > 0).then(|| format!("c{}", number - 1));
        let minutes = i64::try_from(number).expect("a count of comments is small");
        let moment = base::Timestamp::from_millis(FIRST + minutes * 60_000);
        let line = json!({
            "id": format!("c{number}"), "parent": parent, "url": format!("{BLOG}/imported/{page}"),
            "title": format!("Page {page}"), "name": format!("Reader {}", number % 5_000),
            "text": words(number, 25), "created": moment.to_string(),
        });
        lines.push_str(&line.to_string());
        lines.push('\n');
    }
    lines
}

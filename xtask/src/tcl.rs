//! kv/tcl: the suite of Redis 7.0.15, in its external mode, against redis-server itself and against the store.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::proofs::Report;
use testkit::{Node, NodeLaunch, Value, cache_folder};

use crate::shell;

/// A unit of the suite, and a command without which it is about something that is not there.
struct Unit {
    name: &'static str,
    about: &'static [&'static str],
}

const fn unit(name: &'static str, about: &'static [&'static str]) -> Unit {
    Unit { name, about }
}

const UNITS: &[Unit] = &[
    unit("unit/keyspace", &["KEYS"]),
    unit("unit/scan", &["SCAN"]),
    unit("unit/info", &["INFO"]),
    unit("unit/protocol", &["PING"]),
    unit("unit/type/string", &["SET"]),
    unit("unit/type/incr", &["INCR"]),
    unit("unit/type/list", &["LPUSH"]),
    unit("unit/type/list-2", &["LPUSH"]),
    unit("unit/type/list-3", &["LPUSH"]),
    unit("unit/type/set", &["SADD"]),
    unit("unit/type/zset", &["ZADD"]),
    unit("unit/type/hash", &["HSET"]),
    unit("unit/type/stream", &["XADD"]),
    unit("unit/type/stream-cgroups", &["XGROUP", "CREATE"]),
    unit("unit/sort", &["SORT"]),
    unit("unit/expire", &["EXPIRE"]),
    unit("unit/other", &["SET"]),
    unit("unit/multi", &["MULTI"]),
    unit("unit/quit", &["QUIT"]),
    unit("unit/pubsub", &["SUBSCRIBE"]),
    unit("unit/pubsubshard", &["SSUBSCRIBE"]),
    unit("unit/bitops", &["BITOP"]),
    unit("unit/bitfield", &["BITFIELD"]),
    unit("unit/introspection", &["CLIENT", "LIST"]),
    unit("unit/introspection-2", &["COMMAND", "COUNT"]),
    unit("unit/slowlog", &["SLOWLOG", "GET"]),
    unit("unit/lazyfree", &["UNLINK"]),
    unit("unit/querybuf", &["CLIENT", "LIST"]),
    unit("unit/obuf-limits", &["CLIENT", "LIST"]),
    unit("unit/limits", &["PING"]),
    unit("unit/networking", &["PING"]),
    unit("unit/maxmemory", &["SET"]),
    unit("unit/memefficiency", &["SET"]),
    unit("unit/latency-monitor", &["LATENCY", "LATEST"]),
    unit("unit/hyperloglog", &["PFADD"]),
    unit("unit/geo", &["GEOADD"]),
    unit("unit/dump", &["DUMP"]),
    unit("unit/scripting", &["EVAL"]),
    unit("unit/functions", &["FUNCTION", "LOAD"]),
    unit("unit/tracking", &["CLIENT", "TRACKING"]),
    unit("unit/pause", &["CLIENT", "PAUSE"]),
    unit("unit/acl", &["ACL", "SETUSER"]),
    unit("unit/acl-v2", &["ACL", "SETUSER"]),
    unit("unit/wait", &["WAIT"]),
    unit("unit/auth", &["AUTH"]),
];

/// Why a test that redis-server passes is not passed here: the unit, how the test's name begins, the reason.
const EXPLAINED: &[(&str, &str, &str)] = &[
    (
        "unit/introspection-2",
        "COMMAND LIST FILTERBY PATTERN",
        "CONFIG REWRITE and CLUSTER are not there to be listed",
    ),
    (
        "unit/type/string",
        "trim on SET with big value",
        "the suite runs it where the allocator is jemalloc",
    ),
    ("unit/introspection-2", "MIGRATE command", "MIGRATE is not there"),
    (
        "unit/type/stream-cgroups",
        "Loading from legacy",
        "RESTORE takes streams of Redis 7.0 as they are, and guesses nothing that older ones left out",
    ),
    ("unit/scripting", "CLUSTER RESET can not", "CLUSTER is not there, and a script is told so"),
    (
        "unit/scripting",
        "Script check unpack with massive",
        "a call of a script takes 7,900 arguments",
    ),
    (
        "unit/scripting",
        "not enough good replicas",
        "min-replicas-to-write is kept only: there is one node",
    ),
    (
        "unit/tracking",
        "Tracking invalidation message of eviction",
        "keys are evicted before a write, not before a read",
    ),
];

/// Of what redis-server passes in a unit.
const SHARE_MIN: f64 = 0.95;
const VERSION: &str = "7.0.15";
/// Tests of what an outside server cannot be asked for, as the suite's authors tag them.
const TAGS: &str = "-needs:debug -needs:repl -needs:save -needs:config-maxmemory -needs:pfdebug -large-memory -slow";
const UNIT_SECONDS_MAX: &str = "600";

const PACKAGES: &[(&str, &str)] =
    &[("tcl", "/usr/bin/tclsh"), ("redis-server", "/usr/bin/redis-server")];

pub(crate) fn tcl(node: &Path) -> Result<Report> {
    shell::install(PACKAGES)?;
    let suite = suite()?;
    let folder = tempfile_folder()?;
    let mut report = Report::default();
    report.figure(format!("redis {VERSION}, ./runtest --single UNIT --host --port --singledb --ignore-encoding --ignore-digest --durable --tags \"{TAGS}\""));
    let (mut passed, mut expected) = (0, 0);
    for (number, unit) in UNITS.iter().enumerate() {
        let ours = NodeLaunch::new(node, &folder.join(format!("kv-{number}")))?
            .setting("durability=off")
            .start()?;
        if !has(&ours, unit.about)? {
            report.figure(format!(
                "{}: not announced, {} is not there",
                unit.name,
                unit.about.join(" ")
            ));
            continue;
        }
        let settings = ["--save", "", "--appendonly", "no"];
        let theirs =
            NodeLaunch::redis(&folder.join(format!("redis-{number}")), &settings)?.start()?;
        let (redis, found) = (run(&suite, unit, &theirs)?, run(&suite, unit, &ours)?);
        let (ours, theirs) = compare(unit, &redis, &found, &mut report);
        (passed, expected) = (passed + ours, expected + theirs);
    }
    report.figure(format!("in all announced units: {passed} of redis-server's {expected} ok"));
    fs::remove_dir_all(&folder)?;
    Ok(report)
}

/// Whether a store knows a command.
fn has(node: &Node, words: &[&str]) -> Result<bool> {
    let name = words.join("|").to_lowercase();
    let reply = node.client()?.done(&["COMMAND", "INFO", &name])?;
    Ok(matches!(&reply, Value::Array(all) if all.iter().any(|one| matches!(one, Value::Array(_)))))
}

/// What a unit said: how often each test was ok, and what was wrong with the others.
#[derive(Default)]
struct Outcome {
    ok: BTreeMap<String, usize>,
    wrong: BTreeMap<String, String>,
    /// Why the unit ended before its end.
    ended: Option<String>,
}

fn run(suite: &Path, unit: &Unit, node: &Node) -> Result<Outcome> {
    let (host, port) = node.address.rsplit_once(':').context("an address")?;
    let output = Command::new("timeout")
        .args([
            UNIT_SECONDS_MAX,
            "./runtest",
            "--single",
            unit.name,
            "--host",
            host,
            "--port",
            port,
        ])
        .args(["--singledb", "--ignore-encoding", "--ignore-digest", "--durable", "--tags", TAGS])
        .current_dir(suite)
        .output()
        .context("run the suite")?;
    // Where the suite lies is nobody's business in a page that is kept.
    let place = format!("{}/", suite.display());
    let said = String::from_utf8_lossy(&output.stdout).replace(&place, "");
    let mut outcome = read(&said);
    if output.status.code() == Some(124) {
        outcome.ended = Some(format!("it was ended after {UNIT_SECONDS_MAX} s"));
    }
    Ok(outcome)
}

/// Reads the suite's words, which are coloured when it feels like it.
fn read(said: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let lines: Vec<String> = said.lines().map(plain).collect();
    for (at, line) in lines.iter().enumerate() {
        let Some((mark, rest)) = line.split_once("]: ") else { continue };
        let behind = || {
            // What went wrong may stand in the second line only.
            let next = lines[at + 1..].iter().map(|line| line.trim());
            let next: Vec<&str> = next
                .filter(|line| !line.is_empty())
                .take_while(|line| !line.starts_with('['))
                .take(2)
                .collect();
            next.join(" | ")
        };
        if mark.ends_with("[ok") {
            *outcome.ok.entry(untimed(rest).to_owned()).or_default() += 1;
        } else if mark.ends_with("[err") {
            let name = rest.split(" in tests/").next().unwrap_or(rest);
            outcome.wrong.insert(name.to_owned(), behind());
        } else if mark.ends_with("[exception") {
            outcome.ended.get_or_insert_with(|| format!("{rest} {}", behind()));
        }
    }
    outcome
}

/// `name (12 ms)`
fn untimed(line: &str) -> &str {
    match line.rsplit_once(" (") {
        Some((name, time)) if time.ends_with(" ms)") => name,
        _ => line,
    }
}

/// Without what colours a terminal.
fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        if letter == '\u{1b}' {
            letters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            text.push(letter);
        }
    }
    text
}

/// Notes what redis-server passes and the store does not. Gives how many tests each passes of the first's.
fn compare(unit: &Unit, redis: &Outcome, found: &Outcome, report: &mut Report) -> (usize, usize) {
    let expected: usize = redis.ok.values().sum();
    let (mut passed, mut missing) = (0, Vec::new());
    for (name, times) in &redis.ok {
        let here = found.ok.get(name).copied().unwrap_or(0).min(*times);
        passed += here;
        if here < *times {
            missing.push(name.as_str());
        }
    }
    let share = if expected == 0 { 1.0 } else { passed as f64 / expected as f64 };
    report.bound(
        share >= SHARE_MIN,
        format!(
            "{}: redis-server {expected} ok, {} err; here {passed} of these ok ({:.1} %)",
            unit.name,
            redis.wrong.len(),
            share * 100.0
        ),
    );
    for name in missing {
        let said = found.wrong.get(name).map(String::as_str).or(found.ended.as_deref());
        let said = said.unwrap_or("it was not run");
        let told = reason(unit, name, said);
        let said: String = said.chars().take(160).collect();
        let reason = told.as_deref().unwrap_or("not explained");
        report.bound(told.is_some(), format!("  {}: \"{name}\": {reason} [{said}]", unit.name));
    }
    (passed, expected)
}

/// Why a test is not passed here, by what is known of it or by what was said.
fn reason(unit: &Unit, name: &str, said: &str) -> Option<String> {
    EXPLAINED
        .iter()
        .find(|(about, start, _)| *about == unit.name && name.starts_with(start))
        .map(|(_, _, reason)| (*reason).to_owned())
        .or_else(|| not_there(said))
}

/// A test of something else that also uses a command which is not announced.
fn not_there(said: &str) -> Option<String> {
    if let Some((_, rest)) = said.split_once("for CONFIG SET - '") {
        return Some(format!("it sets {}, which is not there", rest.split('\'').next()?));
    }
    let rest = ["unknown command '", "unknown subcommand '"]
        .into_iter()
        .find_map(|words| Some(said.split_once(words)?.1))?;
    let name = rest.split('\'').next()?;
    Some(format!("it uses {}, which is not there", name.to_uppercase()))
}

/// The suite from Debian's source package, kept outside the repository.
fn suite() -> Result<PathBuf> {
    let cache = cache_folder()?;
    let suite = cache.join(format!("redis-{VERSION}"));
    if !suite.join("runtest").exists() {
        fetch(&cache)?;
    }
    for program in ["redis-cli", "redis-benchmark", "redis-server"] {
        let link = suite.join("src").join(program);
        if !link.exists() {
            std::os::unix::fs::symlink(Path::new("/usr/bin").join(program), &link)
                .with_context(|| format!("link {}", link.display()))?;
        }
    }
    Ok(suite)
}

/// Asks apt for the source package, with lists of its own, so that the machine's stay as they are.
fn fetch(cache: &Path) -> Result<()> {
    let apt = cache.join("apt");
    for folder in ["sources", "lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.join(folder))?;
    }
    let mut found = 0;
    for entry in fs::read_dir("/etc/apt/sources.list.d")? {
        let path = entry?.path();
        let text = if path.extension().is_some_and(|end| end == "sources") {
            fs::read_to_string(&path)?
        } else {
            continue;
        };
        let name = path.file_name().context("a name")?;
        let text: Vec<&str> = text
            .lines()
            .map(|line| if line.starts_with("Types:") { "Types: deb-src" } else { line })
            .collect();
        fs::write(apt.join("sources").join(name), text.join("\n") + "\n")?;
        found += 1;
    }
    ensure!(found > 0, "/etc/apt/sources.list.d names no source");
    let place = |name: &str, folder: &str| format!("-oDir::{name}={}", apt.join(folder).display());
    let options = [
        "-oDir::Etc::sourcelist=/dev/null".to_owned(),
        place("Etc::sourceparts", "sources"),
        place("State::lists", "lists"),
        place("Cache", "cache"),
        // The one who asks may also read what root fetched.
        "-oAPT::Sandbox::User=root".to_owned(),
    ];
    let get = |words: &[&str]| {
        let all: Vec<&str> =
            options.iter().map(String::as_str).chain(words.iter().copied()).collect();
        let status = Command::new("apt-get").args(&all).current_dir(cache).status();
        ensure!(status.context("start apt-get")?.success(), "apt-get {} failed", words.join(" "));
        Ok(())
    };
    get(&["update"])?;
    get(&["source", "--download-only", "redis"])?;
    let archive = cache.join(format!("redis_{VERSION}.orig.tar.gz"));
    ensure!(archive.exists(), "Debian's redis is not {VERSION}: {} is missing", archive.display());
    let target = cache.join(format!("redis-{VERSION}"));
    fs::create_dir_all(&target)?;
    let (archive, target) = (archive.display().to_string(), target.display().to_string());
    shell::run("tar", &["xzf", &archive, "--strip-components=1", "-C", &target])
}

fn tempfile_folder() -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("madang-tcl-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_suite_are_understood() {
        let said = "\u{1b}[32m[ok]\u{1b}[0m: SET and GET (1 ms)\n[ok]: SET and GET (0 ms)\n[err]: GETEX (odd) in tests/unit/a.tcl\n\nExpected 'a'\n[exception]: Executing test client: ERR unknown command 'xadd'.\nback";
        let found = read(said);
        assert_eq!(found.ok["SET and GET"], 2);
        assert_eq!(found.wrong["GETEX (odd)"], "Expected 'a'");
        assert!(found.ended.unwrap().contains("unknown command 'xadd'"));
    }

    #[test]
    fn a_test_that_is_not_passed_counts_unless_redis_fails_too() {
        let unit = unit("unit/x", &[]);
        let redis = read("[ok]: a\n[ok]: b\n[err]: c in tests/x\n");
        let ours = read("[ok]: a\n[err]: b in tests/x\nExpected 1\n");
        let mut report = Report::default();
        assert_eq!(compare(&unit, &redis, &ours, &mut report), (1, 2));
        assert_eq!(report.short.len(), 2, "the share, and the difference without a reason");
        let ours = read("[ok]: a\n[exception]: ERR unknown command 'eval', with args\n");
        let mut report = Report::default();
        compare(&unit, &redis, &ours, &mut report);
        assert!(report.figures[1].contains("it uses EVAL"), "{:?}", report.figures);
    }
}

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::http::Http;
use crate::proofs::{Ground, Report, Size};
use crate::servers::{MariaDb, Postgres};
use crate::stack::{Launch, Stack};
use crate::wait::within;

/// What one look finds at most.
const FOUND: usize = 20;

/// Whom somebody means who has typed some letters of a name, or of an id, of a million people: in each database by a stretch of an
/// index, and in less than 2 ms.
pub fn people(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let count = ground.count(20_000, 1_000_000);
    let folder = tempfile::tempdir()?;
    embedded(ground, &folder.path().join("embedded"), count, &mut report)?;
    on_postgres(ground, &folder.path().join("postgres"), count, &mut report)?;
    on_mariadb(ground, &folder.path().join("mariadb"), count, &mut report)?;
    Ok(report)
}

/// Its plan is a test of `articles`.
fn embedded(ground: &Ground, data: &Path, count: usize, report: &mut Report) -> Result<()> {
    let launch = Launch::new(&ground.binary, data);
    let stack = launch.start()?;
    let token = somebody(&stack)?;
    stack.terminate()?;
    let series = format!(
        "WITH RECURSIVE s (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n + 1 < {count})"
    );
    let [name, id] = [
        "char(97 + n % 26, 97 + n / 26 % 26, 97 + n / 676 % 26) || printf('%06d', n)",
        "printf('%08x-0000-7000-8000-%012x', (n * 2654435761) & 4294967295, n)",
    ];
    sqlite(&data.join("data/rows/rows.db"), &format!("{series} {}", insert(name, id, "s")))?;
    looked_for(ground, &launch.start()?, (&token, count), "SQLite", report)?;
    Ok(())
}

fn on_postgres(ground: &Ground, data: &Path, count: usize, report: &mut Report) -> Result<()> {
    let server = Postgres::start()?;
    let url = server.database("people")?;
    let launch = Launch::new(&ground.binary, data).environment("MADANG__RELATIONAL__URL", &url);
    let stack = launch.start()?;
    let token = somebody(&stack)?;
    let series = format!("generate_series(0::BIGINT, {count} - 1) AS s (n)");
    let [name, id] = [
        "chr((97 + n % 26)::INT) || chr((97 + n / 26 % 26)::INT) || chr((97 + n / 676 % 26)::INT) || lpad(n::TEXT, 6, '0')",
        "lpad(to_hex((n * 2654435761) & 4294967295), 8, '0') || '-0000-7000-8000-' || lpad(to_hex(n), 12, '0')",
    ];
    server.sql("people", &insert(name, id, &series))?;
    server.sql("people", "ANALYZE article_person")?;
    let read = || {
        let sql = "SELECT seq_scan, (SELECT SUM(idx_scan) FROM pg_stat_user_indexes WHERE relname = 'article_person'),
            seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'article_person'";
        numbers(&server.sql("people", sql)?, '|')
    };
    let before = settled(read)?;
    let looks = looked_for(ground, &stack, (&token, count), "PostgreSQL", report)?;
    // It says what it counted a moment later.
    let after = within(Duration::from_secs(20), "PostgreSQL's counts", || {
        let after = read()?;
        Ok((after[1] >= before[1] + looks).then_some(after))
    })?;
    let [whole, by_index, rows] = [0, 1, 2].map(|place| after[place] - before[place]);
    report.bound(
        whole == 0 && rows <= looks * FOUND as u64 + by_index,
        format!(
            "PostgreSQL: {looks} looks, {by_index} by an index, {whole} through the table, {rows} rows read"
        ),
    );
    Ok(())
}

fn on_mariadb(ground: &Ground, data: &Path, count: usize, report: &mut Report) -> Result<()> {
    let server = MariaDb::start()?;
    let url = server.database("people")?;
    let launch = Launch::new(&ground.binary, data).environment("MADANG__RELATIONAL__URL", &url);
    let stack = launch.start()?;
    let token = somebody(&stack)?;
    let series = format!("seq_0_to_{} AS s", count - 1);
    let [name, id] = [
        "CONCAT(CHAR(97 + seq % 26, 97 + seq DIV 26 % 26, 97 + seq DIV 676 % 26 USING utf8mb4), LPAD(seq, 6, '0'))",
        "CONCAT(LPAD(LOWER(HEX((seq * 2654435761) & 4294967295)), 8, '0'), '-0000-7000-8000-', LPAD(LOWER(HEX(seq)), 12, '0'))",
    ];
    server
        .sql(&format!("USE people; {}; ANALYZE TABLE article_person", insert(name, id, &series)))?;
    server.sql("SET GLOBAL userstat = 1")?;
    let looks = looked_for(ground, &stack, (&token, count), "MariaDB", report)?;
    let read = "SELECT (SELECT SUM(ROWS_READ) FROM information_schema.TABLE_STATISTICS WHERE TABLE_NAME = 'article_person'),
        (SELECT SUM(ROWS_READ) FROM information_schema.INDEX_STATISTICS WHERE TABLE_NAME = 'article_person'), 0";
    let [rows, by_index, _] = numbers(&server.sql(read)?, '\t')?;
    report.bound(
        rows > 0 && by_index >= rows && rows <= looks * (FOUND as u64 + 1),
        format!("MariaDB: {looks} looks, {rows} rows read, {by_index} by an index"),
    );
    Ok(())
}

/// As many people as the series has numbers.
fn insert(name: &str, id: &str, series: &str) -> String {
    format!(
        "INSERT INTO article_person (organisation, account, username, username_key, created)
        SELECT (SELECT MIN(p.organisation) FROM article_person p), {id}, {name}, {name}, 0 FROM {series}"
    )
}

fn somebody(stack: &Stack) -> Result<String> {
    let user = json!({"user": {
        "username": "~ somebody", "email": "somebody@example.com", "password": "password123",
    }});
    let user = stack.stranger().post("/conduit/api/users", &user)?.ok()?;
    Ok(user["user"]["token"].as_str().context("no token")?.to_owned())
}

fn sqlite(rows: &Path, sql: &str) -> Result<()> {
    let ran = Command::new("sqlite3").arg(rows).arg(sql).output().context("sqlite3")?;
    ensure!(ran.status.success(), "sqlite3: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

fn numbers(text: &str, between: char) -> Result<[u64; 3]> {
    let all = text.trim().split(between).map(|number| Ok(number.trim().parse()?));
    let all: Vec<u64> = all.collect::<Result<_>>().with_context(|| format!("counts: {text:?}"))?;
    all.try_into().ok().with_context(|| format!("three counts, not {text:?}"))
}

/// The counts once they change no more.
fn settled(read: impl Fn() -> Result<[u64; 3]>) -> Result<[u64; 3]> {
    let mut last = read()?;
    within(Duration::from_secs(20), "counts that rest", || {
        std::thread::park_timeout(Duration::from_millis(1_500));
        let now = read()?;
        let is_resting = now == last;
        last = now;
        Ok(is_resting.then_some(now))
    })
}

/// The name and the id of one of many.
fn person(number: usize) -> (String, String) {
    let letter = |place: usize| char::from(b'a' + u8::try_from(place % 26).expect("a letter"));
    let name = [letter(number), letter(number / 26), letter(number / 676)];
    let hash = (number as u64 * 2_654_435_761) & 0xFFFF_FFFF;
    (
        format!("{}{number:06}", name.iter().collect::<String>()),
        format!("{hash:08x}-0000-7000-8000-{number:012x}"),
    )
}

/// Everybody, by name and by id.
struct Known {
    names: Vec<String>,
    ids: Vec<(String, String)>,
}

impl Known {
    fn new(count: usize) -> Self {
        let mut ids: Vec<(String, String)> =
            (0..count).map(person).map(|(name, id)| (id, name)).collect();
        let mut names: Vec<String> = ids.iter().map(|(_, name)| name.clone()).collect();
        ids.sort_unstable();
        names.sort_unstable();
        Self { names, ids }
    }

    /// Those whose names begin so, and behind them those whose ids do, where it may be one.
    fn beginning(&self, begins: &str) -> Vec<&str> {
        let first = self.names.partition_point(|name| name.as_str() < begins);
        let names = self.names[first..].iter().map(String::as_str);
        let names = names.take_while(|name| name.starts_with(begins)).take(FOUND);
        let mut found: Vec<&str> = names.collect();
        let may_be_id =
            begins.len() >= 4 && begins.bytes().all(|it| it.is_ascii_hexdigit() || it == b'-');
        if may_be_id {
            let first = self.ids.partition_point(|(id, _)| id.as_str() < begins);
            let ids = self.ids[first..].iter().take_while(|(id, _)| id.starts_with(begins));
            for (_, name) in ids.take(FOUND) {
                if found.len() < FOUND && !found.contains(&name.as_str()) {
                    found.push(name);
                }
            }
        }
        found
    }
}

#[allow(clippy::disallowed_methods, reason = "a proof measures real time")]
fn looked_for(
    ground: &Ground,
    stack: &Stack,
    (token, count): (&str, usize),
    database: &str,
    report: &mut Report,
) -> Result<u64> {
    let http: Http = stack.stranger().bearer(token);
    let known = Known::new(count);
    let (mut looks, mut wrong) = (0, 0);
    let mut took = Vec::new();
    let before = stack.cpu()?;
    for turn in 0..ground.count(60, 2_000) {
        // Of another person each time, one letter more each time; every sixth is asked by an id.
        let (name, id) = person(turn * 7_919 % count);
        let begins = if turn % 6 == 5 { &id[..23] } else { &name[..=turn % 6] };
        let wanted = known.beginning(begins);
        let began = Instant::now();
        let reply = http.get(&format!("/v1/article-people?q={begins}"))?;
        took.push(began.elapsed());
        looks += 1;
        let found = reply.ok()?;
        let found = found["items"].as_array().context("no items")?;
        let found: Vec<&str> =
            found.iter().filter_map(|it: &Value| it["username"].as_str()).collect();
        wrong += u64::from(found != wanted);
    }
    let each = stack.cpu()?.saturating_sub(before) / u32::try_from(looks)?;
    took.sort_unstable();
    let (median, slow) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    let is_fast = ground.size == Size::Test || slow < Duration::from_millis(2);
    report.bound(
        wrong == 0 && is_fast,
        format!(
            "{database}: {looks} looks among {count} people, {wrong} wrong answers, median {median:.1?}, p99 {slow:.1?}, {each:.1?} of processor each"
        ),
    );
    Ok(u64::try_from(looks)?)
}

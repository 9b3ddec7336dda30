//! The process that is killed: a worker, and readers that know what each ranking must be like.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{Base, Clock, Failure, Timestamp};
use jobs::{Config, Jobs, Kind};
use parking_lot::Mutex;
use relational::{Address, Db, Read, Row, Tx, Value, params};

use crate::build::{self, OURS, PLACES, Page, Step, TABLES};

/// 02:59:59.5 in Seoul, before the first night's 03:00.
const BEGIN: &str = "2026-03-01T17:59:59.5Z";
const DAY: Duration = Duration::from_hours(24);
const HOUR: Duration = Duration::from_hours(1);
const READERS: usize = 2;
/// Reads between two lines about them.
const READS_TOLD: u64 = 10;
/// A larger number than any lecture has points.
const POINTS_MAX: i64 = 997;

/// What one process is to do.
pub(crate) struct Work {
    url: String,
    path: PathBuf,
    lectures: i64,
    pub(crate) night: u32,
    /// How long the night has lasted.
    pub(crate) since_begin: Duration,
}

/// What it says on its standard output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// This batch is durable; the last is empty or not full.
    Batch {
        number: u64,
    },
    Reads {
        before: u64,
        after: u64,
    },
    Fault(String),
    /// The new ranking counts and is right in every place.
    Whole {
        switches: i64,
    },
}

impl Told {
    pub(crate) fn read(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ')?;
        let mut numbers = rest.split(' ').map_while(|text| text.parse::<u64>().ok());
        Some(match word {
            "batch" => Self::Batch { number: numbers.next()? },
            "reads" => Self::Reads { before: numbers.next()?, after: numbers.next()? },
            "fault" => Self::Fault(rest.to_owned()),
            "whole" => Self::Whole { switches: i64::try_from(numbers.next()?).ok()? },
            _ => return None,
        })
    }
}

impl Work {
    pub(crate) fn new(url: String, path: PathBuf, lectures: i64) -> Self {
        Self { url, path, lectures, night: 1, since_begin: Duration::ZERO }
    }

    pub(crate) fn asked_for(arguments: &[String]) -> Result<Option<Self>, Failure> {
        let [word, url, path, lectures, night, micros] = arguments else { return Ok(None) };
        if word != "worker" {
            return Ok(None);
        }
        Ok(Some(Self {
            url: url.clone(),
            path: path.into(),
            lectures: lectures.parse()?,
            night: night.parse()?,
            since_begin: Duration::from_micros(micros.parse()?),
        }))
    }

    pub(crate) fn arguments(&self) -> [String; 6] {
        [
            "worker".to_owned(),
            self.url.clone(),
            self.path.display().to_string(),
            self.lectures.to_string(),
            self.night.to_string(),
            self.since_begin.as_micros().to_string(),
        ]
    }

    /// Lectures of one transaction.
    fn batch(&self) -> i64 {
        (self.lectures / 50).max(1)
    }

    pub(crate) fn batches(&self) -> u64 {
        u64::try_from(self.lectures / self.batch()).unwrap_or(0) + 1
    }
}

fn begin() -> Timestamp {
    BEGIN.parse().expect("it is a moment")
}

/// 03:00 of a night, which is the version of its ranking.
fn due(night: u32) -> Timestamp {
    begin().plus(Duration::from_millis(500)).plus(DAY.saturating_mul(night - 1))
}

fn points(lecture: i64, night: u32) -> i64 {
    1 + (lecture * 7_919 + i64::from(night) * 104_729) % POINTS_MAX
}

fn created(lecture: i64) -> Timestamp {
    begin().minus(HOUR.saturating_mul(u32::try_from(lecture * 31 % 8_760).unwrap_or(0)))
}

/// The ranking of a night, made at once.
fn expected(lectures: i64, night: u32) -> Vec<(i64, f64)> {
    let now = due(night);
    let score = |lecture| build::score(points(lecture, night), created(lecture), now);
    let mut ranking: Vec<(i64, f64)> =
        (1..=lectures).map(|lecture| (lecture, score(lecture))).collect();
    ranking.sort_by(|one, other| other.1.total_cmp(&one.1).then(other.0.cmp(&one.0)));
    ranking
}

/// Works and reads until it is killed.
pub(crate) async fn work(work: Work) -> Result<(), Failure> {
    let moment = begin().plus(DAY.saturating_mul(work.night - 1)).plus(work.since_begin);
    let base = Base { clock: Clock::simulated(moment), ..Base::system() };
    let url = Address::new(work.url.clone());
    let path = work.path.clone();
    let db = Db::open(relational::Config { url, path, ..relational::Config::default() }, &base);
    let db = db.await?;
    db.migrate("ranking", TABLES).await?;
    prepare(&db, &work).await?;
    let known = Arc::new(Known::of(&work));
    for number in 0..READERS {
        let (db, known) = (db.clone(), known.clone());
        base.tasks.spawn("reader", async move { read_on(&db, &known, number).await });
    }
    let config =
        Config { lease: Duration::from_secs(2), ahead: Duration::ZERO, ..Config::default() };
    let jobs = Jobs::open(config, &base, db.clone()).await?;
    let patient = Kind {
        attempts_max: 1_000,
        back_off_min: Duration::from_millis(10),
        back_off_max: Duration::from_millis(50),
        ..Kind::default()
    };
    let (batch, rows) = (work.batch(), db.clone());
    jobs.handle(build::KIND, patient, move |attempt| {
        let tell = move |step: &Step| {
            let number = if step.is_last { step.reached / batch + 1 } else { step.reached / batch };
            println!("batch {}", number - 1);
        };
        build::build(rows.clone(), attempt, batch, tell)
    })?;
    jobs.keep_schedule(build::schedule()).await?;
    jobs.start().await?;
    move_clock(&base).await
}

/// The clock goes on as a real one does.
async fn move_clock(base: &Base) -> Result<(), Failure> {
    let mut last = base.clock.instant();
    loop {
        base.clock.sleep(Duration::from_millis(2)).await;
        let now = base.clock.instant();
        base.clock.advance(now - last);
        last = now;
    }
}

/// Lectures, and the points that they have this night, unless that is done.
async fn prepare(db: &Db, work: &Work) -> Result<(), Failure> {
    let (lectures, of_night) = (work.lectures, work.night);
    let count =
        async |read: &mut Read| read.query_one("SELECT COUNT(*) AS n FROM lecture", &[]).await;
    let row: Row = db.read(count).await?;
    let there: i64 = row.get("n")?;
    let missing: Vec<i64> = (there + 1..=lectures).collect();
    for some in missing.chunks(5_000) {
        let some = some.to_vec();
        let insert = async move |tx: &mut Tx| {
            for rows in some.chunks(200) {
                let marks = vec!["(?, ?, ?, ?)"; rows.len()].join(", ");
                let sql = format!(
                    "INSERT INTO lecture (organisation, id, points, created) VALUES {marks}"
                );
                let values = rows.iter().flat_map(|id| -> [Value; 4] {
                    [OURS.into(), (*id).into(), 0_i64.into(), created(*id).into()]
                });
                tx.execute(&sql, &values.collect::<Vec<_>>()).await?;
            }
            Ok::<_, Failure>(())
        };
        db.write(insert).await?;
    }
    let begin_night = async move |tx: &mut Tx| {
        let state = "SELECT switches FROM ranking_state WHERE organisation = ?";
        if tx.query_optional(state, params![OURS]).await?.is_none() {
            let insert =
                "INSERT INTO ranking_state (organisation, switches, reached) VALUES (?, 0, 0)";
            tx.execute(insert, params![OURS]).await?;
        }
        // A killed process did it already, in this night.
        let done = "SELECT points FROM lecture WHERE organisation = ? AND id = 1";
        let first: i64 = tx.query_one(done, params![OURS]).await?.get("points")?;
        if first != points(1, of_night) {
            let update = "UPDATE lecture SET points = 1 + (id * 7919 + ? * 104729) % 997
                WHERE organisation = ?";
            tx.execute(update, params![i64::from(of_night), OURS]).await?;
        }
        Ok::<_, Failure>(())
    };
    db.write(begin_night).await
}

/// What the rankings of this night and the one before must be like.
struct Known {
    lectures: i64,
    new: Timestamp,
    rankings: HashMap<Timestamp, Vec<(i64, f64)>>,
    counts: Mutex<(u64, u64)>,
    /// The new ranking was compared as a whole.
    is_whole: AtomicBool,
}

impl Known {
    fn of(work: &Work) -> Self {
        let nights = work.night.saturating_sub(1).max(1)..=work.night;
        let rankings = nights.map(|night| (due(night), expected(work.lectures, night)));
        Self {
            lectures: work.lectures,
            new: due(work.night),
            rankings: rankings.collect(),
            counts: Mutex::default(),
            is_whole: AtomicBool::new(false),
        }
    }

    /// What is wrong with places that somebody read.
    fn judge(&self, page: &Page, after: usize) -> Result<(), String> {
        let Some(ranking) = self.rankings.get(&page.version) else {
            return Err(format!("a reader saw a ranking of {}", page.version));
        };
        let right = &ranking[after..(after + PLACES).min(ranking.len())];
        if page.places == right {
            return Ok(());
        }
        Err(format!("a reader saw a mixture in the ranking of {}", page.version))
    }
}

/// Reads the best places, then further ones of the same version in a transaction of its own.
async fn read_on(db: &Db, known: &Known, number: usize) {
    let mut place = 0;
    loop {
        match look(db, known, place).await {
            Ok(()) => {}
            Err(error) => println!("fault {}", error.to_string().replace('\n', " ")),
        }
        place = (place + 7 * (number + 1)) % usize::try_from(known.lectures).unwrap_or(1);
        let counts = {
            let mut counts = known.counts.lock();
            let is_enough = counts.0 + counts.1 >= READS_TOLD;
            is_enough.then(|| std::mem::take(&mut *counts))
        };
        if let Some((before, after)) = counts {
            println!("reads {before} {after}");
        }
    }
}

async fn look(db: &Db, known: &Known, place: usize) -> Result<(), Failure> {
    let lectures = known.lectures;
    let both = async |read: &mut Read| {
        let Some(page) = build::best(read).await? else { return Ok(None) };
        let size = build::size(read, page.version).await?;
        Ok::<_, Failure>(Some((page, size)))
    };
    let Some((page, size)) = db.read(both).await? else { return Ok(()) };
    known.judge(&page, 0)?;
    if size != (lectures, lectures * (lectures + 1) / 2) {
        return Err(format!("the ranking of {} has {size:?}", page.version).into());
    }
    let version = page.version;
    let further =
        db.read(async move |read| build::page(read, version, place, PLACES).await).await?;
    known.judge(&Page { version, places: further }, place)?;
    let is_new = version == known.new;
    {
        let mut counts = known.counts.lock();
        if is_new { counts.1 += 1 } else { counts.0 += 1 }
    }
    if is_new && !known.is_whole.swap(true, Ordering::AcqRel) {
        whole(db, known).await?;
    }
    Ok(())
}

/// Every place of the new ranking.
async fn whole(db: &Db, known: &Known) -> Result<(), Failure> {
    let all = usize::try_from(known.lectures)?;
    let version = known.new;
    let places = db.read(async move |read| build::page(read, version, 0, all).await).await?;
    if places != known.rankings[&version] {
        return Err("the new ranking is not what it would be if it was made at once".into());
    }
    let state = async |read: &mut Read| {
        let switches = "SELECT switches FROM ranking_state WHERE organisation = ?";
        read.query_one(switches, params![OURS]).await
    };
    let row: Row = db.read(state).await?;
    println!("whole {}", row.get::<i64>("switches")?);
    Ok(())
}

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::disk::{Dice, Disk, Left};
use crate::load::Publishers;
use crate::mailbox::Mailbox;
use crate::proofs::ledger::{Ledger, check, make_rule, settled};
use crate::proofs::{Ground, Report, Size};
use crate::stack::{Launch, Stack};
use crate::wait::within;

/// An engine by the folder of its files, and about how many operations on them half a second of load makes.
struct Engine {
    name: &'static str,
    folder: &'static str,
    operations: u64,
    /// The files whose fsync the mutation leaves out.
    mutated: &'static str,
}

const ENGINES: [Engine; 3] = [
    Engine { name: "SQLite", folder: "/rows/", operations: 600, mutated: "rows.db-wal" },
    Engine { name: "eventlog", folder: "/log/", operations: 400, mutated: "/readings/" },
    Engine { name: "Delta", folder: "/lake/", operations: 60, mutated: "/lake/" },
];

const PUBLISHERS: usize = 8;
/// After so many cuts the next ones begin with an empty folder, so that looking at everything stays quick.
const CUTS_ON_A_FOLDER: usize = 20;

/// SQLite, eventlog and Delta lose power at seeded points under load: nothing acknowledged is lost, nothing is
/// there twice, and the stack is up in under 2 s.
pub fn power_cut(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let cuts = ground.count(2, 200);
    let mut slowest_start = Duration::ZERO;
    for (number, engine) in ENGINES.iter().enumerate() {
        let mut tally = Tally::default();
        let mut done = 0;
        while done < cuts {
            let cuts = (cuts - done).min(CUTS_ON_A_FOLDER);
            let seed = (number * 1_000 + done) as u64;
            let mut ground = Place::new(ground, seed, &[])?;
            ground.cuts(engine, cuts, &mut tally, &mut report)?;
            done += cuts;
        }
        slowest_start = slowest_start.max(tally.slowest_start);
        report.figure(format!("{}: {tally}", engine.name));
    }
    let start_max =
        if ground.size == Size::Test { Duration::from_secs(30) } else { Duration::from_secs(2) };
    report.bound(slowest_start < start_max, format!("slowest start after a cut {slowest_start:?}"));
    Ok(report)
}

/// The proof above is able to fail: with one fsync left out of each engine, it does.
pub fn power_cut_fails(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let cuts = ground.count(10, 30);
    for (number, engine) in ENGINES.iter().enumerate() {
        let mut broken = Report::default();
        let mut tally = Tally::default();
        let mut place = Place::new(ground, 5_000 + number as u64, &[engine.mutated])?;
        place.patience = Duration::from_secs(5);
        let ran = place.cuts(engine, cuts, &mut tally, &mut broken);
        let found = match &ran {
            Err(error) => Some(format!("{error:#}")),
            Ok(()) => broken.short.first().cloned(),
        };
        // Of a log that was printed, what it came to.
        let found = found.map(|text| {
            let text = place.named(&text);
            let mut lines = text.lines();
            let first = lines.next().unwrap_or_default().to_owned();
            match lines.next_back() {
                Some(last) => format!("{first}: {last}"),
                None => first,
            }
        });
        report.bound(
            found.is_some(),
            format!(
                "{} without fsync of {}: {} cuts, then {}",
                engine.name,
                engine.mutated,
                tally.cuts,
                found.as_deref().unwrap_or("nothing was noticed")
            ),
        );
    }
    Ok(report)
}

/// What cuts of one engine did.
#[derive(Default)]
struct Tally {
    cuts: usize,
    cuts_in_start: usize,
    changes_lost: usize,
    names_lost: usize,
    acknowledged: usize,
    sensors: usize,
    slowest_start: Duration,
}

/// A stack on a disk that loses power, and what the world outside knows of it.
struct Place {
    launch: Launch,
    disk: Disk,
    dice: Dice,
    mailbox: Mailbox,
    ledger: Ledger,
    /// Names of sensors whose making was acknowledged: rows that nothing can make again.
    sensors: Vec<String>,
    /// How long a stack may take to have everything in SQL after its start.
    patience: Duration,
    folder: tempfile::TempDir,
}

impl Place {
    fn new(ground: &Ground, seed: u64, mutated: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let disk = Disk::new(&folder.path().join("data"), &folder.path().join("disk"))?;
        let disk = disk.ignoring_fsync_of(mutated);
        disk.slow_fsync(200)?;
        let mailbox = Mailbox::open()?;
        let mut launch = Launch::new(&ground.binary, folder.path()).mail_to(mailbox.port);
        let settings = [
            ("MADANG__DELIVERY__SMTP__SEND_TIME_MAX", "2s"),
            ("MADANG__DELIVERY__LEASE_MARGIN", "1s"),
            // Small, so that every engine turns its files over within a round.
            ("MADANG__EVENTLOG__SEGMENT_BYTES", "100000"),
            ("MADANG__RELATIONAL__WAL_BYTES_MAX", "1048576"),
            ("MADANG__LAKE__FLUSH_INTERVAL", "100ms"),
            ("MADANG__LAKE__COMPACT_COMMITS", "10"),
        ];
        for (name, value) in settings {
            launch = launch.environment(name, value);
        }
        for (name, value) in disk.environment() {
            launch = launch.environment(&name, &value);
        }
        Ok(Self {
            launch,
            disk,
            dice: Dice::new(seed),
            mailbox,
            ledger: Ledger::default(),
            sensors: vec![],
            patience: Duration::from_secs(30),
            folder,
        })
    }

    fn cuts(
        &mut self,
        engine: &Engine,
        cuts: usize,
        tally: &mut Tally,
        report: &mut Report,
    ) -> Result<()> {
        let mut stack = self.launch.start()?;
        make_rule(&stack)?;
        let mut acknowledged = 0;
        for _ in 0..cuts {
            let cut = self.cut(engine, stack, tally).context("under load")?;
            stack =
                self.start_again(tally).with_context(|| format!("after a cut at {}", cut.cut))?;
            tally.slowest_start = tally.slowest_start.max(stack.ready_after);
            acknowledged = self.ledger.acknowledged();
            let when = format!("after a cut at {}", self.named(&cut.cut));
            let view = settled(&stack, &self.ledger, self.patience).context(when.clone())?;
            if !view.holds() {
                report.bound(false, format!("{when}: {view}"));
                return Ok(());
            }
            let lost = self.lost_sensors(&stack)?;
            if !lost.is_empty() {
                report.bound(false, format!("{when}: sensors {lost:?} are lost"));
                return Ok(());
            }
        }
        ensure!(acknowledged > 0, "nothing was acknowledged");
        tally.acknowledged += acknowledged;
        tally.sensors += self.sensors.len();
        let when = format!("{}, {cuts} cuts on one folder", engine.name);
        check(&stack, &self.mailbox, &self.ledger, &when, report)
    }

    /// Runs load until the power goes, and puts the disk into the state that is left.
    fn cut(&mut self, engine: &Engine, stack: Stack, tally: &mut Tally) -> Result<Left> {
        let operation = 1 + self.dice.below(engine.operations);
        let load = Publishers::start(
            PUBLISHERS,
            stack.mqtt_address(),
            (stack.mqtt_user(), stack.mqtt_password()),
            &self.ledger.next(PUBLISHERS),
            4,
        );
        self.disk.cut_at(operation, engine.folder)?;
        let made = make_sensors(&stack, tally.cuts);
        let cut =
            within(Duration::from_mins(5), "the cut", || Ok(self.disk.is_cut().then_some(())));
        cut.with_context(|| {
            format!("{} of {operation} operations", self.disk.operations().unwrap_or_default())
        })?;
        stack.ended(Duration::from_secs(10))?;
        self.ledger.add(load.join()?);
        self.sensors.extend(made);
        let left = self.disk.restore(self.dice.below(u64::MAX))?;
        tally.note(&left);
        Ok(left)
    }

    /// Starts the stack; one time in four the power goes once more meanwhile.
    fn start_again(&mut self, tally: &mut Tally) -> Result<Stack> {
        let launch = &self.launch;
        let (started, left) = self.disk.start_again(&mut self.dice, 30, || launch.start())?;
        if let Some(left) = left {
            tally.note(&left);
            tally.cuts_in_start += 1;
        }
        Ok(started)
    }

    fn lost_sensors(&self, stack: &Stack) -> Result<Vec<String>> {
        let found = stack.api().all("/v1/sensors")?;
        let is_lost = |name: &&String| !found.iter().any(|sensor| sensor["name"] == **name);
        Ok(self.sensors.iter().filter(is_lost).cloned().collect())
    }

    /// An operation without the folder's own name, which differs from run to run.
    fn named(&self, cut: &str) -> String {
        cut.replace(&format!("{}", self.folder.path().display()), "")
    }
}

/// Makes sensors until the power is gone; gives those that were acknowledged.
fn make_sensors(stack: &Stack, round: usize) -> Vec<String> {
    const A_ROUND: usize = 20;
    let names = (0..A_ROUND).map(|number| format!("cut-{round}-{number}"));
    let acknowledged = |name: &String| {
        let sensor = json!({"name": name, "values": [{"name": "temp", "unit": "°C"}]});
        stack.api().post("/v1/sensors", &sensor).is_ok_and(|reply| reply.status == 201)
    };
    names.take_while(acknowledged).collect()
}

impl Tally {
    fn note(&mut self, left: &Left) {
        self.cuts += 1;
        self.changes_lost += left.changes_lost;
        self.names_lost += left.names_lost;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} cuts, {} of them while starting; {} unsynced changes and {} unsynced names lost; {} readings and {} sensors acknowledged; slowest start {:?}",
            self.cuts,
            self.cuts_in_start,
            self.changes_lost,
            self.names_lost,
            self.acknowledged,
            self.sensors,
            self.slowest_start
        )
    }
}

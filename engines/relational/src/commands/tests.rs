use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use base::{CommandId, OrganisationId, PageRequest};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::Notify;

use super::*;
use crate::{Config, DeadLetter, DeadLetterFilter, Migration, NewCommand, Origin, params};

const ORGANISATION: OrganisationId = OrganisationId::DEFAULT;
const DO: &str = "deed.do";

static TABLES: &[Migration] = &[Migration {
    id: "0001-effects",
    sql: "CREATE TABLE effects (
        sequence INTEGER PRIMARY KEY,
        key TEXT NOT NULL,
        number BIGINT NOT NULL
    )",
}];

struct Fixture {
    db: Db,
    base: Base,
    dir: TempDir,
}

/// Pauses of a millisecond, so that nobody waits.
fn hasty() -> Config {
    Config {
        command_back_off_min: Duration::from_millis(1),
        command_back_off_max: Duration::from_millis(4),
        command_attempts_max: 1_000,
        ..Config::default()
    }
}

async fn fixture(config: Config, base: Base) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { path: dir.path().join("rows.db"), ..config };
    let db = Db::open(config, &base).await.unwrap();
    db.migrate("effects", TABLES).await.unwrap();
    Fixture { db, base, dir }
}

fn standing() -> Base {
    Base::simulated(Timestamp::from_millis(1_700_000_000_000), 3)
}

/// What `look` finds, within a minute.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    let found = tokio::time::timeout(Duration::from_mins(1), looking).await;
    found.unwrap_or_else(|_| panic!("{what} within a minute"))
}

impl Fixture {
    fn commands(&self) -> Commands {
        Commands::new(&self.db, &self.base)
    }

    async fn send(&self, key: &str, number: i64) -> Result<CommandId, Error> {
        let new = NewCommand {
            organisation: ORGANISATION,
            name: DO,
            key: key.to_owned(),
            payload: number.to_string().into_bytes(),
            not_before: None,
        };
        self.db.write(async move |tx| tx.send(new.clone()).await).await
    }

    async fn effects(&self) -> Vec<(String, i64)> {
        let effects = self.db.read(async |read| {
            let rows = read.query("SELECT key, number FROM effects ORDER BY sequence", &[]).await?;
            rows.iter().map(|row| Ok((row.get("key")?, row.get("number")?))).collect()
        });
        let effects: Result<_, Error> = effects.await;
        effects.unwrap()
    }

    async fn done(&self) {
        // The rows themselves: the number in memory is put right at times, and is too small for a moment when a command ends then.
        until("commands done", async || {
            let length = self.db.read(async |read| command::length(read).await).await.unwrap();
            (length == 0).then_some(())
        })
        .await;
    }

    async fn letters(&self) -> Vec<DeadLetter> {
        let (all, page) = (DeadLetterFilter::default(), PageRequest::default());
        self.db.dead_letters(ORGANISATION, &all, &page).await.unwrap().items
    }

    async fn letters_when(&self, count: usize) -> Vec<DeadLetter> {
        until("dead letters", async || {
            Some(self.letters().await).filter(|letters| letters.len() >= count)
        })
        .await
    }

    /// Makes the runners look at the simulated clock again.
    fn advance(&self, by: Duration) {
        self.base.clock.advance(by);
        self.db.shared().commands.sent.notify_waiters();
        self.db.shared().commands.sent.notify_one();
    }
}

fn number(command: &Command) -> i64 {
    std::str::from_utf8(&command.payload).unwrap().parse().unwrap()
}

async fn effect(tx: &mut Tx, command: &Command) -> Result<(), Unhandled> {
    let insert = "INSERT INTO effects (key, number) VALUES (?, ?)";
    tx.execute(insert, params![command.key, number(command)]).await?;
    Ok(())
}

fn broken(text: &str) -> Unhandled {
    Unhandled::new(ErrorKind::Internal, &std::io::Error::other(text.to_owned()))
}

/// Checks that each key's numbers are 0, 1, 2 … without a gap, a repetition or a step back.
fn check_order(effects: &[(String, i64)], keys: i64, per_key: i64) {
    for key in 0..keys {
        let key = format!("key {key}");
        let numbers: Vec<i64> =
            effects.iter().filter(|effect| effect.0 == key).map(|effect| effect.1).collect();
        assert_eq!(numbers, (0..per_key).collect::<Vec<_>>(), "{key}");
    }
}

impl Runner {
    /// The same handlers on another server.
    fn elsewhere(&self) -> Arc<Runner> {
        let names = self.handlers.keys().copied().collect();
        let claimant = Arc::new(Claimant::new(names, "elsewhere".into()));
        let (db, tasks) = (self.db.clone(), self.tasks.clone());
        Arc::new(Runner { db, tasks, handlers: self.handlers.clone(), claimant })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_commands_that_fail_at_random_happen_once_each_and_in_the_order_of_their_keys() {
    const KEYS: i64 = 50;
    const PER_KEY: i64 = 20;
    let fixture = fixture(hasty(), Base::system()).await;
    let mut commands = fixture.commands();
    let (entropy, failures) = (fixture.base.entropy.clone(), Arc::new(AtomicU32::new(0)));
    let failed = failures.clone();
    let handle = async move |tx: &mut Tx, command: &Command| {
        let chance = entropy.number() % 8;
        if chance < 3 {
            failed.fetch_add(1, Ordering::SeqCst);
        }
        match chance {
            0 => Err(broken("before its effect")),
            1 => {
                effect(tx, command).await?;
                Err(broken("after its effect"))
            }
            2 => {
                effect(tx, command).await?;
                panic!("after its effect")
            }
            _ => effect(tx, command).await,
        }
    };
    commands.handle(DO, handle).unwrap();
    let runner = Arc::new(commands.runner().await.unwrap());
    let senders = (0..KEYS).map(|key| {
        let fixture = &fixture;
        async move {
            for number in 0..PER_KEY {
                fixture.send(&format!("key {key}"), number).await.unwrap();
            }
        }
    });
    let runs = [runner.clone(), runner.elsewhere()]
        .map(|runner| fixture.base.tasks.spawn("runner", runner.run()));
    futures::future::join_all(senders).await;
    fixture.done().await;
    runs.iter().for_each(tokio::task::JoinHandle::abort);
    let effects = fixture.effects().await;
    assert_eq!(effects.len(), usize::try_from(KEYS * PER_KEY).unwrap());
    check_order(&effects, KEYS, PER_KEY);
    assert!(failures.load(Ordering::SeqCst) > 100, "{failures:?}");
    assert!(fixture.letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runners_never_carry_out_the_same_command_or_two_of_a_key_at_once() {
    let fixture = fixture(hasty(), Base::system()).await;
    let mut commands = fixture.commands();
    let (running, acts) = (Arc::new(Mutex::new(HashSet::new())), Arc::new(AtomicU32::new(0)));
    let (busy, acted) = (running.clone(), acts.clone());
    let act = move |command: Arc<Command>| {
        let (busy, acted) = (busy.clone(), acted.clone());
        async move {
            assert!(busy.lock().insert(command.key.clone()), "{} twice at once", command.key);
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            busy.lock().remove(&command.key);
            acted.fetch_add(1, Ordering::SeqCst);
            Ok(command.id)
        }
    };
    let note = async |tx: &mut Tx, command: &Command, id: &CommandId| {
        assert_eq!(*id, command.id);
        effect(tx, command).await
    };
    commands.handle_outside(DO, act, note).unwrap();
    for number in 0..20 {
        for key in 0..10 {
            fixture.send(&format!("key {key}"), number).await.unwrap();
        }
    }
    let runner = Arc::new(commands.runner().await.unwrap());
    let runs = [runner.clone(), runner.elsewhere()]
        .map(|runner| fixture.base.tasks.spawn("runner", runner.run()));
    fixture.done().await;
    runs.iter().for_each(tokio::task::JoinHandle::abort);
    check_order(&fixture.effects().await, 10, 20);
    assert_eq!(acts.load(Ordering::SeqCst), 200, "no attempt failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn runners_killed_at_random_lose_nothing_and_double_nothing() {
    const KEYS: i64 = 6;
    const PER_KEY: i64 = 40;
    let fixture = fixture(hasty(), Base::system()).await;
    let mut commands = fixture.commands();
    let outside = Arc::new(Mutex::new(HashMap::<CommandId, u32>::new()));
    let there = outside.clone();
    let act = move |command: Arc<Command>| {
        let there = there.clone();
        async move {
            tokio::task::yield_now().await;
            *there.lock().entry(command.id).or_default() += 1;
            tokio::task::yield_now().await;
            Ok(())
        }
    };
    let note = async |tx: &mut Tx, command: &Command, (): &()| effect(tx, command).await;
    commands.handle_outside(DO, act, note).unwrap();
    let runner = Arc::new(commands.runner().await.unwrap());
    for number in 0..PER_KEY {
        for key in 0..KEYS {
            fixture.send(&format!("key {key}"), number).await.unwrap();
        }
    }
    let mut lives: u64 = 0;
    while fixture.db.commands_length() > 0 {
        // Later lives are longer, so that a slow machine comes to an end.
        let life = fixture.base.entropy.number() % (3_000 + 500 * lives);
        let run = runner.clone().run();
        tokio::select! {
            ended = run => panic!("{ended:?}"),
            () = fixture.base.clock.sleep(Duration::from_micros(life)) => {}
            () = fixture.done() => {}
        }
        lives += 1;
    }
    assert!(lives > 3, "killed {lives} times");
    let effects = fixture.effects().await;
    assert_eq!(effects.len(), usize::try_from(KEYS * PER_KEY).unwrap());
    check_order(&effects, KEYS, PER_KEY);
    assert_eq!(outside.lock().len(), effects.len(), "each under its own id");
    assert!(fixture.letters().await.is_empty());
}

/// Where the runner is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    BeforeTheEffect,
    AfterTheEffect,
    AfterTheCommit,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_interrupted_at_any_step_has_its_effect_once() {
    for step in [Step::BeforeTheEffect, Step::AfterTheEffect, Step::AfterTheCommit] {
        let fixture = fixture(hasty(), Base::system()).await;
        let mut commands = fixture.commands();
        let (reached, kills) = (Arc::new(Notify::new()), Arc::new(AtomicU32::new(1)));
        let outside = Arc::new(Mutex::new(Vec::new()));
        let (there, at, left) = (outside.clone(), reached.clone(), kills.clone());
        let act = move |command: Arc<Command>| {
            let (there, at, left) = (there.clone(), at.clone(), left.clone());
            async move {
                let killed = async |here| {
                    if here == step && left.swap(0, Ordering::SeqCst) == 1 {
                        at.notify_one();
                        std::future::pending::<()>().await;
                    }
                };
                killed(Step::BeforeTheEffect).await;
                there.lock().push(command.id);
                killed(Step::AfterTheEffect).await;
                Ok(())
            }
        };
        let note = async |tx: &mut Tx, command: &Command, (): &()| effect(tx, command).await;
        commands.handle_outside(DO, act, note).unwrap();
        let runner = Arc::new(commands.runner().await.unwrap());
        fixture.send("key 0", 0).await.unwrap();
        let committed = async {
            if step == Step::AfterTheCommit {
                fixture.done().await;
            } else {
                reached.notified().await;
            }
        };
        tokio::select! {
            ended = runner.clone().run() => panic!("{ended:?}"),
            () = committed => {}
        }
        tokio::select! {
            ended = runner.run() => panic!("{ended:?}"),
            () = fixture.done() => {}
        }
        assert_eq!(fixture.effects().await.len(), 1, "{step:?}");
        let outside = outside.lock().clone();
        let repeated = usize::from(step == Step::AfterTheEffect);
        assert_eq!(outside.len(), 1 + repeated, "{step:?}");
        assert!(outside.iter().all(|id| *id == outside[0]), "known for a repeat by its id");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_holders_command_is_taken_over_after_its_lease_and_its_late_effect_refused() {
    let fixture = fixture(hasty(), standing()).await;
    let mut commands = fixture.commands();
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (at, gate) = (begun.clone(), go_on.clone());
    let act = move |command: Arc<Command>| {
        let (at, gate) = (at.clone(), gate.clone());
        async move {
            if command.attempt == 1 {
                at.notify_one();
                gate.notified().await;
            }
            Ok(command.attempt)
        }
    };
    let note = async |tx: &mut Tx, command: &Command, attempt: &u32| {
        let insert = "INSERT INTO effects (key, number) VALUES (?, ?)";
        tx.execute(insert, params![command.key, *attempt]).await?;
        Ok(())
    };
    commands.handle_outside(DO, act, note).unwrap();
    let runner = Arc::new(commands.runner().await.unwrap());
    fixture.send("key 0", 0).await.unwrap();
    let elsewhere = runner.elsewhere();
    let stuck = runner.claim(10).await.unwrap().pop().unwrap();
    let until = stuck.until;
    let late = fixture.base.tasks.spawn("stuck", runner.clone().carry_out(stuck));
    begun.notified().await;
    assert!(!elsewhere.pause().await.unwrap().is_zero(), "leased");
    assert!(elsewhere.claim(10).await.unwrap().is_empty());
    fixture.advance(until.since(fixture.base.clock.now()));
    let second = elsewhere.claim(10).await.unwrap().pop().unwrap();
    assert_eq!(second.command.attempt, 2);
    // The first one comes back while the second is at work, and after it.
    go_on.notify_one();
    late.await.unwrap().unwrap();
    assert!(fixture.effects().await.is_empty(), "the late effect was refused");
    elsewhere.clone().carry_out(second).await;
    assert_eq!(fixture.effects().await, [("key 0".to_owned(), 2)]);
    assert_eq!(fixture.db.commands_length(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_holds_back_its_key_and_nobody_else_and_dies_with_its_reason() {
    let config = Config { command_attempts_max: 3, ..hasty() };
    let fixture = fixture(config, standing()).await;
    let mut commands = fixture.commands();
    let handle = async |tx: &mut Tx, command: &Command| match (&*command.key, number(command)) {
        ("stuck", 0) => Err(broken("the other side is away")),
        ("wrong", 0) => Err(Unhandled::invalid("zero is never right")),
        _ => effect(tx, command).await,
    };
    commands.handle(DO, handle).unwrap();
    commands.start().await.unwrap();
    for key in ["stuck", "wrong", "sound"] {
        for number in 0..2 {
            fixture.send(key, number).await.unwrap();
        }
    }
    let wrong = fixture.letters_when(1).await.remove(0);
    assert_eq!((wrong.origin, &*wrong.handler, wrong.attempts), (Origin::Command, DO, 1));
    assert_eq!((&*wrong.payload, &*wrong.reason), (b"0".as_slice(), "zero is never right"));
    until("three effects", async || (fixture.effects().await.len() >= 3).then_some(())).await;
    // The clock stands, so the first retry is not due yet.
    let mut effects = fixture.effects().await;
    effects.sort();
    let expected = [("sound", 0), ("sound", 1), ("wrong", 1)];
    assert_eq!(effects, expected.map(|(key, number)| (key.to_owned(), number)));
    until("the second dead letter", async || {
        fixture.advance(Duration::from_millis(4));
        (fixture.letters().await.len() >= 2).then_some(())
    })
    .await;
    let stuck = fixture.letters().await.remove(0);
    assert_eq!((stuck.attempts, &*stuck.reason), (3, "the other side is away"));
    assert_eq!(stuck.key.as_deref(), Some(b"stuck".as_slice()));
    fixture.done().await;
    assert_eq!(fixture.effects().await.last(), Some(&("stuck".to_owned(), 1)));
    for line in ["commands_done_total 4", "commands_retried_total 2", "commands_dead_total 2"] {
        // Counted after the commit, which the effects are seen by.
        let line = format!("madang_relational_{line}\n");
        until(&line, async || fixture.base.metrics.text().contains(&line).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_too_slow_or_panics_is_given_up_in_time() {
    let time_max = Duration::from_millis(5);
    let config = Config { command_attempts_max: 2, command_time_max: time_max, ..hasty() };
    let fixture = fixture(config, Base::system()).await;
    let mut commands = fixture.commands();
    let act = |command: Arc<Command>| {
        assert_ne!(number(&command), 1, "one breaks");
        async move {
            assert_ne!(number(&command), 2, "two breaks later");
            std::future::pending::<Result<(), Unhandled>>().await
        }
    };
    let note = async |_: &mut Tx, _: &Command, (): &()| Ok(());
    commands.handle_outside(DO, act, note).unwrap();
    commands.start().await.unwrap();
    fixture.send("slow", 0).await.unwrap();
    fixture.send("breaks", 1).await.unwrap();
    fixture.send("breaks later", 2).await.unwrap();
    let letters = fixture.letters_when(3).await;
    let reason = |key: &str| {
        let letter = letters.iter().find(|letter| letter.key.as_deref() == Some(key.as_bytes()));
        letter.unwrap().reason.clone()
    };
    assert_eq!(reason("slow"), "did not end within 5ms");
    for (key, text) in [("breaks", "one breaks"), ("breaks later", "two breaks later")] {
        assert!(reason(key).starts_with("panicked: "), "{}", reason(key));
        assert!(reason(key).contains(text), "{}", reason(key));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_note_that_the_database_refuses_is_written_again_without_a_second_effect() {
    let fixture = fixture(hasty(), Base::system()).await;
    let mut commands = fixture.commands();
    let acts = Arc::new(AtomicU32::new(0));
    let (acted, db) = (acts.clone(), fixture.db.clone());
    let act = move |_: Arc<Command>| {
        acted.fetch_add(1, Ordering::SeqCst);
        db.shared().faults.commits.store(1, Ordering::SeqCst);
        async { Ok(()) }
    };
    let note = async |tx: &mut Tx, command: &Command, (): &()| effect(tx, command).await;
    commands.handle_outside(DO, act, note).unwrap();
    fixture.send("key 0", 0).await.unwrap();
    commands.start().await.unwrap();
    fixture.done().await;
    assert_eq!((acts.load(Ordering::SeqCst), fixture.effects().await.len()), (1, 1));
    assert_eq!(fixture.db.shared().faults.commits.load(Ordering::SeqCst), 0, "one commit failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_ends_the_process_each_time_is_a_dead_letter_at_last() {
    let config = Config { command_attempts_max: 2, ..hasty() };
    let fixture = fixture(config, standing()).await;
    let mut commands = fixture.commands();
    commands.handle(DO, async |tx: &mut Tx, command: &Command| effect(tx, command).await).unwrap();
    fixture.send("key 0", 0).await.unwrap();
    fixture.send("key 0", 1).await.unwrap();
    let runner = Arc::new(commands.runner().await.unwrap());
    for attempt in 1..=2 {
        let claimed = runner.claim(10).await.unwrap();
        assert_eq!((claimed.len(), claimed[0].command.attempt), (1, attempt));
        // The process ends here and starts again.
        fixture.db.write(async |tx| command::free_all(tx).await).await.unwrap();
        assert!(runner.claim(10).await.unwrap().is_empty(), "not at once");
        fixture.base.clock.advance(Duration::from_millis(4));
    }
    assert!(runner.claim(10).await.unwrap().is_empty());
    let letter = fixture.letters().await.remove(0);
    assert_eq!((letter.attempts, &*letter.reason), (2, "the last attempt did not end"));
    let next = runner.claim(10).await.unwrap().pop().unwrap();
    assert_eq!(number(&next.command), 1, "the one behind it comes");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_outlive_the_process_and_wait_for_their_moment() {
    let base = standing();
    let old = fixture(hasty(), base.clone()).await;
    let register = |db: &Db| {
        let mut commands = Commands::new(db, &base);
        let handle = async |tx: &mut Tx, command: &Command| effect(tx, command).await;
        commands.handle(DO, handle).unwrap();
        commands
    };
    let runner = Arc::new(register(&old.db).runner().await.unwrap());
    let not_before = Some(base.clock.now().plus(Duration::from_hours(1)));
    let send = async move |tx: &mut Tx| {
        let (name, key, payload) = (DO, "later".to_owned(), b"1".to_vec());
        tx.send(NewCommand { organisation: ORGANISATION, name, key, payload, not_before }).await
    };
    old.db.write(send).await.unwrap();
    old.send("later", 2).await.unwrap();
    old.send("now", 0).await.unwrap();
    assert_eq!(runner.claim(10).await.unwrap().len(), 1, "it is being carried out");
    old.db.close().await;
    drop(runner);

    let config = Config { path: old.dir.path().join("rows.db"), ..hasty() };
    let db = Db::open(config, &base).await.unwrap();
    assert_eq!(db.commands_length(), 3);
    let fixture = Fixture { db, base: base.clone(), dir: old.dir };
    register(&fixture.db).start().await.unwrap();
    until("an effect", async || {
        fixture.advance(Duration::from_millis(4));
        (!fixture.effects().await.is_empty()).then_some(())
    })
    .await;
    assert_eq!(fixture.effects().await, [("now".to_owned(), 0)]);
    fixture.advance(Duration::from_hours(1));
    fixture.done().await;
    let effects = fixture.effects().await;
    assert_eq!(effects[1..], [("later".to_owned(), 1), ("later".to_owned(), 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_has_exactly_one_handler_from_the_start() {
    let fixture = fixture(hasty(), Base::system()).await;
    let unknown = fixture.send("key 0", 0).await.unwrap_err();
    assert_eq!(unknown.to_string(), "nobody here handles deed.do");
    let mut commands = fixture.commands();
    let handle = async |tx: &mut Tx, command: &Command| effect(tx, command).await;
    commands.handle(DO, handle).unwrap();
    let twice = commands.handle(DO, handle).unwrap_err();
    assert_eq!(twice.to_string(), "deed.do has a handler already, and a command has exactly one");
    let other = fixture.commands().handle(DO, handle).unwrap_err();
    assert!(matches!(other, Error::HandledTwice { .. }), "{other}");
    fixture.send("key 0", 0).await.unwrap();
    // The next version has forgotten about it.
    fixture.db.close().await;
    let config = Config { path: fixture.dir.path().join("rows.db"), ..hasty() };
    let db = Db::open(config, &fixture.base).await.unwrap();
    let mut commands = Commands::new(&db, &fixture.base);
    commands.handle("deed.undo", handle).unwrap();
    assert!(matches!(commands.start().await, Err(Error::NoHandler { name }) if name == DO));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rolled_back_is_not_sent_and_what_is_too_much_is_refused() {
    let config = Config { commands_max: 2, command_bytes_max: 3, ..hasty() };
    let fixture = fixture(config, Base::system()).await;
    let mut commands = fixture.commands();
    let is_open = Arc::new(AtomicBool::new(false));
    let gate = is_open.clone();
    let handle = async move |tx: &mut Tx, command: &Command| {
        if !gate.load(Ordering::SeqCst) {
            return Err(broken("not yet"));
        }
        effect(tx, command).await
    };
    commands.handle(DO, handle).unwrap();
    let new = || NewCommand {
        organisation: ORGANISATION,
        name: DO,
        key: "key 0".into(),
        payload: b"7".to_vec(),
        not_before: None,
    };
    let undone = fixture.db.write(async move |tx| {
        tx.send(new()).await?;
        Err::<(), _>(Error::NotFound)
    });
    assert!(matches!(undone.await, Err(Error::NotFound)));
    assert_eq!(fixture.db.commands_length(), 0);
    let large = fixture.send("key 0", 1_000).await.unwrap_err();
    assert_eq!(large.to_string(), "a command of 4 bytes is larger than 3");
    let long = fixture.send(&"k".repeat(201), 1).await.unwrap_err();
    assert_eq!(
        long.to_string(),
        "a value breaks the rule a command's key has at most 200 characters"
    );
    fixture.send(&"가".repeat(200), 0).await.unwrap();
    fixture.send("key 0", 1).await.unwrap();
    let full = fixture.send("key 0", 2).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::TooMany);
    commands.start().await.unwrap();
    is_open.store(true, Ordering::SeqCst);
    fixture.done().await;
    assert_eq!(fixture.effects().await.len(), 2, "and there is room again");
    fixture.send("key 0", 2).await.unwrap();
}

#[test]
fn pauses_double_up_to_the_longest_and_lose_at_most_half() {
    let config = Config::default();
    for (attempt, whole) in [(1, 1), (2, 2), (5, 16), (12, 2_048), (13, 3_600), (u32::MAX, 3_600)] {
        let whole = Duration::from_secs(whole);
        assert_eq!(command::back_off(&config, attempt, 0), whole);
        for chance in [1, 12_345_678_901, u64::MAX] {
            let pause = command::back_off(&config, attempt, chance);
            assert!(whole / 2 <= pause && pause <= whole, "{attempt}: {pause:?}");
        }
    }
}

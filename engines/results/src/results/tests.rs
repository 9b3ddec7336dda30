use std::sync::atomic::{AtomicI64, AtomicU32};

use relational::params;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::*;
use crate::flight::Outcome;

mod kept;
mod nodes;
mod staleness;

const ORGANISATION: OrganisationId = OrganisationId::DEFAULT;
const HOUR: Duration = Duration::from_hours(1);

struct Fixture {
    results: Results,
    db: Db,
    kv: Kv,
    base: Base,
    dir: TempDir,
}

/// Where versions come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Alone,
    Nodes,
}

/// Only what is shared goes into kv, unless a test says from when on.
#[expect(clippy::needless_pass_by_value, reason = "it is what comes back")]
fn patient(config: Config) -> Config {
    let is_default = config.kept_from == Config::default().kept_from;
    let kept_from = if is_default { HOUR } else { config.kept_from };
    Config { kept_from, kept_wait_max: Duration::from_secs(20), ..config }
}

async fn embedded(base: &Base, dir: &std::path::Path) -> Kv {
    let config = kv::Config { durability: kv::Durability::Off, ..kv::Config::default() };
    Kv::for_rooms(config, base, &dir.join("kv")).await.unwrap()
}

async fn fixture(form: Form, config: Config) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let base = Base::simulated(Timestamp::from_millis(1_000_000), 1);
    let (config, kv) = (patient(config), embedded(&base, dir.path()).await);
    let path = dir.path().join("rows.db");
    let rows = relational::Config { path, ..relational::Config::default() };
    let db = Db::open(rows, &base).await.unwrap();
    let results = match form {
        Form::Alone => Results::open_alone(config, &base, &db, &kv).await.unwrap(),
        Form::Nodes => Results::open(config, &base, &db, &kv).await.unwrap(),
    };
    Fixture { results, db, kv, base, dir }
}

fn question<'a>(key: &'a str, subjects: &'a [&'a str]) -> Question<'a> {
    Question::new("test", key, subjects, HOUR)
}

impl Fixture {
    fn handle(&self) -> OrganisationResults {
        self.results.for_organisation(ORGANISATION)
    }

    async fn bump(&self, subjects: &'static [&'static str]) {
        let results = self.handle();
        self.db.write(async move |tx| results.bump(tx, subjects).await).await.unwrap();
    }

    /// What answers a question about `rows` at once.
    async fn ask(&self, key: &str, answer: &str) -> Result<Bytes, Error> {
        let answer = Bytes::copy_from_slice(answer.as_bytes());
        let compute = move || async move { Ok::<_, Error>(answer) };
        let handle = self.handle();
        let asked = handle.answer(question(key, &["rows"]), compute);
        tokio::time::timeout(Duration::from_secs(20), asked).await.expect("it ends")
    }

    /// Asks in a task of its own; the computation waits for the gate.
    fn ask_slowly(
        &self,
        key: &str,
        gate: &Gate,
        answer: &'static str,
    ) -> JoinHandle<Option<Outcome>> {
        let (results, key, gate) = (self.handle(), key.to_owned(), gate.clone());
        self.base.tasks.spawn("asking", async move {
            let compute = move || gate.through(answer);
            results.answer(question(&key, &["rows"]), compute).await
        })
    }

    fn count(&self, name: &str) -> u64 {
        counted(&self.base, name)
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let limit = Duration::from_secs(20);
        let waiting = async {
            while !is_so() {
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(limit, waiting).await.is_ok(), "waited for {what}");
    }
}

/// The metric's value, of all labels together.
fn counted(base: &Base, name: &str) -> u64 {
    let text = base.metrics.text();
    let of = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    let is_it = |line: &&str| {
        line.strip_prefix("madang_results_")
            .and_then(|line| line.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with(['{', ' ']))
    };
    text.lines().filter(is_it).map(of).sum()
}

/// Counts computations and lets each go on when it is told.
#[derive(Clone)]
struct Gate {
    began: Arc<AtomicU32>,
    open: Arc<Semaphore>,
}

impl Gate {
    fn new() -> Self {
        Self { began: Arc::default(), open: Arc::new(Semaphore::new(0)) }
    }

    async fn through(self, answer: &'static str) -> Result<Bytes, Error> {
        self.began.fetch_add(1, Ordering::SeqCst);
        self.open.acquire().await.unwrap().forget();
        match answer {
            "panic" => panic!("the test asks for it"),
            "error" => Err(Error::of(base::ErrorKind::Conflict, std::io::Error::other("lost"))),
            answer => Ok(Bytes::from_static(answer.as_bytes())),
        }
    }

    fn began(&self) -> u32 {
        self.began.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_callers_cause_one_computation() {
    for form in [Form::Alone, Form::Nodes] {
        let fixture = fixture(form, Config::default()).await;
        let gate = Gate::new();
        let asking: Vec<_> = (0..1_000).map(|_| fixture.ask_slowly("a", &gate, "one")).collect();
        fixture.until("everybody to be aboard", || fixture.count("joined_total") == 999).await;
        gate.open.add_permits(1_000);
        for asked in asking {
            assert_eq!(asked.await.unwrap().unwrap().unwrap(), "one");
        }
        assert_eq!(gate.began(), 1, "{form:?}");
        assert_eq!(fixture.count("computes_total"), 1);
        assert_eq!(fixture.ask("a", "two").await.unwrap(), "one");
        assert_eq!((fixture.count("hits_total"), fixture.count("misses_total")), (1, 1));
        assert_eq!(fixture.count("compute_seconds_count"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_come_and_go_cause_one_computation_for_each_version() {
    let fixture = fixture(Form::Alone, Config::default()).await;
    for round in 1..=20 {
        fixture.bump(&["rows"]).await;
        let asking = (0..200).map(|_| fixture.ask("a", "one"));
        futures::future::try_join_all(asking).await.unwrap();
        assert_eq!(fixture.count("computes_total"), round);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_as_a_computation_ends_gets_what_it_left() {
    let fixture = fixture(Form::Alone, Config::default()).await;
    let compute = || -> Compute { Box::new(|| Box::pin(async { Ok(Bytes::from("again")) })) };
    let board = |kept: Option<Bytes>| {
        let identity = question("a", &["rows"]).of(ORGANISATION).kept();
        fixture.results.0.flights.board(identity, &vec![0], compute(), || kept).unwrap()
    };
    // It looked and found nothing; the computation was kept and ended before it came aboard.
    assert!(matches!(board(Some("kept".into())), Boarded::Kept(bytes) if bytes == "kept"));
    let Boarded::Leads(leader, ..) = board(None) else { panic!("nobody computes") };
    assert!(matches!(board(Some("older".into())), Boarded::Joined(_)));
    drop(leader);
    assert!(matches!(board(None), Boarded::Leads(..)), "a lost computation is not joined");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_after_a_commit_does_not_join_a_computation_from_before() {
    for form in [Form::Alone, Form::Nodes] {
        let fixture = fixture(form, Config::default()).await;
        let gate = Gate::new();
        let before = fixture.ask_slowly("a", &gate, "old");
        fixture.until("the computation", || gate.began() == 1).await;
        fixture.bump(&["rows"]).await;
        assert_eq!(fixture.ask("a", "new").await.unwrap(), "new");
        gate.open.add_permits(1);
        assert_eq!(before.await.unwrap().unwrap().unwrap(), "old", "it asked before");
        assert_eq!(fixture.ask("a", "newest").await.unwrap(), "new", "{form:?}");
        fixture.bump(&["others"]).await;
        assert_eq!(fixture.ask("a", "newest").await.unwrap(), "new", "of another subject");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_computation_that_ends_does_not_end_the_boarding_of_a_newer_one() {
    let fixture = fixture(Form::Alone, Config::default()).await;
    let (old_gate, new_gate) = (Gate::new(), Gate::new());
    let old = fixture.ask_slowly("a", &old_gate, "old");
    fixture.until("the old computation", || old_gate.began() == 1).await;
    fixture.bump(&["rows"]).await;
    let new = fixture.ask_slowly("a", &new_gate, "new");
    fixture.until("the new computation", || new_gate.began() == 1).await;
    old_gate.open.add_permits(1);
    old.await.unwrap().unwrap().unwrap();
    let joins = fixture.ask_slowly("a", &new_gate, "newest");
    fixture.until("another to be aboard", || fixture.count("joined_total") == 1).await;
    new_gate.open.add_permits(2);
    assert_eq!(new.await.unwrap().unwrap().unwrap(), "new");
    assert_eq!(joins.await.unwrap().unwrap().unwrap(), "new");
    assert_eq!(new_gate.began(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_caller_that_goes_away_leaves_the_computation_to_the_others() {
    let fixture = fixture(Form::Alone, Config::default()).await;
    let gate = Gate::new();
    let first = fixture.ask_slowly("a", &gate, "one");
    fixture.until("the computation", || gate.began() == 1).await;
    let second = fixture.ask_slowly("a", &gate, "two");
    fixture.until("the second to be aboard", || fixture.count("joined_total") == 1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    gate.open.add_permits(1);
    assert_eq!(second.await.unwrap().unwrap().unwrap(), "one");
    assert_eq!(gate.began(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_waits_for_any_more_is_kept_for_the_next() {
    let fixture = fixture(Form::Alone, Config::default()).await;
    let gate = Gate::new();
    let first = fixture.ask_slowly("a", &gate, "one");
    fixture.until("the computation", || gate.began() == 1).await;
    first.abort();
    gate.open.add_permits(1);
    fixture.until("its end", || fixture.count("flights") == 0).await;
    assert_eq!(fixture.ask("a", "two").await.unwrap(), "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_panic_the_computation_of_somebody_else_runs_for_all() {
    let fixture = fixture(Form::Alone, Config::default()).await;
    let (breaking, sound) = (Gate::new(), Gate::new());
    let first = fixture.ask_slowly("a", &breaking, "panic");
    fixture.until("the computation", || breaking.began() == 1).await;
    let others: Vec<_> = (0..50).map(|_| fixture.ask_slowly("a", &sound, "sound")).collect();
    fixture.until("everybody to be aboard", || fixture.count("joined_total") == 50).await;
    sound.open.add_permits(50);
    breaking.open.add_permits(1);
    for asked in others.into_iter().chain([first]) {
        assert_eq!(asked.await.unwrap().unwrap().unwrap(), "sound");
    }
    assert_eq!((breaking.began(), sound.began()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn computations_that_all_panic_leave_nobody_waiting() {
    let fixture = fixture(Form::Alone, Config::default()).await;
    let gate = Gate::new();
    let asking: Vec<_> = (0..100).map(|_| fixture.ask_slowly("a", &gate, "panic")).collect();
    fixture.until("everybody to be aboard", || fixture.count("joined_total") == 99).await;
    gate.open.add_permits(100);
    for asked in asking {
        let told = asked.await.unwrap().unwrap();
        assert!(matches!(told, Err(Error::Panicked { .. })), "{told:?}");
    }
    assert_eq!(gate.began(), COMPUTATIONS_MAX);
    assert_eq!(fixture.ask("a", "sound").await.unwrap(), "sound");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_goes_to_everybody_who_waits_and_is_not_kept() {
    let fixture = fixture(Form::Alone, Config::default()).await;
    let gate = Gate::new();
    let asking: Vec<_> = (0..20).map(|_| fixture.ask_slowly("a", &gate, "error")).collect();
    fixture.until("everybody to be aboard", || fixture.count("joined_total") == 19).await;
    gate.open.add_permits(1);
    for asked in asking {
        let error = asked.await.unwrap().unwrap().unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (base::ErrorKind::Conflict, "lost"));
    }
    assert_eq!((gate.began(), fixture.count("compute_failures_total")), (1, 1));
    assert_eq!(fixture.ask("a", "right").await.unwrap(), "right");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_computation_that_does_not_end_is_ended() {
    let config = Config { compute_time_max: Duration::from_millis(20), ..Config::default() };
    let fixture = fixture(Form::Alone, config).await;
    let told = fixture.ask_slowly("a", &Gate::new(), "never").await.unwrap().unwrap();
    assert!(matches!(told, Err(Error::TimedOut { question: "test", .. })), "{told:?}");
    assert_eq!(fixture.ask("a", "right").await.unwrap(), "right");
}

#[tokio::test(flavor = "multi_thread")]
async fn computations_end_with_the_server_and_more_than_the_limit_are_refused() {
    let fixture = fixture(Form::Alone, Config { flights_max: 1, ..Config::default() }).await;
    let gate = Gate::new();
    let asked = fixture.ask_slowly("a", &gate, "never");
    fixture.until("the computation", || gate.began() == 1).await;
    let refused = fixture.ask("b", "right").await.unwrap_err();
    assert!(matches!(refused, Error::TooManyFlights { flights_max: 1 }), "{refused:?}");
    assert!(fixture.base.tasks.stop(Duration::from_secs(10)).await, "a computation goes on");
    assert!(matches!(asked.await.unwrap().unwrap(), Err(Error::Stopping)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_ends_with_its_time() {
    let config = Config { ttl_jitter_percent: 0, ttl_max: HOUR / 2, ..Config::default() };
    let fixture = fixture(Form::Alone, config).await;
    fixture.ask("a", "one").await.unwrap();
    fixture.base.clock.advance(Duration::from_micros(30 * 60 * 1_000_000 - 1));
    assert_eq!(fixture.ask("a", "two").await.unwrap(), "one");
    fixture.base.clock.advance(Duration::from_micros(1));
    assert_eq!(fixture.ask("a", "two").await.unwrap(), "two", "at the latest after ttl_max");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_one_moment_end_at_different_times_within_the_jitter() {
    let fixture =
        fixture(Form::Alone, Config { ttl_jitter_percent: 20, ..Config::default() }).await;
    let ends: Vec<Duration> = (0..200).map(|_| fixture.results.0.ttl(HOUR)).collect();
    assert!(ends.iter().all(|end| *end <= HOUR && *end >= HOUR * 8 / 10), "{ends:?}");
    let (least, most) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    assert!(*most > *least + HOUR / 10, "{least:?} to {most:?}");
    assert_eq!(fixture.results.0.ttl(Duration::ZERO), Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_time_is_computed_once_for_those_who_wait_and_not_kept() {
    let fixture = fixture(Form::Alone, Config::default()).await;
    for answer in ["one", "two"] {
        let compute = move || async move { Ok::<_, Error>(Bytes::from(answer)) };
        let question = Question::by_time("test", "a", Duration::ZERO);
        assert_eq!(fixture.handle().answer(question, compute).await.unwrap(), answer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_given_and_not_kept() {
    let fixture = fixture(Form::Alone, Config { value_bytes_max: 10, ..Config::default() }).await;
    assert_eq!(fixture.ask("a", "ten bytes.").await.unwrap(), "ten bytes.");
    assert_eq!(fixture.ask("a", "two").await.unwrap(), "ten bytes.");
    assert_eq!(fixture.ask("b", "eleven bytes").await.unwrap(), "eleven bytes");
    assert_eq!(fixture.ask("b", "two").await.unwrap(), "two");
    assert_eq!(fixture.count("too_large_total"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_is_lent_and_does_not_hold_the_buffer_that_it_came_in() {
    let fixture = fixture(Form::Alone, Config::default()).await;
    let large = Bytes::from(vec![7; 1 << 20]);
    let small = large.slice(..10);
    let compute = move || async move { Ok::<_, Error>(small) };
    let given = fixture.handle().answer(question("a", &["rows"]), compute).await.unwrap();
    assert_eq!(given.as_ptr(), large.as_ptr());
    let (one, two) = (fixture.ask("a", "").await.unwrap(), fixture.ask("a", "").await.unwrap());
    assert_eq!(one.as_ptr(), two.as_ptr());
    assert_ne!(one.as_ptr(), large.as_ptr());
    drop(given);
    fixture.until("the large buffer to be let go", || large.is_unique()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn organisations_share_neither_answers_nor_versions_nor_evictions() {
    for form in [Form::Alone, Form::Nodes] {
        let fixture = fixture(form, Config::default()).await;
        let other = fixture.results.for_organisation(OrganisationId::fixed(7));
        let other = |answer: &'static str| {
            let compute = move || async move { Ok::<_, Error>(Bytes::from(answer)) };
            let other = other.clone();
            async move { other.answer(question("a", &["rows"]), compute).await.unwrap() }
        };
        assert_eq!(fixture.ask("a", "ours").await.unwrap(), "ours");
        assert_eq!(other("theirs").await, "theirs");
        fixture.bump(&["rows"]).await;
        assert_eq!(fixture.handle().evict("rows"), 1);
        assert_eq!(other("new").await, "theirs", "{form:?}");
        assert_eq!(fixture.ask("a", "new").await.unwrap(), "new");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn evicting_frees_memory_and_makes_nothing_right_or_wrong() {
    let fixture = fixture(Form::Alone, Config::default()).await;
    fixture.ask("a", "one").await.unwrap();
    fixture.ask("b", "one").await.unwrap();
    let about_both = question("c", &["cells", "rows"]);
    let compute = || async { Ok::<_, Error>(Bytes::from("one")) };
    fixture.handle().answer(about_both, compute).await.unwrap();
    assert!(fixture.handle().bytes() > 0);
    assert_eq!(fixture.handle().evict("cells"), 1);
    assert_eq!(fixture.handle().evict("rows"), 2);
    assert_eq!((fixture.handle().bytes(), fixture.count("bytes")), (0, 0));
    assert_eq!(fixture.count("evictions_total"), 3);
    assert_eq!(fixture.ask("a", "two").await.unwrap(), "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_read_as_it_was_written_and_another_form_is_an_error() {
    let fixture = fixture(Form::Alone, Config::default()).await;
    let ask = async |answer: Vec<u32>| {
        let compute = move || async move { Ok::<_, Error>(answer) };
        fixture.handle().answer_json(question("a", &["rows"]), compute).await.unwrap()
    };
    assert_eq!(ask(vec![1, 2]).await, vec![1, 2]);
    assert_eq!(ask(vec![3]).await, vec![1, 2]);
    let compute = || async { Ok::<_, Error>("text".to_owned()) };
    let other = fixture.handle().answer_json(question("a", &["rows"]), compute).await;
    assert!(matches!(other, Err(Error::Form { question: "test", .. })), "{other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_bump_makes_no_answer_wrong_and_is_forgotten() {
    let fixture = fixture(Form::Alone, Config::default()).await;
    fixture.ask("a", "one").await.unwrap();
    let results = fixture.handle();
    let refused = fixture.db.write(async move |tx| {
        results.bump(tx, &["rows"]).await?;
        Err::<(), _>(relational::Error::NotFound)
    });
    refused.await.unwrap_err();
    assert_eq!(fixture.ask("a", "two").await.unwrap(), "one");
    let mut asked = 0;
    while counted_reads(&fixture, "a").await > 0 {
        asked += 1;
        assert!(asked < 1_000, "the version stays in doubt");
    }
}

/// How often the rows were asked for versions by one more question.
async fn counted_reads(fixture: &Fixture, key: &str) -> u64 {
    let before = fixture.count("version_reads_total");
    fixture.ask(key, "another").await.unwrap();
    fixture.count("version_reads_total") - before
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_read_once_for_many_and_not_at_all_where_they_are_known() {
    let nodes = fixture(Form::Nodes, Config::default()).await;
    let asking = (0..500).map(|number| nodes.ask(["a", "b"][number % 2], "one"));
    futures::future::try_join_all(asking).await.unwrap();
    assert!(nodes.count("version_reads_total") <= 250, "{}", nodes.count("version_reads_total"));
    assert_eq!(counted_reads(&nodes, "a").await, 1);
    let alone = fixture(Form::Alone, Config::default()).await;
    alone.ask("a", "one").await.unwrap();
    assert_eq!(counted_reads(&alone, "a").await, 0);
    alone.bump(&["rows"]).await;
    assert_eq!(counted_reads(&alone, "a").await, 1);
    assert_eq!(counted_reads(&alone, "b").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_beyond_the_limit_do_not_wait_for_versions() {
    let config = Config { version_waits_max: 1, ..Config::default() };
    let fixture = fixture(Form::Nodes, config).await;
    let asking = (0..50).map(|_| fixture.ask("a", "one"));
    let asked = futures::future::join_all(asking).await;
    let refused = asked.iter().filter(|asked| matches!(asked, Err(Error::TooManyWaits { .. })));
    assert!(refused.count() > 0);
    assert!(asked.iter().any(Result::is_ok));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_mirror_of_one_database_is_refused_while_the_first_is_there() {
    let fixture = fixture(Form::Alone, Config::default()).await;
    let Fixture { base, db, kv, .. } = &fixture;
    let second = Results::open_alone(Config::default(), base, db, kv).await;
    assert!(matches!(second, Err(Error::Mirrored)));
    let Fixture { results, db, kv, base, dir } = fixture;
    drop(results);
    let open = async || {
        loop {
            match Results::open_alone(Config::default(), &base, &db, &kv).await {
                Err(Error::Mirrored) => tokio::task::yield_now().await,
                opened => break opened.unwrap(),
            }
        }
    };
    drop(tokio::time::timeout(Duration::from_secs(20), open()).await.expect("it is free again"));
    drop(dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_and_subjects_beyond_their_limits_are_refused() {
    let config = Config { key_bytes_max: 8, question_subjects_max: 2, ..Config::default() };
    let fixture = fixture(Form::Alone, config).await;
    let long = "s".repeat(129);
    let long: [&str; 1] = [&long];
    let cases: [(Question<'_>, &str); 5] = [
        (question("a", &[]), "test names no subject that it depends on"),
        (question("nine byte", &["rows"]), "a key of test is longer than 8 bytes"),
        (question("a", &["a", "b", "c"]), "test depends on more than 2 subjects"),
        (question("a", &[""]), "\"\" is no subject: a subject has 1 to 128 bytes"),
        (question("a", &long), "is no subject: a subject has 1 to 128 bytes"),
    ];
    for (question, problem) in cases {
        let compute = || async { Ok::<_, Error>(Bytes::new()) };
        let error = fixture.handle().answer(question, compute).await.unwrap_err();
        assert!(error.to_string().ends_with(problem), "{error}");
        assert_eq!(error.kind(), base::ErrorKind::Invalid);
    }
    let results = fixture.handle();
    let bumped = fixture.db.write(async move |tx| results.bump(tx, &[""]).await).await;
    assert!(matches!(bumped, Err(relational::Error::Rule { .. })), "{bumped:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_of_what_has_not_changed_for_long_are_forgotten_and_never_come_again() {
    let fixture = fixture(Form::Nodes, Config::default()).await;
    let versions = async || {
        let asked = question("a", &["rows"]);
        fixture.results.0.versions(&asked.of(ORGANISATION)).await.unwrap()[0]
    };
    assert_eq!(versions().await, 0);
    let mut last = 0;
    for _ in 0..3 {
        fixture.bump(&["rows"]).await;
        assert!(versions().await > last, "time stands still, versions do not");
        last = versions().await;
    }
    let almost = Config::default().versions_kept().saturating_sub(HOUR);
    fixture.base.clock.advance(almost);
    fixture.results.tidy().await.unwrap();
    assert_eq!(versions().await, last);
    fixture.base.clock.advance(HOUR * 2);
    fixture.results.tidy().await.unwrap();
    assert_eq!(versions().await, 0);
    fixture.bump(&["rows"]).await;
    assert!(versions().await > last);
}

#[test]
fn settings_that_cannot_be_are_named() {
    let parsed: Config =
        toml::from_str("bytes_max = 5\nttl_max = \"1h\"\nvalue_bytes_max = 6").unwrap();
    let refused = |config: Config| config.check().unwrap_err().to_string();
    assert_eq!(refused(parsed), "value_bytes_max must be at most bytes_max");
    assert!(toml::from_str::<Config>("byte_max = 5").is_err());
    let config = Config { ttl_jitter_percent: 101, ..Config::default() };
    assert_eq!(refused(config), "ttl_jitter_percent must be at most 100");
    let config = Config { flights_max: 0, ..Config::default() };
    assert_eq!(refused(config), "flights_max must be at least 1");
    let config = Config { shared_look: Duration::ZERO, ..Config::default() };
    assert_eq!(refused(config), "shared_look must be longer than nothing");
    Config::default().check().unwrap();
}

//! Two handles on one database and one kv are two nodes: neither knows of the other but through them.

use super::*;

struct Nodes {
    one: Fixture,
    two: Results,
    two_base: Base,
}

async fn nodes(config: Config) -> Nodes {
    let one = fixture(Form::Nodes, config.clone()).await;
    let two_base = Base { metrics: base::Metrics::default(), ..one.base.clone() };
    let two = Results::open(patient(config), &two_base, &one.db, &one.kv).await.unwrap();
    Nodes { one, two, two_base }
}

fn quick() -> Config {
    Config { shared_look: Duration::from_millis(2), ttl_jitter_percent: 0, ..Config::default() }
}

fn ask(
    results: &Results,
    key: &str,
    gate: &Gate,
    answer: &'static str,
) -> JoinHandle<Option<Outcome>> {
    let (room, key, gate) = (results.0.clone(), key.to_owned(), gate.clone());
    let results = results.for_organisation(ORGANISATION);
    room.tasks.spawn("asking", async move {
        let compute = move || gate.through(answer);
        results.answer(question(&key, &["rows"]).shared(), compute).await
    })
}

async fn answered(asked: JoinHandle<Option<Outcome>>) -> Bytes {
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, asked).await.expect("it ends").unwrap().unwrap().unwrap()
}

fn open_gate() -> Gate {
    let gate = Gate::new();
    gate.open.add_permits(1_000);
    gate
}

/// Lets others do what they should not.
async fn a_while(millis: u64) {
    let never = std::future::pending::<()>();
    assert!(tokio::time::timeout(Duration::from_millis(millis), never).await.is_err());
}

impl Nodes {
    fn spot(&self, key: &str) -> Spot {
        let identity = question(key, &["rows"]).of(ORGANISATION).kept();
        self.one.results.0.store.spot(&identity)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_one_computes_and_the_other_gets_its_answer() {
    let nodes = nodes(quick()).await;
    for round in ["a", "b", "c", "d", "e"] {
        let gate = Gate::new();
        let of = |number: usize| [&nodes.one.results, &nodes.two][number % 2];
        let asking = (0..100_usize).map(|number| ask(of(number), round, &gate, "shared"));
        let asking: Vec<_> = asking.collect();
        nodes.one.until("a computation", || gate.began() > 0).await;
        a_while(20).await;
        gate.open.add_permits(100);
        for asked in asking {
            assert_eq!(answered(asked).await, "shared");
        }
        assert_eq!(gate.began(), 1);
    }
    let name = "from_kv_total";
    assert_eq!(nodes.one.count(name) + counted(&nodes.two_base, name), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bump_on_one_node_is_seen_by_the_next_question_on_the_other() {
    let nodes = nodes(quick()).await;
    let gate = open_gate();
    assert_eq!(answered(ask(&nodes.one.results, "a", &gate, "old")).await, "old");
    assert_eq!(answered(ask(&nodes.two, "a", &gate, "other")).await, "old");
    nodes.one.bump(&["rows"]).await;
    assert_eq!(answered(ask(&nodes.two, "a", &gate, "new")).await, "new");
    assert_eq!(answered(ask(&nodes.one.results, "a", &gate, "other")).await, "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stopped_while_computing_is_replaced_and_its_late_answer_changes_nothing() {
    let nodes = nodes(quick()).await;
    let spot = nodes.spot("a");
    assert!(crate::kept::take_right(&nodes.two.0.store, &spot).await, "nobody else asks");
    let gate = open_gate();
    nodes.one.bump(&["rows"]).await;
    let asked = ask(&nodes.one.results, "a", &gate, "right");
    a_while(50).await;
    assert_eq!(gate.began(), 0, "the right is taken");
    // It is never renewed.
    nodes.one.base.clock.advance(Duration::from_secs(10));
    assert_eq!(answered(asked).await, "right");
    let until = nodes.one.base.clock.now().plus(HOUR);
    let late = Answer { versions: vec![0], until, bytes: "late".into() };
    nodes.two.0.store.keep(&spot, &late).await;
    assert_eq!(answered(ask(&nodes.two, "a", &gate, "right too")).await, "right too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_computation_longer_than_its_right_keeps_it() {
    let nodes = nodes(Config { shared_lease: Duration::from_secs(3), ..quick() }).await;
    let gate = Gate::new();
    let first = ask(&nodes.one.results, "a", &gate, "first");
    nodes.one.until("the computation", || gate.began() == 1).await;
    let second = ask(&nodes.two, "a", &gate, "second");
    for _ in 0..4 {
        // Each step alone is within the right, all of them are not; it is renewed every second.
        nodes.one.base.clock.advance(Duration::from_secs(2));
        a_while(2_500).await;
    }
    assert_eq!(gate.began(), 1, "the other one took over from a node that lives");
    gate.open.add_permits(2);
    assert_eq!(answered(first).await, "first");
    assert_eq!(answered(second).await, "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_error_or_a_panic_the_other_node_computes_at_once() {
    for fault in ["error", "panic"] {
        let nodes = nodes(quick()).await;
        let gate = Gate::new();
        let failing = ask(&nodes.one.results, "a", &gate, fault);
        nodes.one.until("the computation", || gate.began() == 1).await;
        let asked = ask(&nodes.two, "a", &open_gate(), "right");
        gate.open.add_permits(1);
        assert!(failing.await.unwrap().unwrap().is_err());
        // The simulated clock stands, so the lease was let go.
        assert_eq!(answered(asked).await, "right", "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_waits_too_long_computes_for_itself() {
    let nodes = nodes(Config { shared_wait_max: Duration::from_millis(20), ..quick() }).await;
    let gate = Gate::new();
    let first = ask(&nodes.one.results, "a", &gate, "first");
    nodes.one.until("the computation", || gate.began() == 1).await;
    assert_eq!(answered(ask(&nodes.two, "a", &open_gate(), "second")).await, "second");
    gate.open.add_permits(1);
    assert_eq!(answered(first).await, "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_large_to_share_is_computed_by_each_node() {
    let nodes = nodes(Config { kept_value_bytes_max: 100, ..quick() }).await;
    let gate = open_gate();
    assert_eq!(answered(ask(&nodes.one.results, "a", &gate, LARGE)).await, LARGE);
    assert_eq!(answered(ask(&nodes.two, "a", &gate, "own")).await, "own");
}

const LARGE: &str = "a hundred bytes and more: \
    0123456789012345678901234567890123456789012345678901234567890123456789012345";

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_and_another_handle_cannot_be_taken_for_two_nodes() {
    let alone = fixture(Form::Alone, Config::default()).await;
    let other = Results::open(Config::default(), &alone.base, &alone.db, &alone.kv).await;
    assert!(matches!(other, Err(Error::Mirrored)));
}

//! Nobody is given an answer from before a commit that was acknowledged before they asked.

use relational::Migration;
use tokio::sync::Notify;

use super::*;

static TABLES: &[Migration] = &[Migration {
    id: "0001-counters",
    sql: "CREATE TABLE counters (name TEXT NOT NULL PRIMARY KEY, number BIGINT NOT NULL)",
}];

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const WRITERS: u64 = 3;
const READERS: u64 = 6;

/// Numbers grow and are asked for, by several handles on one database.
struct World {
    handles: Vec<OrganisationResults>,
    db: Db,
    base: Base,
    /// The greatest number of which a writer was told that it is there.
    acknowledged: [AtomicI64; NAMES.len()],
    writes_left: AtomicI64,
    answers: AtomicI64,
    given: Notify,
    is_shared: bool,
}

impl World {
    fn below(&self, most: usize) -> usize {
        usize::try_from(self.base.entropy.number() % most as u64).unwrap()
    }

    fn handle(&self) -> &OrganisationResults {
        &self.handles[self.below(self.handles.len())]
    }

    async fn write(&self) {
        while self.writes_left.fetch_sub(1, Ordering::SeqCst) > 0 {
            // Now at once, now when some were given an answer that can be kept.
            let more = [0, 0, 0, 4, 8, 12, 16, 20][self.below(8)];
            let answers = self.answers.load(Ordering::SeqCst) + more;
            loop {
                let given = self.given.notified();
                // The last write ends the reading.
                let is_last = self.writes_left.load(Ordering::SeqCst) <= 0;
                if is_last || self.answers.load(Ordering::SeqCst) >= answers {
                    break;
                }
                given.await;
            }
            let place = self.below(NAMES.len());
            let (name, results, fate) = (NAMES[place], self.handle().clone(), self.below(10));
            let written = self.db.write(async move |tx| {
                let update = "UPDATE counters SET number = number + 1 WHERE name = ?";
                // Before or after, for the order within the transaction does not matter.
                if fate % 2 == 0 {
                    results.bump(tx, &[name]).await?;
                }
                tx.execute(update, params![name]).await?;
                if fate % 2 == 1 {
                    results.bump(tx, &[name]).await?;
                }
                if fate == 0 {
                    return Err(relational::Error::NotFound);
                }
                let number = "SELECT number FROM counters WHERE name = ?";
                tx.query_one(number, params![name]).await?.get("number")
            });
            if fate == 1 {
                // It is begun and nobody waits for its end.
                let limit = Duration::from_micros(self.below(500) as u64);
                drop(tokio::time::timeout(limit, written).await);
                continue;
            }
            let number: Result<i64, relational::Error> = written.await;
            match number {
                Ok(number) => {
                    self.acknowledged[place].fetch_max(number, Ordering::SeqCst);
                }
                Err(error) => assert!(fate == 0, "{error}"),
            }
        }
    }

    async fn read(&self) -> Vec<String> {
        let mut stale = Vec::new();
        while self.writes_left.load(Ordering::SeqCst) > 0 && stale.is_empty() {
            let first = self.below(NAMES.len());
            let places = (first..=first + self.below(3)).map(|at| at % NAMES.len());
            let places: Vec<usize> = places.collect();
            let names: Vec<&'static str> = places.iter().map(|place| NAMES[*place]).collect();
            let told = |place: &usize| self.acknowledged[*place].load(Ordering::SeqCst);
            let least: Vec<i64> = places.iter().map(told).collect();
            let key = names.join(",");
            let mut question = Question::new("staleness", &key, &names, HOUR);
            if self.is_shared {
                question = question.shared();
            }
            let computing = numbers(self.db.clone(), names.clone(), self.below(20));
            let handle = self.handle();
            let numbers: Vec<i64> = handle.answer_json(question, || computing).await.unwrap();
            // What is kept is given at once; writers must come to their turn all the same.
            tokio::task::yield_now().await;
            self.answers.fetch_add(1, Ordering::SeqCst);
            self.given.notify_waiters();
            for ((name, number), least) in names.iter().zip(numbers).zip(least) {
                if number < least {
                    stale.push(format!("{name} is {number}, {least} was acknowledged"));
                }
            }
            if self.below(50) == 0 {
                handle.evict(NAMES[first]);
            }
        }
        self.writes_left.store(0, Ordering::SeqCst);
        self.given.notify_waiters();
        stale
    }
}

/// Reads the numbers, and takes its time before it gives them.
async fn numbers(db: Db, names: Vec<&'static str>, waits: usize) -> Result<Vec<i64>, Error> {
    let numbers = db.read(async move |read| {
        let mut numbers = Vec::new();
        for name in &names {
            let number = "SELECT number FROM counters WHERE name = ?";
            numbers.push(read.query_one(number, params![*name]).await?.get::<i64>("number")?);
        }
        Ok::<_, relational::Error>(numbers)
    });
    let numbers = numbers.await?;
    for _ in 0..waits {
        tokio::task::yield_now().await;
    }
    Ok(numbers)
}

async fn no_answer_is_stale(form: Form, nodes: usize, is_shared: bool, writes: i64) {
    // So small that answers come and go.
    let config = Config {
        bytes_max: 8_000,
        value_bytes_max: 4_000,
        shared_look: Duration::from_millis(2),
        // Everything goes into kv, and some is found there.
        kept_from: Duration::ZERO,
        kept_entries_max: 20,
        ..Config::default()
    };
    let fixture = fixture(form, config.clone()).await;
    fixture.db.migrate("counters", TABLES).await.unwrap();
    let made = fixture.db.write(async |tx| {
        for name in NAMES {
            let insert = "INSERT INTO counters (name, number) VALUES (?, 0)";
            tx.execute(insert, params![name]).await?;
        }
        Ok::<_, relational::Error>(())
    });
    made.await.unwrap();
    let mut handles = vec![fixture.handle()];
    for _ in 1..nodes {
        let Fixture { base, db, kv, .. } = &fixture;
        let node = Results::open(patient(config.clone()), base, db, kv).await.unwrap();
        handles.push(node.for_organisation(ORGANISATION));
    }
    let world = Arc::new(World {
        handles,
        db: fixture.db.clone(),
        base: fixture.base.clone(),
        acknowledged: Default::default(),
        writes_left: AtomicI64::new(writes),
        answers: AtomicI64::new(0),
        given: Notify::new(),
        is_shared,
    });
    // How many answers are hits is for the system's scheduler to say: as many rounds as it takes to see some.
    for _ in 0..ROUNDS_MAX {
        world.writes_left.store(writes, Ordering::SeqCst);
        let stale = round(&world, &fixture.base.tasks).await;
        assert_eq!(stale, Vec::<String>::new(), "{form:?}, {nodes} nodes");
        if fixture.count("hits_total") > 50 && fixture.count("joined_total") > 10 {
            return;
        }
    }
    let (hits, joined) = (fixture.count("hits_total"), fixture.count("joined_total"));
    let answers = world.answers.load(Ordering::SeqCst);
    panic!("{answers} answers, {hits} hits, {joined} joined");
}

const ROUNDS_MAX: usize = 40;

async fn round(world: &Arc<World>, tasks: &base::Tasks) -> Vec<String> {
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        let world = world.clone();
        writers.push(tasks.spawn("writer", async move { world.write().await }));
    }
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let world = world.clone();
        readers.push(tasks.spawn("reader", async move { world.read().await }));
    }
    for writer in writers {
        writer.await.unwrap().expect("a writer panicked");
    }
    let mut stale = Vec::new();
    for reader in readers {
        stale.extend(reader.await.unwrap().expect("a reader panicked"));
    }
    stale
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_answer_is_stale_where_versions_are_known_in_memory() {
    no_answer_is_stale(Form::Alone, 1, false, 1_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_answer_is_stale_where_two_nodes_write() {
    no_answer_is_stale(Form::Nodes, 2, false, 1_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_answer_is_stale_where_two_nodes_share_their_answers() {
    no_answer_is_stale(Form::Nodes, 2, true, 150).await;
}

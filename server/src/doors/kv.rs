//! The keys of an organisation's clients, as the console shows them: pages of names, values, slow commands, counts.

use ::kv::{Error, Kv, Value, pattern_of};
use base::access::Action;
use base::{ErrorKind, OrganisationId, Page};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use edge::{Caller, Json, Operation, PageBody, Paging, Path, Query, Routes, State};
use futures::future::try_join_all;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Doors;

const READ: Action = ::kv::READ;
const ADMIN: Action = ::kv::ADMIN;
const ALL: &str = "kv/*";

/// Steps of SCAN that one page takes; it may be empty then, and not the last.
const STEPS_MAX: usize = 20;
/// Elements and bytes of them that a value is shown with.
const SHOWN_MAX: usize = 100;
const SHOWN_BYTES_MAX: usize = 4_096;
const SLOW_MAX: usize = 100;

/// What the store counts, of all organisations together but for `keys`.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "KvOverview")]
struct OverviewBody {
    /// `false` where `kv.url` names another server: then there is nothing else to see here.
    embedded: bool,
    /// Of this organisation's clients, in the database that is looked at.
    keys: u64,
    /// Keys among them that expire.
    expiring: u64,
    memory_bytes: u64,
    /// 0 is no limit.
    memory_bytes_max: u64,
    clients: u64,
    /// Since the start, as are the others.
    commands: u64,
    hits: u64,
    misses: u64,
    expired: u64,
    evicted: u64,
    /// `always`, `everysec` or `no`.
    fsync: String,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "KvKey")]
struct KeyBody {
    /// Names the key in other requests.
    id: String,
    /// Its bytes as text; what is no UTF-8 is replaced.
    name: String,
    /// `string`, `hash`, `list`, `set`, `zset` or `stream`.
    r#type: String,
    /// Milliseconds until it goes; nothing if it stays.
    ttl_ms: Option<i64>,
    /// With its value, about.
    memory_bytes: u64,
}

/// A key with the beginning of its value.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "KvValue")]
struct ValueBody {
    key: KeyBody,
    /// Bytes of a string, elements of the others.
    length: u64,
    /// A string, or elements: alone, with their values, with their scores, or ids with what stands there.
    elements: Vec<Vec<String>>,
    /// There is more than is shown.
    truncated: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "KvSlowCommand")]
struct SlowBody {
    id: i64,
    #[schemars(extend("format" = "date-time"))]
    at: String,
    micros: i64,
    command: String,
    client: String,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "KvSlowCommands")]
struct SlowListBody {
    items: Vec<SlowBody>,
}

/// Which keys.
#[derive(Deserialize, JsonSchema)]
struct KeysQuery {
    /// What names begin with.
    #[serde(default)]
    prefix: String,
    /// 0 to 15.
    #[serde(default)]
    db: u8,
}

#[derive(Deserialize, JsonSchema)]
struct DbQuery {
    /// 0 to 15.
    #[serde(default)]
    db: u8,
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    Routes::new(doors.clone())
        .add(
            Operation::get("/v1/kv")
                .id("kvOverview")
                .summary("What the store of keys holds and does.")
                .tag("kv")
                .action(READ)
                .resource(ALL),
            overview,
        )
        .add(
            Operation::get("/v1/kv/keys")
                .id("listKvKeys")
                .summary(
                    "Keys whose names begin so, in no order; a page may be empty and not the last.",
                )
                .tag("kv")
                .action(READ)
                .resource(ALL),
            list,
        )
        .add(
            Operation::get("/v1/kv/keys/{id}")
                .id("getKvKey")
                .summary("A key with the beginning of its value.")
                .tag("kv")
                .action(READ)
                .resource(ALL)
                .kinds(&[ErrorKind::NotFound]),
            show,
        )
        .add(
            Operation::get("/v1/kv/slow")
                .id("listSlowKvCommands")
                .summary("Commands of the organisation's clients that took long, the newest first.")
                .tag("kv")
                .action(ADMIN)
                .resource(ALL),
            slow,
        )
}

/// One organisation's keys in one of its databases.
struct Store<'a> {
    kv: &'a Kv,
    organisation: OrganisationId,
    db: u8,
}

impl<'a> Store<'a> {
    fn of(doors: &'a Doors, caller: &Caller, db: u8) -> edge::Result<Self> {
        if db > 15 {
            return Err(edge::Error::invalid("the request does not fit").at("db", "is 0 to 15"));
        }
        Ok(Self { kv: &doors.kv, organisation: caller.organisation(), db })
    }

    async fn ask(&self, request: &[&[u8]]) -> edge::Result<Value> {
        self.kv.command((self.organisation, self.db), request).await.map_err(refused)
    }

    async fn number(&self, request: &[&[u8]]) -> edge::Result<i64> {
        Ok(self.ask(request).await?.integer().unwrap_or(0))
    }

    /// Nothing when it has gone.
    async fn key(&self, name: Vec<u8>) -> edge::Result<Option<KeyBody>> {
        let kind = text(self.ask(&[b"TYPE", &name]).await?);
        if kind == "none" {
            return Ok(None);
        }
        let ttl = self.number(&[b"PTTL", &name]).await?;
        let memory = self.number(&[b"MEMORY", b"USAGE", &name]).await?;
        Ok(Some(KeyBody {
            id: URL_SAFE_NO_PAD.encode(&name),
            name: String::from_utf8_lossy(&name).into_owned(),
            r#type: kind,
            ttl_ms: (ttl >= 0).then_some(ttl),
            memory_bytes: memory.unsigned_abs(),
        }))
    }

    async fn value(&self, name: &[u8], key: KeyBody) -> edge::Result<ValueBody> {
        let last = (SHOWN_MAX - 1).to_string();
        let (last, count) = (last.as_bytes(), SHOWN_MAX.to_string());
        let count = count.as_bytes();
        let end = (SHOWN_BYTES_MAX - 1).to_string();
        let (length, request): (&[u8], Vec<&[u8]>) = match key.r#type.as_str() {
            "string" => (b"STRLEN", vec![&b"GETRANGE"[..], name, b"0", end.as_bytes()]),
            "hash" => (b"HLEN", vec![&b"HSCAN"[..], name, b"0", b"COUNT", count]),
            "list" => (b"LLEN", vec![&b"LRANGE"[..], name, b"0", last]),
            "set" => (b"SCARD", vec![&b"SSCAN"[..], name, b"0", b"COUNT", count]),
            "zset" => (b"ZCARD", vec![&b"ZRANGE"[..], name, b"0", last, b"WITHSCORES"]),
            _ => (b"XLEN", vec![&b"XREVRANGE"[..], name, b"+", b"-", b"COUNT", count]),
        };
        let length = self.number(&[length, name]).await?.unsigned_abs();
        let answer = self.ask(&request).await?;
        let mut elements = elements(&key.r#type, answer);
        elements.truncate(SHOWN_MAX);
        let shown = if key.r#type == "string" { SHOWN_BYTES_MAX } else { elements.len() };
        Ok(ValueBody { key, length, elements, truncated: length > shown as u64 })
    }
}

async fn overview(
    State(doors): State<Doors>,
    caller: Caller,
    Query(query): Query<DbQuery>,
) -> edge::Result<Json<OverviewBody>> {
    let store = Store::of(&doors, &caller, query.db)?;
    if !doors.kv.is_embedded() {
        return Ok(Json(OverviewBody {
            embedded: false,
            keys: 0,
            expiring: 0,
            memory_bytes: 0,
            memory_bytes_max: 0,
            clients: 0,
            commands: 0,
            hits: 0,
            misses: 0,
            expired: 0,
            evicted: 0,
            fsync: String::new(),
        }));
    }
    let info = store.ask(&[b"INFO"]).await?.bytes().unwrap_or_default();
    let info = String::from_utf8_lossy(&info).into_owned();
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().to_owned()
    };
    let number = |name: &str| field(name).parse().unwrap_or(0);
    // `keys=5,expires=1,avg_ttl=0`
    let keyspace = field(&format!("db{}", query.db));
    let part = |name: &str| {
        let part = keyspace.split(',').find_map(|part| part.strip_prefix(name));
        part.and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    Ok(Json(OverviewBody {
        embedded: true,
        keys: part("keys="),
        expiring: part("expires="),
        memory_bytes: number("used_memory"),
        memory_bytes_max: number("maxmemory"),
        clients: number("connected_clients"),
        commands: number("total_commands_processed"),
        hits: number("keyspace_hits"),
        misses: number("keyspace_misses"),
        expired: number("expired_keys"),
        evicted: number("evicted_keys"),
        fsync: field("appendfsync"),
    }))
}

async fn list(
    State(doors): State<Doors>,
    caller: Caller,
    Query(query): Query<KeysQuery>,
    Paging(page): Paging,
) -> edge::Result<PageBody<KeyBody>> {
    let store = Store::of(&doors, &caller, query.db)?;
    let mut cursor = page.after.unwrap_or_else(|| "0".into());
    if cursor.parse::<u64>().is_err() {
        return Err(edge::Error::invalid("the request does not fit")
            .at("after", format!("a page cannot begin after {cursor:?}")));
    }
    let pattern = pattern_of(query.prefix.as_bytes());
    let count = page.limit.to_string();
    let mut names = Vec::new();
    for _ in 0..STEPS_MAX {
        let request = [&b"SCAN"[..], cursor.as_bytes(), b"MATCH", &pattern, b"COUNT"];
        let answer = store.ask(&[&request[..], &[count.as_bytes()]].concat()).await?;
        let [next, found] = pair(answer)?;
        names.extend(found.list().unwrap_or_default().into_iter().filter_map(Value::bytes));
        cursor = text(next);
        if cursor == "0" || names.len() >= page.limit {
            break;
        }
    }
    let keys = try_join_all(names.into_iter().map(|name| store.key(name))).await?;
    let next = (cursor != "0").then_some(cursor);
    Ok(Page { items: keys.into_iter().flatten().collect(), next }.into())
}

async fn show(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<DbQuery>,
) -> edge::Result<Json<ValueBody>> {
    let store = Store::of(&doors, &caller, query.db)?;
    let missing =
        || edge::Error::of(ErrorKind::NotFound, std::io::Error::other("there is no such key"));
    let name = URL_SAFE_NO_PAD.decode(&id).map_err(|_| missing())?;
    let key = store.key(name.clone()).await?.ok_or_else(missing)?;
    Ok(Json(store.value(&name, key).await?))
}

async fn slow(State(doors): State<Doors>, caller: Caller) -> edge::Result<Json<SlowListBody>> {
    let store = Store::of(&doors, &caller, 0)?;
    let most = SLOW_MAX.to_string();
    let answer = store.ask(&[b"SLOWLOG", b"GET", most.as_bytes()]).await?;
    let items = answer.list().unwrap_or_default().into_iter().filter_map(|entry| {
        let mut parts = entry.list()?.into_iter();
        let mut number = || parts.next()?.integer();
        let (id, at, micros) = (number()?, number()?, number()?);
        let words = parts.next()?.list()?.into_iter().map(text).collect::<Vec<_>>();
        let client = parts.next().map(text).unwrap_or_default();
        let at = base::Timestamp::from_millis(at.saturating_mul(1_000)).to_string();
        Some(SlowBody { id, at, micros, command: words.join(" "), client })
    });
    Ok(Json(SlowListBody { items: items.collect() }))
}

fn pair(answer: Value) -> edge::Result<[Value; 2]> {
    let parts = answer.list().unwrap_or_default();
    parts.try_into().map_err(|_| refused(Error::NoReply))
}

/// The elements of an answer, each with what belongs to it.
fn elements(kind: &str, answer: Value) -> Vec<Vec<String>> {
    let list = |value: Value| value.list().unwrap_or_default();
    match kind {
        "string" => vec![vec![text(answer)]],
        "hash" | "set" => {
            // A cursor stands before them.
            let found = list(answer).into_iter().nth(1).map(list).unwrap_or_default();
            let found: Vec<String> = found.into_iter().map(text).collect();
            found.chunks(if kind == "hash" { 2 } else { 1 }).map(<[String]>::to_vec).collect()
        }
        "zset" => list(answer)
            .into_iter()
            .map(|pair| list(pair).into_iter().map(text).collect())
            .collect(),
        "stream" => list(answer)
            .into_iter()
            .map(|entry| {
                let mut parts = list(entry).into_iter();
                let id = parts.next().map(text).unwrap_or_default();
                let fields: Vec<String> =
                    parts.next().map(list).unwrap_or_default().into_iter().map(text).collect();
                vec![id, fields.join(" ")]
            })
            .collect(),
        _ => list(answer).into_iter().map(|element| vec![text(element)]).collect(),
    }
}

/// A value as people read it, not more of it than is shown.
fn text(value: Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(is_so) => is_so.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Bytes(mut bytes) => {
            bytes.truncate(SHOWN_BYTES_MAX);
            String::from_utf8_lossy(&bytes).into_owned()
        }
        Value::List(values) => values.into_iter().map(text).collect::<Vec<_>>().join(" "),
        Value::Map(pairs) => {
            let pairs = pairs.into_iter().map(|(key, value)| text(key) + " " + &text(value));
            pairs.collect::<Vec<_>>().join(" ")
        }
    }
}

fn refused(error: Error) -> edge::Error {
    edge::Error::of(error.kind(), error)
}

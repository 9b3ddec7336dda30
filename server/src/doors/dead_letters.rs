//! Everything that could not be handled, in one list: readings of devices, events and commands.

use base::access::Action;
use base::{ErrorKind, OrganisationId, Page, PageRequest, Timestamp};
use base64::Engine;
use devices::{Encoding, LetterFilter};
use edge::{
    Caller, Json, NoContent, Operation, PageBody, Paging, Path, Query, Routes, State, Undeclared,
};
use relational::{
    DEAD_LETTERS_READ, DEAD_LETTERS_WRITE, DeadLetterFilter, DeadLetterId, Origin, Replayed,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::accounts::by;
use super::{Doors, failed_rows};

/// What a list shows of a payload.
const LISTED_BYTES_MAX: usize = 4 << 10;
/// Refused readings that one request replays or discards.
const READINGS_AT_ONCE: usize = PageRequest::LIMIT_MAX;
/// What stands for a handler of refused readings.
const READINGS: &str = "readings";
const READING_ID: &str = "reading-";

/// What a dead letter was.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Source {
    /// A message of a device that was refused.
    Reading,
    /// An event that one handler could not handle.
    Event,
    /// An event that the event log did not take.
    Outbox,
    /// A command that was given up.
    Command,
}

/// Something that could not be handled.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeadLetter")]
struct LetterBody {
    id: String,
    source: Source,
    /// Who could not handle it: `readings`, a handler of events, `relay`, or a command's name.
    handler: String,
    /// Where it came: the broker's topic, or the log's topic; empty for a command.
    topic: String,
    /// Of a reading, its place among the refused ones; of an event, its place in the log.
    offset: Option<u64>,
    partition: Option<u32>,
    /// The event's id, or the command's.
    event: Option<String>,
    /// One word for the reason, or the kind of event, or the command's name.
    kind: String,
    /// What keeps its order.
    key: Option<String>,
    /// Why the last attempt failed.
    reason: String,
    payload: String,
    encoding: Encoding,
    /// The payload is longer. In a list it is cut to 4 KiB; of a reading no more than this was kept.
    truncated: bool,
    /// Replays included.
    attempts: u32,
    #[schemars(extend("format" = "date-time"))]
    time: String,
    /// When it was replayed last, and failed again.
    #[schemars(extend("format" = "date-time"))]
    tried: Option<String>,
    /// Who sent it, where that is known.
    from: String,
}

/// Which dead letters; all of them without.
#[derive(Clone, Default, Deserialize, JsonSchema)]
struct FilterQuery {
    source: Option<Source>,
    handler: Option<String>,
    kind: Option<String>,
    /// A part of the reason, whatever its case.
    reason: Option<String>,
}

/// Which dead letters; all of them without.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "DeadLetterFilter")]
#[serde(deny_unknown_fields)]
struct FilterBody {
    source: Option<Source>,
    handler: Option<String>,
    kind: Option<String>,
    /// A part of the reason, whatever its case.
    reason: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Replayed")]
struct ReplayedBody {
    /// `handled`, or `waiting`: back in the queue that it came from.
    outcome: &'static str,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ReplayedMany")]
struct ReplayedManyBody {
    /// Handled, or back in the queue that they came from.
    replayed: u64,
    /// Failed again; they stay, with the new reason.
    failed: u64,
    /// Left alone behind one that failed, of the same handler and key.
    held: u64,
    /// There may be more than one request takes.
    more: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DiscardedMany")]
struct DiscardedManyBody {
    discarded: u64,
    /// There may be more than one request takes.
    more: bool,
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    let of = |place: Undeclared| place.tag("dead letters");
    let routes = Routes::new(doors.clone())
        .add(
            of(Operation::get("/v1/dead-letters"))
                .id("listDeadLetters")
                .summary("What could not be handled, with the reason, the newest first.")
                .action(DEAD_LETTERS_READ),
            list,
        )
        .add(
            of(Operation::get("/v1/dead-letters/{id}"))
                .id("readDeadLetter")
                .summary("One dead letter, with its whole payload.")
                .action(DEAD_LETTERS_READ)
                .kinds(&[ErrorKind::NotFound]),
            read,
        );
    routes
        .add(
            of(Operation::post("/v1/dead-letters/{id}/replay"))
                .id("replayDeadLetter")
                .summary("Gives it again to whoever could not handle it, and to nobody else. It goes when that worked.")
                .action(DEAD_LETTERS_WRITE)
                .kinds(&[ErrorKind::NotFound, ErrorKind::Conflict]),
            replay,
        )
        .add(
            of(Operation::delete("/v1/dead-letters/{id}"))
                .id("discardDeadLetter")
                .summary("Gives a dead letter up for good.")
                .action(DEAD_LETTERS_WRITE)
                .kinds(&[ErrorKind::NotFound]),
            discard,
        )
        .add(
            of(Operation::post("/v1/dead-letters/replay"))
                .id("replayDeadLetters")
                .summary("Replays up to 1,000 that match, each key in its order; what fails again holds its key back.")
                .action(DEAD_LETTERS_WRITE),
            replay_many,
        )
        .add(
            of(Operation::post("/v1/dead-letters/discard"))
                .id("discardDeadLetters")
                .summary("Gives up to 1,000 that match up for good.")
                .action(DEAD_LETTERS_WRITE),
            discard_many,
        )
}

async fn list(
    State(doors): State<Doors>,
    caller: Caller,
    Query(filter): Query<FilterQuery>,
    Paging(page): Paging,
) -> edge::Result<PageBody<LetterBody>> {
    let (organisation, limit) = (caller.organisation(), page.limit);
    let before = Cursor::parse(page.after.as_deref())?;
    let mut readings = Page { items: Vec::new(), next: None };
    if let Some(wanted) = filter.of_readings() {
        let page = PageRequest { after: Some(before.offset.to_string()), limit };
        readings = doors.devices.dead_letters(organisation, &wanted, &page).await?;
    }
    let mut rows = Page { items: Vec::new(), next: None };
    if let Some(wanted) = filter.of_rows() {
        let page = PageRequest { after: Some(before.sequence.to_string()), limit };
        let read = doors.db.dead_letters(organisation, &wanted, &page).await;
        rows = read.map_err(failed_rows)?;
    }
    Ok(merge(before, limit, readings, rows).into())
}

async fn read(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<Json<LetterBody>> {
    let organisation = caller.organisation();
    Ok(Json(match Named::parse(&id)? {
        Named::Reading(offset) => {
            LetterBody::reading(doors.devices.dead_letter(organisation, offset).await?)
        }
        Named::Row(id) => {
            let letter = doors.db.dead_letter(organisation, id).await.map_err(refused)?;
            LetterBody::row(letter, usize::MAX)
        }
    }))
}

async fn replay(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<Json<ReplayedBody>> {
    let outcome = match Named::parse(&id)? {
        Named::Reading(offset) => {
            doors.devices.replay_dead_letter(&caller.principal, offset).await?;
            "handled"
        }
        Named::Row(id) => {
            match doors.db.replay(caller.organisation(), id).await.map_err(refused)? {
                Replayed::Handled => "handled",
                Replayed::Waiting => "waiting",
            }
        }
    };
    doors.note(&caller, &id, format!("replayed: {outcome}")).await;
    Ok(Json(ReplayedBody { outcome }))
}

async fn discard(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<NoContent> {
    let organisation = caller.organisation();
    match Named::parse(&id)? {
        Named::Reading(offset) => doors.devices.discard_dead_letter(organisation, offset).await?,
        Named::Row(id) => doors.db.discard(organisation, id).await.map_err(refused)?,
    }
    doors.note(&caller, &id, "discarded".into()).await;
    Ok(NoContent)
}

async fn replay_many(
    State(doors): State<Doors>,
    caller: Caller,
    Json(filter): Json<FilterBody>,
) -> edge::Result<Json<ReplayedManyBody>> {
    let (filter, organisation) = (filter.into_query(), caller.organisation());
    let mut done = ReplayedManyBody { replayed: 0, failed: 0, held: 0, more: false };
    if let Some(wanted) = filter.of_readings() {
        let (offsets, is_more) = doors.refused_readings(organisation, &wanted).await?;
        done.more = is_more;
        for offset in offsets {
            match doors.devices.replay_dead_letter(&caller.principal, offset).await {
                Ok(()) => done.replayed += 1,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(devices::Error::Replay(_)) => done.failed += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
    if let Some(wanted) = filter.of_rows() {
        let many = doors.db.replay_matching(organisation, &wanted).await.map_err(refused)?;
        done.replayed += many.replayed;
        done.failed += many.failed;
        done.held += many.held;
        done.more |= many.is_more;
    }
    let ReplayedManyBody { replayed, failed, held, .. } = done;
    let detail = format!("replayed: {replayed}, failed: {failed}, held back: {held}");
    doors.note(&caller, "*", detail).await;
    Ok(Json(done))
}

async fn discard_many(
    State(doors): State<Doors>,
    caller: Caller,
    Json(filter): Json<FilterBody>,
) -> edge::Result<Json<DiscardedManyBody>> {
    let (filter, organisation) = (filter.into_query(), caller.organisation());
    let mut done = DiscardedManyBody { discarded: 0, more: false };
    if let Some(wanted) = filter.of_readings() {
        let (offsets, is_more) = doors.refused_readings(organisation, &wanted).await?;
        done.more = is_more;
        for offset in offsets {
            match doors.devices.discard_dead_letter(organisation, offset).await {
                Ok(()) => done.discarded += 1,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    if let Some(wanted) = filter.of_rows() {
        let rows = doors.db.discard_matching(organisation, &wanted).await;
        let (discarded, is_more) = rows.map_err(refused)?;
        done.discarded += discarded;
        done.more |= is_more;
    }
    doors.note(&caller, "*", format!("discarded: {}", done.discarded)).await;
    Ok(Json(done))
}

impl Doors {
    /// The newest that match, the earliest first, and whether there may be more. Looks through all pages, for those
    /// that match may lie far behind; the time of the request bounds it.
    async fn refused_readings(
        &self,
        organisation: OrganisationId,
        wanted: &LetterFilter,
    ) -> edge::Result<(Vec<u64>, bool)> {
        let (mut offsets, mut after) = (Vec::new(), None);
        loop {
            let page = PageRequest { after, limit: READINGS_AT_ONCE - offsets.len() };
            let page = self.devices.dead_letters(organisation, wanted, &page).await?;
            offsets.extend(page.items.iter().map(|letter| letter.offset));
            after = page.next;
            if after.is_none() || offsets.len() >= READINGS_AT_ONCE {
                offsets.reverse();
                return Ok((offsets, after.is_some()));
            }
        }
    }

    /// Keeps who did it. It is done, so that it is not in the audit log is no refusal.
    async fn note(&self, caller: &Caller, id: &str, detail: String) {
        const DONE: Action = DEAD_LETTERS_WRITE;
        let resource = format!("dead-letter/{id}");
        if let Err(error) = self.identity.note(by(caller), DONE, resource, detail).await {
            tracing::error!(%error, id, "a deed is missing in the audit log");
        }
    }
}

/// Which letter an id names.
enum Named {
    Reading(u64),
    Row(DeadLetterId),
}

impl Named {
    fn parse(id: &str) -> edge::Result<Self> {
        let named = match id.strip_prefix(READING_ID) {
            Some(offset) => offset.parse().ok().map(Self::Reading),
            None => id.parse().ok().map(Self::Row),
        };
        named.ok_or_else(|| edge::Error::not_found("there is no such dead letter"))
    }
}

/// Where a page goes on: below an offset of the refused readings and below a number of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    offset: u64,
    sequence: i64,
}

impl Cursor {
    const TOP: Self = Self { offset: u64::MAX, sequence: i64::MAX };

    fn parse(after: Option<&str>) -> edge::Result<Self> {
        let Some(after) = after else { return Ok(Self::TOP) };
        let parts = after.split_once('.').and_then(|(offset, sequence)| {
            Some(Self { offset: offset.parse().ok()?, sequence: sequence.parse().ok()? })
        });
        parts.ok_or_else(|| {
            let detail = format!("a page cannot begin after {after:?}");
            edge::Error::invalid("the request does not fit").at("after", detail)
        })
    }
}

/// Makes one page of two, the newest first. It ends early where one of them does not know what comes next.
fn merge(
    before: Cursor,
    limit: usize,
    readings: Page<devices::DeadLetter>,
    rows: Page<relational::DeadLetter>,
) -> Page<LetterBody> {
    let mut next = before;
    let mut items = Vec::new();
    let (mut left, mut right) =
        (readings.items.into_iter().peekable(), rows.items.into_iter().peekable());
    while items.len() < limit {
        let is_reading = match (left.peek(), right.peek()) {
            (None, _) if readings.next.is_some() => break,
            (_, None) if rows.next.is_some() => break,
            (None, None) => break,
            (Some(reading), Some(row)) => reading.time >= row.time,
            (reading, None) => reading.is_some(),
            (None, Some(_)) => false,
        };
        if is_reading {
            items.extend(left.next().map(|letter| {
                next.offset = letter.offset;
                LetterBody::reading(letter)
            }));
        } else {
            items.extend(right.next().map(|letter| {
                next.sequence = letter.id.sequence();
                LetterBody::row(letter, LISTED_BYTES_MAX)
            }));
        }
    }
    let is_over = |rest: &Option<String>, is_empty: bool| is_empty && rest.is_none();
    let (no_left, no_right) = (left.peek().is_none(), right.peek().is_none());
    if is_over(&readings.next, no_left) && is_over(&rows.next, no_right) {
        return Page { items, next: None };
    }
    // What is used up goes on where its own page says, and nothing is below zero.
    if no_left {
        next.offset = readings.next.map_or(0, |next| next.parse().unwrap_or(0));
    }
    if no_right {
        next.sequence = rows.next.map_or(0, |next| next.parse().unwrap_or(0));
    }
    Page { items, next: Some(format!("{}.{}", next.offset, next.sequence)) }
}

impl FilterBody {
    fn into_query(self) -> FilterQuery {
        let Self { source, handler, kind, reason } = self;
        FilterQuery { source, handler, kind, reason }
    }
}

impl FilterQuery {
    /// Nothing when no refused reading can match.
    fn of_readings(&self) -> Option<LetterFilter> {
        let is_source = self.source.is_none_or(|source| source == Source::Reading);
        let is_handler = self.handler.as_ref().is_none_or(|handler| handler == READINGS);
        let (kind, reason) = (self.kind.clone(), self.reason.clone());
        (is_source && is_handler).then_some(LetterFilter { kind, reason })
    }

    /// Nothing when no event or command can match.
    fn of_rows(&self) -> Option<DeadLetterFilter> {
        let origin = match self.source {
            None => None,
            Some(Source::Reading) => return None,
            Some(Source::Event) => Some(Origin::Event),
            Some(Source::Outbox) => Some(Origin::Outbox),
            Some(Source::Command) => Some(Origin::Command),
        };
        let (handler, kind) = (self.handler.clone(), self.kind.clone());
        Some(DeadLetterFilter { origin, handler, kind, reason: self.reason.clone() })
    }
}

impl LetterBody {
    fn reading(letter: devices::DeadLetter) -> Self {
        Self {
            id: format!("{READING_ID}{}", letter.offset),
            source: Source::Reading,
            handler: READINGS.into(),
            topic: letter.topic,
            offset: Some(letter.offset),
            partition: None,
            event: None,
            kind: letter.kind,
            key: None,
            reason: letter.reason,
            payload: letter.payload,
            encoding: letter.encoding,
            truncated: letter.is_truncated,
            attempts: letter.attempts,
            time: letter.time.to_string(),
            tried: letter.tried.map(|time: Timestamp| time.to_string()),
            from: letter.from,
        }
    }

    fn row(letter: relational::DeadLetter, bytes_max: usize) -> Self {
        let source = match letter.origin {
            Origin::Event => Source::Event,
            Origin::Outbox => Source::Outbox,
            Origin::Command => Source::Command,
        };
        let (payload, encoding) = text_of(&letter.payload, bytes_max);
        Self {
            id: letter.id.to_string(),
            source,
            handler: letter.handler,
            topic: letter.topic.unwrap_or_default(),
            offset: letter.offset,
            partition: letter.partition,
            event: letter.event.map(|event| event.to_string()),
            kind: letter.kind.unwrap_or_default(),
            key: letter.key.map(|key| String::from_utf8_lossy(&key).into_owned()),
            reason: letter.reason,
            payload,
            encoding,
            truncated: letter.payload.len() > bytes_max,
            attempts: letter.attempts,
            time: letter.time.to_string(),
            tried: letter.tried.map(|time| time.to_string()),
            from: String::new(),
        }
    }
}

/// The beginning of a payload, as text if the whole is text.
fn text_of(payload: &[u8], bytes_max: usize) -> (String, Encoding) {
    let Ok(text) = std::str::from_utf8(payload) else {
        let kept = &payload[..payload.len().min(bytes_max)];
        return (base64::engine::general_purpose::STANDARD.encode(kept), Encoding::Base64);
    };
    let end = text.floor_char_boundary(bytes_max.min(text.len()));
    (text[..end].to_owned(), Encoding::Utf8)
}

/// The rows say why a replay failed; what else goes wrong is theirs.
fn refused(error: relational::Error) -> edge::Error {
    if error.kind() == ErrorKind::NotFound {
        return edge::Error::not_found("there is no such dead letter");
    }
    failed_rows(error)
}

#[cfg(test)]
mod tests;

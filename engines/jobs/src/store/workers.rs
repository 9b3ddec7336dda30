//! Who is alive. A worker says so by one row, whatever number of jobs it has.

use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;
use relational::{Tx, params};

use crate::kind::{Kinds, back_off};
use crate::store::ends::{End, How, Writer, write};
use crate::store::{COLUMNS, Claimed, place_of};
use crate::{Error, Kind};

const DEAD: Timestamp = Timestamp::from_micros(0);
/// Jobs of a dead worker that one commit takes away.
const LOST_MAX: i64 = 200;

/// Enters a worker. Where only this process can have the rows, those of other openings are dead, and so is
/// whoever this one was before.
pub(crate) async fn enter(
    tx: &mut Tx,
    (holder, former): (&str, Option<&str>),
    until: Timestamp,
    (opening, is_embedded): (&str, bool),
) -> Result<(), Error> {
    if is_embedded {
        let dead = "UPDATE job_worker SET until_time = ? WHERE opening <> ?";
        tx.execute(dead, params![DEAD, opening]).await?;
    }
    if let Some(former) = former {
        let dead = "UPDATE job_worker SET until_time = ? WHERE holder = ?";
        tx.execute(dead, params![DEAD, former]).await?;
    }
    let insert = "INSERT INTO job_worker (holder, opening, until_time) VALUES (?, ?, ?)";
    tx.execute(insert, params![holder, opening, until]).await?;
    Ok(())
}

/// Refuses a worker that was taken for dead.
pub(crate) async fn check(tx: &mut Tx, holder: &str) -> Result<(), Error> {
    let alive = "SELECT 1 AS alive FROM job_worker WHERE holder = ? AND until_time <> ?";
    let alive = tx.query_optional(alive, params![holder, DEAD]).await?;
    alive.map(drop).ok_or(Error::TakenForDead)
}

pub(crate) async fn beat(tx: &mut Tx, holder: &str, until: Timestamp) -> Result<(), Error> {
    let update = "UPDATE job_worker SET until_time = ? WHERE holder = ? AND until_time <> ?";
    match tx.execute(update, params![until, holder, DEAD]).await? {
        0 => Err(Error::TakenForDead),
        _ => Ok(()),
    }
}

/// What was taken from workers that died.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) lost: Vec<End>,
    /// There are more.
    pub(crate) is_more: bool,
}

/// Takes the jobs of workers that were not heard of, some at a time.
pub(crate) async fn bury(
    tx: &mut Tx,
    kinds: &Kinds,
    now: Timestamp,
    chance: u64,
) -> Result<Taken, Error> {
    let silent = "SELECT holder FROM job_worker WHERE until_time < ? LIMIT 1";
    let Some(row) = tx.query_optional(silent, params![now]).await? else {
        return Ok(Taken::default());
    };
    let holder: String = row.get("holder")?;
    // From now on it can claim nothing more.
    let dead = "UPDATE job_worker SET until_time = ? WHERE holder = ?";
    tx.execute(dead, params![DEAD, holder]).await?;
    let place = place_of(&holder);
    let had = format!("SELECT {COLUMNS} FROM job WHERE place = ? ORDER BY priority, id LIMIT ?");
    let rows = tx.query(&had, params![place, LOST_MAX]).await?;
    let claimed = rows.iter().map(Claimed::of).collect::<Result<Vec<_>, _>>()?;
    let mut lost = Vec::with_capacity(claimed.len());
    for claimed in claimed {
        let options =
            kinds.find(&claimed.kind).map_or_else(Kind::default, |kind| kind.options.clone());
        lost.push(lose(claimed, &options, now, chance));
    }
    write(tx, Writer { kinds, place: &place, now }, &lost).await?;
    if lost.is_empty() {
        tx.execute("DELETE FROM job_worker WHERE holder = ?", params![holder]).await?;
    }
    Ok(Taken { is_more: true, lost })
}

/// The first time it may have been the machine; what is lost again and again may be what ends it, so it waits longer
/// each time and has an end.
fn lose(claimed: Claimed, options: &Kind, now: Timestamp, chance: u64) -> End {
    if is_early(&claimed, now) {
        return not_begun(claimed, now);
    }
    let tries = claimed.tries + 1;
    let pause = match tries {
        1 => Duration::ZERO,
        tries => back_off(options, tries - 1, chance),
    };
    let is_last = tries >= options.attempts_max;
    let reason = "its worker went away before it ended".to_owned();
    let how = How::Lost { reason, at: (!is_last).then(|| now.plus(pause)) };
    let began = claimed.began;
    End { claimed: Arc::new(claimed), began, ended: now, how, log: String::new() }
}

/// It was claimed for a time that has not come.
fn is_early(claimed: &Claimed, now: Timestamp) -> bool {
    claimed.due > claimed.began && claimed.due > now
}

fn not_begun(claimed: Claimed, now: Timestamp) -> End {
    let (claimed, how) = (Arc::new(claimed), How::HandedBack);
    End { claimed, began: now, ended: now, how, log: String::new() }
}

/// A worker that stops in an orderly way gives back what it still has.
pub(crate) async fn leave(
    tx: &mut Tx,
    kinds: &Kinds,
    holder: &str,
    now: Timestamp,
) -> Result<Vec<End>, Error> {
    let place = place_of(holder);
    let had = format!("SELECT {COLUMNS} FROM job WHERE place = ? ORDER BY priority, id LIMIT ?");
    let rows = tx.query(&had, params![place, LOST_MAX]).await?;
    let mut ends = Vec::with_capacity(rows.len());
    for row in &rows {
        let claimed = Claimed::of(row)?;
        if is_early(&claimed, now) {
            ends.push(not_begun(claimed, now));
            continue;
        }
        let how = How::Interrupted { reason: "its server was stopped".to_owned() };
        let began = claimed.began;
        ends.push(End { claimed: Arc::new(claimed), began, ended: now, how, log: String::new() });
    }
    write(tx, Writer { kinds, place: &place, now }, &ends).await?;
    if ends.is_empty() {
        tx.execute("DELETE FROM job_worker WHERE holder = ?", params![holder]).await?;
    }
    Ok(ends)
}

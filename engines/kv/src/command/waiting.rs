//! Waiting for a key, and what taking from the first of many keys is for lists and sorted sets.

use super::by_name;
use super::options::{numbered_keys, timeout};
use crate::context::{Ctx, Outcome};
use crate::session::{Blocked, Timeout};
use crate::store::number::parse_i64;
use crate::store::object::Collection;
use crate::wire::reply::{Fault, Reply, SYNTAX};
use crate::wire::request::{Args, Owned};

/// Lets the client wait until one of the keys has something; within a transaction it gets what it would at the end.
pub(crate) fn wait(
    ctx: &mut Ctx<'_>,
    args: Args<'_>,
    keys: &[&[u8]],
    until: (Option<i64>, Timeout),
) {
    wait_as(ctx, Owned::new(args.iter()), keys, until);
}

/// As [`wait`], with another request to be run when there is something.
pub(crate) fn wait_as(
    ctx: &mut Ctx<'_>,
    request: Owned,
    keys: &[&[u8]],
    (deadline, on_timeout): (Option<i64>, Timeout),
) {
    let command = by_name(request.args().at(0)).filter(|_| !ctx.is_nested);
    let Some(command) = command else {
        match on_timeout {
            Timeout::NullArray => ctx.out().null_array(),
            Timeout::Null => ctx.out().null(),
        }
        return;
    };
    let keys = keys.iter().map(|key| Box::from(*key)).collect();
    let blocked = Blocked { command, request, keys, deadline, on_timeout };
    ctx.engine.block(ctx.session, blocked);
}

/// What LMPOP, ZMPOP and their waiting forms are asked for.
pub(crate) struct MultiPop<'a> {
    keys: Vec<&'a [u8]>,
    /// The second of the two words that the command knows: RIGHT, MAX.
    pub(crate) is_second: bool,
    pub(crate) count: usize,
}

/// Reads a number of keys at a place, the keys, one of two words and COUNT.
fn multi_pop<'a>(args: Args<'a>, at: usize, words: [&str; 2]) -> Result<MultiPop<'a>, Fault> {
    let keys = numbered_keys(args, at)
        .map_err(|fault| if fault.0.contains("greater than number") { SYNTAX } else { fault })?;
    let word = words.iter().position(|word| args.is(keys.end, word)).ok_or(SYNTAX)?;
    let (after, mut count) = (keys.end + 1, 1);
    if after < args.len() {
        if !args.is(after, "COUNT") || after + 2 > args.len() {
            return Err(SYNTAX);
        }
        let given = parse_i64(args.at(after + 1)).and_then(|count| usize::try_from(count).ok());
        count = given.filter(|count| *count > 0).ok_or("ERR count should be greater than 0")?;
        if after + 2 != args.len() {
            return Err(SYNTAX);
        }
    }
    Ok(MultiPop { keys: keys.map(|at| args.at(at)).collect(), is_second: word == 1, count })
}

/// Takes elements from a key that has some.
type Take<T> = fn(&mut Ctx<'_>, &[u8], &MultiPop<'_>) -> Result<Vec<T>, Fault>;

/// Takes from the first key that has a collection of this kind, and answers its name with what was taken. Without one the
/// client waits, if the number of keys stands behind a time-out.
pub(crate) fn pop_first<C: Collection, T>(
    ctx: &mut Ctx<'_>,
    args: Args<'_>,
    (at, words): (usize, [&str; 2]),
    take: Take<T>,
    write: fn(&mut Reply, &T),
) -> Outcome {
    let until = if at > 1 { Some(timeout(ctx.now, args.at(1))?) } else { None };
    let pop = multi_pop(args, at, words)?;
    for key in &pop.keys {
        if ctx.collection::<C>(key)?.is_none() {
            continue;
        }
        let popped = take(ctx, key, &pop)?;
        let out = ctx.out();
        out.array(2);
        out.bulk(key);
        out.array(popped.len());
        for element in &popped {
            write(out, element);
        }
        return Ok(());
    }
    match until {
        Some(deadline) => wait(ctx, args, &pop.keys, (deadline, Timeout::NullArray)),
        None => ctx.out().null_array(),
    }
    Ok(())
}

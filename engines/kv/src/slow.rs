use std::collections::VecDeque;

use crate::session::Session;
use crate::wire::request::Args;

/// Arguments of an entry, and bytes of each, at most.
const ARGS_MAX: usize = 32;
const ARG_BYTES_MAX: usize = 128;

/// Commands that took long, the newest first.
#[derive(Default)]
pub(crate) struct SlowLog {
    next: u64,
    pub(crate) entries: VecDeque<Entry>,
}

pub(crate) struct Entry {
    pub(crate) id: u64,
    /// Seconds since 1970.
    pub(crate) at: i64,
    pub(crate) micros: u64,
    pub(crate) args: Vec<Vec<u8>>,
    pub(crate) address: String,
    pub(crate) name: Vec<u8>,
    pub(crate) base: usize,
}

impl SlowLog {
    pub(crate) fn add(
        &mut self,
        args: Args<'_>,
        (now, micros): (i64, u64),
        session: &Session,
        entries_max: usize,
    ) {
        let mut kept: Vec<Vec<u8>> = args.iter().take(ARGS_MAX).map(shortened).collect();
        if args.len() > ARGS_MAX {
            let rest = args.len() - ARGS_MAX + 1;
            kept[ARGS_MAX - 1] = format!("... ({rest} more arguments)").into_bytes();
        }
        self.entries.push_front(Entry {
            id: self.next,
            at: now.div_euclid(1_000),
            micros,
            args: kept,
            address: session.address.clone(),
            name: session.name.clone(),
            base: session.base,
        });
        self.next += 1;
        self.entries.truncate(entries_max);
    }
}

fn shortened(arg: &[u8]) -> Vec<u8> {
    if arg.len() <= ARG_BYTES_MAX {
        return arg.to_vec();
    }
    let rest = arg.len() - ARG_BYTES_MAX;
    [&arg[..ARG_BYTES_MAX], format!("... ({rest} more bytes)").as_bytes()].concat()
}

/// An argument between quotes, as MONITOR shows it.
pub(crate) fn quoted(arg: &[u8]) -> String {
    let mut text = String::with_capacity(arg.len() + 2);
    text.push('"');
    for &byte in arg {
        match byte {
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            7 => text.push_str("\\a"),
            8 => text.push_str("\\b"),
            0x20..=0x7e => text.push(char::from(byte)),
            _ => {
                text.push_str("\\x");
                for digit in [byte >> 4, byte & 15] {
                    text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
                }
            }
        }
    }
    text.push('"');
    text
}

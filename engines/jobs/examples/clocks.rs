//! `cargo run --release -p jobs --example clocks [DAYS [ZONES]]`: the moments of crons in time zones against a calendar that is read
//! minute by minute, and a year of a server whose clock is set back and forward and that is away for hours and
//! days: each schedule makes the jobs that its choice says, and none twice.

#![allow(clippy::print_stdout, reason = "an example that shows figures")]
#![allow(clippy::disallowed_methods, reason = "a development tool waits in real time")]

#[path = "clocks/calendar.rs"]
#[allow(clippy::unwrap_used, reason = "a calendar that cannot be read ends the proof")]
mod calendar;
#[path = "clocks/year.rs"]
mod year;

use base::{Entropy, Failure, Timestamp};
use jiff::tz::TimeZone;
use jobs::Cron;

use calendar::{TEXTS, ZONES, naive, shown};

const DAYS: u32 = 366;
const SEED: u64 = 29;
/// Crons made by chance, for each of the zones that are looked at closely.
const CHANCES: usize = 60;
const YEARS: [i16; 3] = [2023, 2024, 2025];

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let days = arguments.next().map_or(Ok(DAYS), |text| text.parse())?;
    let zones: usize = arguments.next().map_or(Ok(usize::MAX), |text| text.parse())?;
    let mut short = Vec::new();
    let chance = Entropy::seeded(SEED);
    let by_chance: Vec<String> = (0..CHANCES.min(zones)).map(|_| cron_by_chance(&chance)).collect();
    let closely: Vec<&str> =
        TEXTS.into_iter().chain(by_chance.iter().map(String::as_str)).collect();
    let mut moments = 0;
    for name in ZONES {
        for year in YEARS.into_iter().take(zones) {
            moments += compare(name, year, &closely, &mut short)?;
        }
    }
    println!(
        "{} crons in {} zones over {} years: {moments} moments, {} crons other than the calendar's",
        closely.len(),
        ZONES.len(),
        YEARS.len().min(zones),
        short.len()
    );
    let mut known: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
    known.sort();
    known.truncate(zones);
    let (mut moments, before) = (0, short.len());
    for name in &known {
        moments += compare(name, 2024, &TEXTS, &mut short)?;
    }
    println!(
        "{} crons in all {} zones over the leap year 2024: {moments} moments, {} crons other than the calendar's",
        TEXTS.len(),
        known.len(),
        short.len() - before
    );
    let outcome = year::run(days, SEED).await?;
    println!("{outcome}");
    short.extend(outcome.faults);
    short.truncate(5);
    if short.is_empty() { Ok(()) } else { Err(short.join("; ").into()) }
}

/// The moments of one year, counted; where both differ, the first of them.
fn compare(
    name: &str,
    year: i16,
    texts: &[&str],
    short: &mut Vec<String>,
) -> Result<usize, Failure> {
    let zone = TimeZone::get(name)?;
    let begin: Timestamp = format!("{}-12-30T00:00:00Z", year - 1).parse()?;
    let end: Timestamp = format!("{}-01-02T00:00:00Z", year + 1).parse()?;
    let shown = shown(&zone, (begin, end));
    let mut moments = 0;
    for text in texts {
        let cron: Cron = text.parse()?;
        let (expected, mut found) = (naive(text, begin, &shown), Vec::new());
        let mut after = Timestamp::from_micros(begin.micros() - 1);
        while let Some(next) = cron.next(after, &zone).filter(|next| *next < end && *next > after) {
            found.push(next);
            after = next;
        }
        moments += found.len();
        if found != expected {
            let both = found.iter().zip(&expected).find(|(one, other)| one != other);
            let (ours, theirs) = (found.len(), expected.len());
            short.push(format!("{text} in {name} {year}: {ours} for {theirs}, first {both:?}"));
        }
    }
    Ok(moments)
}

/// Any cron that names some day.
fn cron_by_chance(chance: &Entropy) -> String {
    let below = |bound: u64| chance.number() % bound;
    let field = |low: u64, high: u64| match below(4) {
        0 => "*".to_owned(),
        1 => format!("*/{}", 1 + below(high - low)),
        2 => (low + below(high - low + 1)).to_string(),
        _ => {
            let one = low + below(high - low + 1);
            format!("{one}-{}", one + below(high - one + 1))
        }
    };
    loop {
        let minute = if below(3) == 0 { field(0, 59) } else { below(60).to_string() };
        let text = [minute, field(0, 23), field(1, 31), field(1, 12), field(0, 6)].join(" ");
        // A star with a step is a restriction here and an open field to the calendar.
        let fields: Vec<&str> = text.split(' ').collect();
        let is_told_apart = [fields[2], fields[4]].iter().all(|field| !field.starts_with("*/"));
        if is_told_apart && text.parse::<Cron>().is_ok() {
            return text;
        }
    }
}

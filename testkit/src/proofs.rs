//! The acceptance lines of Madang. Each proof starts the real binary, prints figures and says whether the line held.

pub mod devices;
pub mod first;
pub mod identity;
pub mod kv;
mod ledger;
pub mod people;
pub mod spine;
pub mod work;

use std::path::{Path, PathBuf};

use anyhow::Result;

/// What a proof needs to know.
pub struct Ground {
    /// The `madang` under test.
    pub binary: PathBuf,
    /// Screenshots and other things to look at go here.
    pub evidence: PathBuf,
    pub size: Size,
}

/// How much of a proof is run. The checks are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Small counts, with every other change.
    Test,
    /// The counts of the acceptance line.
    Full,
}

/// What a proof found.
#[derive(Default)]
pub struct Report {
    pub figures: Vec<String>,
    pub short: Vec<String>,
}

pub type Proof = fn(&Ground) -> Result<Report>;

/// Every proof by its name, `AREA/NAME`.
pub const ALL: &[(&str, Proof)] = &[
    ("devices/clients", devices::clients),
    ("devices/console", devices::console),
    ("devices/fleet", devices::fleet),
    ("devices/mosquitto-beside", devices::mosquitto_beside),
    ("devices/night", devices::night),
    ("devices/pipeline", devices::pipeline),
    ("devices/rules", devices::rules),
    ("devices/two-consumers", devices::two_consumers),
    ("first/first-hour", first::first_hour),
    ("first/idle", first::idle),
    ("first/kill", first::kill),
    ("first/one-reading", first::one_reading),
    ("first/strangers", first::strangers),
    ("identity/attack", identity::attack),
    ("identity/providers", identity::providers),
    ("identity/revoked", identity::revoked),
    ("identity/rights", identity::rights),
    ("identity/speed", identity::speed),
    ("people/articles-speed", people::articles_speed),
    ("people/crowd", people::crowd),
    ("people/embed", people::embed),
    ("people/people", people::people),
    ("people/thread-speed", people::thread_speed),
    ("people/widget", people::widget),
    ("spine/disk", spine::disk),
    ("spine/isolation", spine::isolation),
    ("spine/leak", spine::leak),
    ("spine/power-cut", spine::power_cut),
    ("spine/power-cut-fails", spine::power_cut_fails),
    ("work/delivery", work::delivery),
    ("work/sockets", work::sockets),
];

impl Ground {
    pub fn test(binary: &Path) -> Self {
        let evidence = binary.with_file_name("evidence");
        Self { binary: binary.to_owned(), evidence, size: Size::Test }
    }

    pub fn count(&self, test: usize, full: usize) -> usize {
        match self.size {
            Size::Test => test,
            Size::Full => full,
        }
    }
}

impl Report {
    pub fn figure(&mut self, figure: impl Into<String>) {
        self.figures.push(figure.into());
    }

    /// Notes that a bound of the line was kept or missed.
    pub fn bound(&mut self, held: bool, figure: impl Into<String>) {
        let figure = figure.into();
        if !held {
            self.short.push(figure.clone());
        }
        self.figures.push(figure);
    }

    /// The last line of a proof.
    pub fn verdict(&self, name: &str) -> String {
        if self.short.is_empty() {
            format!("{name}: held ({} figures)", self.figures.len())
        } else {
            format!("{name}: fell short: {}", self.short.join("; "))
        }
    }
}

//! Devices: what rules and pipelines hold to under load.

mod beside;
mod clients;
mod console;
mod fleet;
mod night;
mod pipeline;
mod rules;
mod two_consumers;

pub use beside::mosquitto_beside;
pub use clients::clients;
pub use console::console;
pub use fleet::fleet;
pub use night::night;
pub use pipeline::pipeline;
pub use rules::rules;
pub use two_consumers::two_consumers;

use anyhow::{Context, Result};

use crate::stack::Stack;

/// A number of `/metrics`, all its labels together.
fn metric(stack: &Stack, name: &str) -> Result<f64> {
    let text = String::from_utf8(stack.api().get("/metrics")?.body)?;
    let lines = text
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
    let mut sum = None;
    for line in lines {
        let number: f64 = line.rsplit(' ').next().context("no number")?.parse()?;
        sum = Some(sum.unwrap_or(0.0) + number);
    }
    sum.with_context(|| format!("there is no metric {name}"))
}

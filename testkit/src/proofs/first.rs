//! One reading, all the way: the first acceptance lines.

mod first_hour;
mod idle;
mod kill;
mod one_reading;
mod strangers;

pub use first_hour::first_hour;
pub use idle::idle;
pub use kill::kill;
pub use one_reading::one_reading;
pub use strangers::strangers;

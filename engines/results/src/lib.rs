//! Results: answers that are dear to compute, kept until what they were computed from changes.
//!
//! An answer carries the versions of its subjects as they were before it was computed, and a version moves in
//! the transaction that changes the rows. So an answer from before a commit is not given to anybody who asks
//! after the commit was acknowledged, whatever happens to events, evictions and clocks. What is asked while it
//! is computed is computed once, also among nodes where the question says so.
//!
//! What is asked often stands in the memory of the process, and what was dear to compute also in kv, where it outlasts
//! the process and other nodes find it. It is no store: everything in it can go at any time, and a kv that is lost means
//! computing. It knows nobody's rights: what makes answers differ
//! stands in the key. It sees only what `bump` is told, so what is not in rows has no version here.
//!
//! Start at [`Results`]; docs/decisions/0007 tells how versions and computations are kept honest.
//!
//! ```
//! # async fn example(results: results::OrganisationResults, db: relational::Db) -> Result<(), results::Error> {
//! use std::time::Duration;
//! use relational::params;
//! use results::Question;
//!
//! // Where articles change, in the same transaction:
//! let writing = results.clone();
//! db.write(async move |tx| {
//!     tx.execute("INSERT INTO articles (title) VALUES (?)", params!["Spring"]).await?;
//!     writing.bump(tx, &["articles"]).await
//! })
//! .await?;
//!
//! // Where they are asked for:
//! let newest = Question::new("articles.newest", "page 1", &["articles"], Duration::from_hours(1));
//! let titles: Vec<String> = results
//!     .answer_json(newest, move || async move {
//!         db.read(async |read| {
//!             let rows = read.query("SELECT title FROM articles", &[]).await?;
//!             rows.iter().map(|row| row.get("title")).collect::<Result<_, relational::Error>>()
//!         })
//!         .await
//!     })
//!     .await?;
//! # drop(titles);
//! # Ok(())
//! # }
//! ```

mod config;
mod error;
mod flight;
mod kept;
mod memory;
mod meter;
mod mirror;
mod question;
mod results;
mod version;

pub use config::Config;
pub use error::{Error, Source};
pub use question::Question;
pub use results::{OrganisationResults, Results};

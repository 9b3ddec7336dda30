//! What rooms keep about somebody with an account: told to them when they ask, and forgotten when they go. Each room knows its
//! own rows; the words are these.

use serde::{Deserialize, Serialize};

use crate::{AccountId, OrganisationId};

/// Somebody whose data are told or forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Someone {
    pub organisation: OrganisationId,
    pub account: AccountId,
    /// By which they sign in, or did.
    pub email: String,
    /// They showed that it is theirs; otherwise what went there may be somebody else's.
    pub is_verified: bool,
}

/// What becomes of what somebody wrote for others to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Texts {
    /// It stays, and names nobody.
    Keep,
    Erase,
}

/// How far a room came within one transaction, which is bounded in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgotten {
    All,
    /// There is more, for the next transaction.
    Part,
}

impl Forgotten {
    /// All, where fewer rows were found than were asked for.
    pub fn of(found: usize, asked: i64) -> Self {
        if i64::try_from(found).is_ok_and(|found| found < asked) { Self::All } else { Self::Part }
    }

    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if self == Self::All { other } else { Self::Part }
    }
}

/// Some of what a room keeps about somebody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// JSON objects; `kind` says what each is.
    pub lines: Vec<String>,
    /// Where the next part begins, for the room to read.
    pub next: Option<String>,
}

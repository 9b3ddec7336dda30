/// What went wrong, in the nine ways that a caller can act on. Every door maps it to its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The named thing does not exist, or the caller may not know that it does.
    NotFound,
    /// A thing with this name or identity exists.
    AlreadyExists,
    /// The request can never succeed as it stands.
    Invalid,
    /// Nobody proved who is asking.
    Unauthenticated,
    /// The caller is known and may not do this.
    Forbidden,
    /// The request lost against a concurrent change; asking again may succeed.
    Conflict,
    /// A limit with a name was reached.
    TooMany,
    /// The part cannot answer now: starting, stopping, disk full, peer lost.
    Unavailable,
    /// A defect or a fault of the machine.
    Internal,
}

/// An error of any part, where nobody needs to tell kinds apart: in tasks and at start.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

//! People: what those hold to who write, read and comment.

mod articles_speed;

pub use articles_speed::articles_speed;

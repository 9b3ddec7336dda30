//! The protocol, RESP2 and RESP3: bytes to requests, replies to bytes.

pub(crate) mod reply;
pub(crate) mod request;

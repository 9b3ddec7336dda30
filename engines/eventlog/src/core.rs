//! The log without files, threads or clocks: bytes in, bytes and decisions out.

pub(crate) mod batch;
pub(crate) mod murmur;
pub(crate) mod partition;
pub(crate) mod scan;
mod varint;

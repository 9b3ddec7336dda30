//! The operations: owners' under `/v1/comment-sites`, those of pages under `/comments`. What goes over the wire stands in
//! `http/wire.rs`.

mod owners;
mod pages;
mod wire;

use edge::Routes;

use crate::{Comments, Error, widget};

type Result<T> = edge::Result<T>;

pub(crate) fn routes(comments: Comments) -> Routes<Comments> {
    let import_bytes_max = comments.0.config.import_bytes_max;
    let owners = owners::routes(Routes::new(comments), import_bytes_max);
    widget::routes(pages::routes(owners))
}

impl From<Error> for edge::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(faults) => faults
                .into_iter()
                .fold(Self::invalid("the request does not fit"), |so_far, fault| {
                    so_far.at(fault.pointer, fault.text)
                }),
            Error::TooOften(pause) => {
                Self::of(base::ErrorKind::TooMany, Error::TooOften(pause)).retry_after(pause)
            }
            error => Self::of(error.kind(), error),
        }
    }
}

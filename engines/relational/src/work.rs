//! A caller's closure with its types hidden, so that a backend can keep it, run it, run it again and answer it.

use std::future::Future;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base::Spent;
use tokio::sync::oneshot;

use crate::Error;

/// The line of code that asked for a transaction.
pub type Place = &'static Location<'static>;

/// One closure on its way to a connection.
pub(crate) struct Order<On> {
    pub(crate) work: Box<dyn Work<On>>,
    pub(crate) place: Place,
    pub(crate) limit: Duration,
    /// Who counts what it asks for.
    pub(crate) spent: Option<Spent>,
}

/// What the closure wants done with what it wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Drop,
}

/// What became of a closure.
pub(crate) enum Fate {
    /// The caller gets what the closure said.
    AsItSaid,
    Failed(Error),
}

pub(crate) trait Work<On>: Send {
    /// Runs the closure and keeps its answer until the fate of its rows is known.
    fn run<'a>(&'a mut self, on: &'a mut On) -> Pin<Box<dyn Future<Output = Verdict> + 'a>>;

    fn answer(self: Box<Self>, fate: Fate);

    /// Whether the caller went away, so that nobody waits for the answer.
    fn is_abandoned(&self) -> bool;
}

impl<On> Order<On> {
    pub(crate) fn answer(self, fate: Fate) {
        self.work.answer(fate);
    }

    pub(crate) fn count(&self, statements: u64) {
        if let Some(spent) = &self.spent {
            spent.add_statements(statements);
        }
    }
}

pub(crate) struct Closure<F, T, E> {
    work: F,
    said: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<F, T, E> Closure<F, T, E> {
    pub(crate) fn new(work: F) -> (Self, oneshot::Receiver<Result<T, E>>) {
        let (reply, answer) = oneshot::channel();
        (Self { work, said: None, reply }, answer)
    }
}

impl<On, F, T, E> Work<On> for Closure<F, T, E>
where
    F: AsyncFn(&mut On) -> Result<T, E> + Send,
    T: Send,
    E: From<Error> + Send,
{
    fn run<'a>(&'a mut self, on: &'a mut On) -> Pin<Box<dyn Future<Output = Verdict> + 'a>> {
        self.said = None;
        Box::pin(async move {
            let said = (self.work)(on).await;
            let verdict = if said.is_ok() { Verdict::Keep } else { Verdict::Drop };
            self.said = Some(said);
            verdict
        })
    }

    fn answer(self: Box<Self>, fate: Fate) {
        let said = match (fate, self.said) {
            (Fate::Failed(error), _) => Err(E::from(error)),
            (Fate::AsItSaid, Some(said)) => said,
            (Fate::AsItSaid, None) => Err(E::from(Error::Closed)),
        };
        // A caller that stopped waiting does not want to know.
        drop(self.reply.send(said));
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}

/// Polls a closure's future once. On an embedded database everything that it may await is ready.
pub(crate) fn poll_once<On>(
    work: &mut dyn Work<On>,
    on: &mut On,
    place: Place,
) -> Result<Verdict, Error> {
    let polled = catch_unwind(AssertUnwindSafe(|| {
        let mut future = work.run(on);
        future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }));
    match polled {
        Ok(Poll::Ready(verdict)) => Ok(verdict),
        Ok(Poll::Pending) => Err(Error::Awaited { place }),
        Err(panic) => {
            let panic = match panic.downcast::<Error>() {
                Ok(error) => return Err(*error),
                Err(panic) => panic,
            };
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(Error::Panicked { place, message: text.unwrap_or_else(|| "no message".into()) })
        }
    }
}

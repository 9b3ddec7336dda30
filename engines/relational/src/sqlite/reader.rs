use std::sync::Arc;

use super::keeper::Slot;
use super::session::{BEGIN_READ, ROLLBACK, Session};
use crate::Read;
use crate::queue::Queue;
use crate::session::Session as AnySession;
use crate::shared::Shared;
use crate::work::{Fate, Order, Verdict, poll_once};

/// Has one connection that reads. Each closure has a snapshot of its own.
pub(crate) struct Reader {
    read: Read,
    shared: Arc<Shared>,
    queue: Arc<Queue<Order<Read>>>,
    slot: Arc<Slot>,
}

impl Reader {
    pub(crate) fn new(
        mut session: Session,
        queue: Arc<Queue<Order<Read>>>,
        slot: Arc<Slot>,
    ) -> Self {
        let shared = session.shared().clone();
        session.report_to(&slot);
        Self { read: Read { session: AnySession::Embedded(session) }, shared, queue, slot }
    }

    pub(crate) fn run(mut self) {
        while let Some(orders) = self.queue.take(1) {
            for mut order in orders {
                if order.work.is_abandoned() {
                    continue;
                }
                let fate = self.work(&mut order);
                self.shared.meter.reads.inc();
                order.answer(fate);
            }
            if self.slot.is_replaced() {
                return;
            }
        }
    }

    fn work(&mut self, order: &mut Order<Read>) -> Fate {
        let session = self.read.session.embedded();
        if session.is_suspect()
            && let Err(error) = session.reopen()
        {
            return Fate::Failed(error);
        }
        if let Err(error) = session.own(BEGIN_READ) {
            return Fate::Failed(error);
        }
        session.begin(order.place, order.limit);
        self.slot.begin(order.place, order.limit);
        let said = poll_once(&mut *order.work, &mut self.read, order.place);
        self.slot.end();
        let session = self.read.session.embedded();
        order.count(session.statements());
        let failed = session.end();
        if session.is_in_transaction() && session.own(ROLLBACK).is_err() {
            session.rollback();
        }
        match (said, failed) {
            (Err(error), _) | (Ok(Verdict::Keep), Some(error)) => Fate::Failed(error),
            (Ok(_), _) => Fate::AsItSaid,
        }
    }
}

//! SUBSCRIBE and UNSUBSCRIBE.

use std::sync::Arc;

use crate::Error;
use crate::broker::{Attached, Broker, SUBSCRIBE, Subscriber};
use crate::outbox::Delivery;
use crate::packet::{Options, Reason, RetainedAt, Subscribe};
use crate::topic;

/// What a SUBACK says, and the filters whose retained messages are wanted.
pub(crate) struct Subscribed {
    pub(crate) codes: Vec<Reason>,
    pub(crate) retained: Vec<(Arc<str>, Options)>,
}

impl Broker {
    pub(crate) async fn subscribe(
        &self,
        attached: &Attached,
        subscribe: Subscribe,
    ) -> Result<Subscribed, Error> {
        let (organisation, session) = (&attached.organisation, &attached.session);
        let mut subscribed = Subscribed { codes: Vec::new(), retained: Vec::new() };
        let mut added = Vec::new();
        let principal = session.state.lock().principal.clone();
        for (filter, mut options) in subscribe.filters {
            let refused = if topic::is_shared(&filter) {
                Some(Reason::SHARED)
            } else if !topic::is_filter(&filter, self.config.topic_levels_max) {
                Some(Reason::FILTER)
            } else if !self.may(&principal, SUBSCRIBE, &filter) {
                Some(Reason::NOT_AUTHORIZED)
            } else {
                None
            };
            if let Some(refused) = refused {
                subscribed.codes.push(refused);
                continue;
            }
            options.qos = options.qos.granted();
            let filter: Arc<str> = filter.into();
            let is_new = {
                let mut state = session.state.lock();
                let is_new = !state.subscriptions.contains_key(&filter);
                if is_new && state.subscriptions.len() >= self.config.subscriptions_max {
                    subscribed.codes.push(Reason::QUOTA);
                    continue;
                }
                state.subscriptions.insert(filter.clone(), options);
                is_new
            };
            let subscriber = Subscriber { session: session.clone(), options };
            organisation.subscribers.write().insert(&filter, session.number, subscriber);
            subscribed.codes.push(Reason(options.qos.bits()));
            let wants_retained = match options.retained {
                RetainedAt::Subscribe => true,
                RetainedAt::NewSubscribe => is_new,
                RetainedAt::Never => false,
            };
            if wants_retained {
                subscribed.retained.push((filter.clone(), options));
            }
            added.push((filter, options));
        }
        let is_stored = session.state.lock().is_stored;
        if is_stored && !added.is_empty() {
            self.store.subscribe(session.organisation, session.number, added).await?;
        }
        Ok(subscribed)
    }

    pub(crate) async fn unsubscribe(
        &self,
        attached: &Attached,
        filters: Vec<String>,
    ) -> Result<Vec<Reason>, Error> {
        let session = &attached.session;
        let mut codes = Vec::with_capacity(filters.len());
        let mut removed: Vec<Arc<str>> = Vec::new();
        let is_stored = {
            let mut state = session.state.lock();
            for filter in filters {
                match state.subscriptions.remove_entry(filter.as_str()) {
                    Some((filter, _)) => {
                        codes.push(Reason::SUCCESS);
                        removed.push(filter);
                    }
                    None => codes.push(Reason::NO_SUBSCRIPTION),
                }
            }
            state.is_stored
        };
        attached.organisation.unlink_filters(session, &removed);
        if is_stored && !removed.is_empty() {
            self.store.unsubscribe(session.number, removed).await?;
        }
        Ok(codes)
    }

    /// The retained messages that a subscription gets.
    pub(crate) fn retained(
        &self,
        attached: &Attached,
        filter: &str,
        options: Options,
    ) -> Vec<Delivery> {
        let now = self.base.clock.now();
        let matching = attached.organisation.retained.lock().matching(filter, now);
        let deliveries = matching.into_iter().map(|message| Delivery {
            qos: options.qos.min(message.qos.granted()),
            retain: true,
            dup: false,
            identifiers: options.identifier.into_iter().collect(),
            sequence: 0,
            is_durable: false,
            message,
        });
        deliveries.collect()
    }
}

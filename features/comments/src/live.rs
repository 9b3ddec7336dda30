//! Tells readers of a page that its comments changed. What changed they read for themselves, as they may see it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base::OrganisationId;
use edge::Event;
use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{Error, Result};

type Place = (OrganisationId, String, String);

/// Pages with readers who wait.
#[derive(Clone)]
pub(crate) struct Live(Arc<Pages>);

struct Pages {
    waiting: Mutex<HashMap<Place, watch::Sender<u64>>>,
    readers: AtomicUsize,
    readers_max: usize,
}

impl Live {
    pub(crate) fn new(readers_max: usize) -> Self {
        let pages = Pages { waiting: Mutex::default(), readers: AtomicUsize::new(0), readers_max };
        Self(Arc::new(pages))
    }

    /// After the commit.
    pub(crate) fn changed(&self, organisation: OrganisationId, site: &str, page: &str) {
        let place = (organisation, site.to_owned(), page.to_owned());
        if let Some(page) = self.0.waiting.lock().get(&place) {
            page.send_modify(|changes| *changes += 1);
        }
    }

    /// One event at once, which says that the reader is heard, and one for each change, or for several that come
    /// faster than they are taken.
    pub(crate) fn follow(
        &self,
        organisation: OrganisationId,
        site: &str,
        page: &str,
    ) -> Result<impl Stream<Item = Event> + Send + use<>> {
        if self.0.readers.fetch_add(1, Ordering::AcqRel) >= self.0.readers_max {
            self.0.readers.fetch_sub(1, Ordering::AcqRel);
            return Err(Error::Unavailable("too many readers follow comments"));
        }
        let place = (organisation, site.to_owned(), page.to_owned());
        let changes = {
            let mut waiting = self.0.waiting.lock();
            waiting.entry(place.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe()
        };
        let reader =
            Reader { pages: self.0.clone(), place, changes: Some(changes), is_heard: false };
        Ok(futures::stream::unfold(reader, |mut reader| async move {
            if reader.is_heard {
                reader.changes.as_mut()?.changed().await.ok()?;
            }
            let event = if reader.is_heard { "changed" } else { "heard" };
            reader.is_heard = true;
            Some((Event { id: None, event, data: "{}".to_owned() }, reader))
        }))
    }
}

struct Reader {
    pages: Arc<Pages>,
    place: Place,
    changes: Option<watch::Receiver<u64>>,
    is_heard: bool,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.pages.readers.fetch_sub(1, Ordering::AcqRel);
        let mut waiting = self.pages.waiting.lock();
        self.changes.take();
        if waiting.get(&self.place).is_some_and(|page| page.receiver_count() == 0) {
            waiting.remove(&self.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_reader_is_told_of_its_page_and_leaves_nothing_behind() {
        let live = Live::new(2);
        let mut one = Box::pin(live.follow(OrganisationId::DEFAULT, "s", "one").unwrap());
        let other = Box::pin(live.follow(OrganisationId::DEFAULT, "s", "two").unwrap());
        assert!(live.follow(OrganisationId::DEFAULT, "s", "one").is_err());
        assert_eq!(one.next().await.unwrap().event, "heard");
        live.changed(OrganisationId::DEFAULT, "s", "two");
        assert!(futures::poll!(one.next()).is_pending());
        live.changed(OrganisationId::DEFAULT, "s", "one");
        live.changed(OrganisationId::DEFAULT, "s", "one");
        assert_eq!(one.next().await.unwrap().event, "changed");
        assert!(futures::poll!(one.next()).is_pending());
        drop((one, other));
        assert!(live.0.waiting.lock().is_empty());
        assert_eq!(live.0.readers.load(Ordering::Acquire), 0);
    }
}

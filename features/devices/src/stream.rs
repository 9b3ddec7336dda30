//! Records of a topic as they come, for readers that stay connected.

use std::collections::VecDeque;

use edge::Event;
use eventlog::Topic;
use futures::Stream;
use futures::future::select_all;
use tokio::sync::watch;

use crate::reading::Reading;
use crate::{Error, Result};

/// Which records are told, and by what name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Reading,
    Alert,
    Health,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Alert => "alert",
            Self::Health => "health",
        }
    }

    /// The text to tell; none for what is no reading and was put among the dead letters.
    fn data(self, value: &[u8]) -> Option<String> {
        if self == Self::Reading && Reading::recorded(value).is_err() {
            return None;
        }
        String::from_utf8(value.to_vec()).ok()
    }
}

/// Follows a topic from after `last_id`, or from its end when there is none.
pub(crate) fn follow(
    topic: Topic,
    kind: Kind,
    last_id: Option<&str>,
    bytes_max: usize,
) -> Result<impl Stream<Item = Event> + Send + use<>> {
    let ends: Vec<watch::Receiver<u64>> = (0..topic.partitions()).map(|p| topic.end(p)).collect();
    let next = match last_id {
        None => ends.iter().map(|end| *end.borrow()).collect(),
        Some(id) => parse(id, ends.len())
            .ok_or_else(|| Error::invalid("Last-Event-ID", "not an id of this stream"))?,
    };
    let reader = Reader { topic, kind, next, ends, bytes_max, waiting: VecDeque::new() };
    Ok(futures::stream::unfold(reader, |mut reader| async move {
        let event = reader.event().await?;
        Some((event, reader))
    }))
}

struct Reader {
    topic: Topic,
    kind: Kind,
    /// The next offset of each partition.
    next: Vec<u64>,
    ends: Vec<watch::Receiver<u64>>,
    bytes_max: usize,
    waiting: VecDeque<Event>,
}

impl Reader {
    /// The next event; none when the log can no longer be read.
    async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            let mut moved = false;
            for partition in 0..self.ends.len() {
                moved |= self.fill(partition).await?;
            }
            if !moved {
                let changes = self.ends.iter_mut().map(|end| Box::pin(end.changed()));
                let (changed, _, _) = select_all(changes).await;
                changed.ok()?;
            }
        }
    }

    /// Reads on in one partition, and says whether there was something.
    async fn fill(&mut self, partition: usize) -> Option<bool> {
        let number = u32::try_from(partition).ok()?;
        self.ends[partition].borrow_and_update();
        match self.topic.fetch(number, self.next[partition], self.bytes_max).await {
            Ok(batch) => {
                for stored in &batch {
                    self.next[partition] = stored.offset + 1;
                    if let Some(data) = self.kind.data(&stored.record.value) {
                        let id = Some(id(&self.next));
                        self.waiting.push_back(Event { id, event: self.kind.name(), data });
                    }
                }
                Some(!batch.is_empty())
            }
            // What the reader saw last is gone, or was never there: on from what there is.
            Err(eventlog::Error::OutOfRange { start, end }) => {
                let next = &mut self.next[partition];
                *next = if *next < start { start } else { end };
                Some(true)
            }
            Err(error) => {
                tracing::warn!(%error, "an event stream ends");
                None
            }
        }
    }
}

/// Where a reader is, in every partition of which it has seen something: `0:123`, or `0:123,1:45`.
fn id(next: &[u64]) -> String {
    let seen = next.iter().enumerate().filter(|(_, next)| **next > 0);
    let seen: Vec<String> = seen.map(|(part, next)| format!("{part}:{}", next - 1)).collect();
    seen.join(",")
}

fn parse(id: &str, partitions: usize) -> Option<Vec<u64>> {
    let mut next = vec![0; partitions];
    for part in id.split(',') {
        let (partition, offset) = part.split_once(':')?;
        let offset: u64 = offset.parse().ok()?;
        *next.get_mut(partition.parse::<usize>().ok()?)? = offset.checked_add(1)?;
    }
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_where_to_go_on_in_every_partition() {
        assert_eq!(id(&[124]), "0:123");
        assert_eq!(id(&[124, 0, 46]), "0:123,2:45");
        assert_eq!(parse("0:123", 1), Some(vec![124]));
        assert_eq!(parse("0:123,2:45", 3), Some(vec![124, 0, 46]));
        for wrong in ["", "0", "1:2", "0:-1", "0:x", "0:18446744073709551615", "0:1,"] {
            assert_eq!(parse(wrong, 1), None, "{wrong}");
        }
    }
}

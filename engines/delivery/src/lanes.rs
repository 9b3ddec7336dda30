//! Lanes: all mails are one, each endpoint is one. A lane has its own limits, so that what stalls in one holds back
//! nobody else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::config::Config;
use crate::pace::Pace;
use crate::{Channel, EndpointId, MessageId};

/// Where a message queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    Mail,
    Endpoint(EndpointId),
}

const MAIL: &str = "email";

impl Lane {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Mail => MAIL.to_owned(),
            Self::Endpoint(id) => id.to_string(),
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        if name == MAIL { Some(Self::Mail) } else { name.parse().ok().map(Self::Endpoint) }
    }

    pub(crate) fn endpoint(self) -> Option<EndpointId> {
        match self {
            Self::Mail => None,
            Self::Endpoint(id) => Some(id),
        }
    }
}

/// How a lane stands in the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) lane: Lane,
    pub(crate) channel: Channel,
    /// Failures in a row: with any, one attempt at a time is enough to see whether it is well again.
    pub(crate) failures: u32,
    /// Messages a second, when the endpoint asks for fewer or more than its channel's number.
    pub(crate) rate_max: Option<u32>,
    /// When its first message is due.
    pub(crate) due: Timestamp,
}

/// What a look for messages that are due reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look {
    All,
    Lively {
        endpoints: Vec<EndpointId>,
        /// When all of them are to be looked at again.
        all_in: Duration,
    },
}

/// How often all endpoints are looked at, while there is something to do.
pub(crate) const LOOK_AT_ALL_EVERY: Duration = Duration::from_secs(1);
/// With more endpoints that have something to do, all are looked at.
const LIVELY_MAX: usize = 200;

/// How many attempts run and how fast they began, lane by lane.
pub(crate) struct Board {
    limits: Limits,
    lanes: HashMap<Lane, Use>,
    /// What this process sends now: no clock that is set forward makes it send it a second time.
    sending: HashSet<MessageId>,
    /// Endpoints with something to do since the last look at all of them, and since the one before.
    lively: [HashSet<EndpointId>; 2],
    /// When all of them were looked at.
    looked_at_all: Option<Timestamp>,
    /// Attempts at endpoints, and those of them that began while their endpoint failed.
    posting: usize,
    unwell: usize,
}

#[derive(Clone, Copy)]
struct Limits {
    mails: usize,
    mail_rate: u32,
    posts: usize,
    posts_per_endpoint: usize,
    webhook_rate: u32,
    slack_rate: u32,
}

struct Use {
    running: usize,
    pace: Pace,
}

/// What a round may still begin; a plan, which holds nothing.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    posts: usize,
    unwell: usize,
}

/// What a lane may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub(crate) count: usize,
    /// When the lane's pace is what stops it, how long until one more may go.
    pub(crate) then: Option<Duration>,
}

impl Board {
    pub(crate) fn new(config: &Config) -> Self {
        let limits = Limits {
            mails: config.smtp.in_flight_max,
            mail_rate: config.smtp.messages_per_second_max,
            posts: config.endpoints.in_flight_max,
            posts_per_endpoint: config.endpoints.in_flight_each_max,
            webhook_rate: config.endpoints.webhooks_per_second_max,
            slack_rate: config.endpoints.slack_per_second_max,
        };
        Self {
            limits,
            lanes: HashMap::new(),
            sending: HashSet::new(),
            lively: Default::default(),
            looked_at_all: None,
            posting: 0,
            unwell: 0,
        }
    }

    /// Which endpoints to look at now. All of them now and then; in between those with something to do: there can be
    /// thousands that nothing is for.
    pub(crate) fn look(&mut self, now: Timestamp) -> Look {
        // A clock that is set back is a reason too.
        let since = self.looked_at_all.filter(|then| *then <= now).map(|then| now.since(then));
        match since.and_then(|since| LOOK_AT_ALL_EVERY.checked_sub(since)) {
            Some(left) if !left.is_zero() => {
                let [lately, before] = &self.lively;
                let endpoints: Vec<_> = lately.union(before).copied().collect();
                if endpoints.len() <= LIVELY_MAX {
                    return Look::Lively { endpoints, all_in: left };
                }
            }
            _ => {}
        }
        self.looked_at_all = Some(now);
        // A message may be written before its transaction is committed, so it is looked for twice.
        self.lively[1] = std::mem::take(&mut self.lively[0]);
        Look::All
    }

    /// There is something to do for a lane, or will be in a moment.
    pub(crate) fn stir(&mut self, lane: Lane) {
        self.lively[0].extend(lane.endpoint());
    }

    /// Whatever is known of endpoints may be otherwise now.
    pub(crate) fn look_at_all(&mut self) {
        self.looked_at_all = None;
    }

    pub(crate) fn room(&self) -> Room {
        // Half of all attempts is kept for endpoints that are well.
        let unwell_max = (self.limits.posts / 2).max(1);
        Room {
            posts: self.limits.posts.saturating_sub(self.posting),
            unwell: unwell_max.saturating_sub(self.unwell),
        }
    }

    pub(crate) fn allowed(&self, lane: &Standing, room: Room, now: Timestamp) -> Allowed {
        let running = self.lanes.get(&lane.lane).map_or(0, |lane| lane.running);
        let slots = match lane.lane {
            Lane::Mail => self.limits.mails.saturating_sub(running),
            Lane::Endpoint(_) if lane.failures > 0 => {
                1_usize.saturating_sub(running).min(room.unwell).min(room.posts)
            }
            Lane::Endpoint(_) => {
                self.limits.posts_per_endpoint.saturating_sub(running).min(room.posts)
            }
        };
        let pace = self.lanes.get(&lane.lane).map_or(Pace::new(), |lane| lane.pace);
        let rate = self.rate(lane);
        let paced = pace.allowed(rate, now);
        let count = slots.min(paced);
        Allowed { count, then: (paced <= slots).then(|| pace.wait(count, rate, now)) }
    }

    fn rate(&self, lane: &Standing) -> u32 {
        match lane.channel {
            Channel::Email => self.limits.mail_rate,
            Channel::Webhook => lane.rate_max.unwrap_or(self.limits.webhook_rate),
            Channel::Slack => lane.rate_max.unwrap_or(self.limits.slack_rate),
        }
    }

    pub(crate) fn is_sending(&self, message: MessageId) -> bool {
        self.sending.contains(&message)
    }

    /// Forgets lanes that nobody uses.
    pub(crate) fn tidy(&mut self, now: Timestamp) {
        self.lanes.retain(|_, lane| lane.running > 0 || !lane.pace.is_fresh(now));
    }
}

impl Room {
    /// Plans attempts of a lane.
    pub(crate) fn plan(&mut self, lane: &Standing, count: usize) {
        if lane.lane != Lane::Mail {
            self.posts = self.posts.saturating_sub(count);
            if lane.failures > 0 {
                self.unwell = self.unwell.saturating_sub(count);
            }
        }
    }
}

/// The right to one attempt; given back when it is dropped, however the attempt ended.
pub(crate) struct Slot {
    board: Arc<Mutex<Board>>,
    wake: Arc<Notify>,
    lane: Lane,
    message: MessageId,
    was_unwell: bool,
}

impl Slot {
    pub(crate) fn take(
        board: &Arc<Mutex<Board>>,
        wake: &Arc<Notify>,
        (lane, message): (&Standing, MessageId),
        now: Timestamp,
    ) -> Self {
        let was_unwell = lane.lane != Lane::Mail && lane.failures > 0;
        let mut open = board.lock();
        let rate = open.rate(lane);
        let used = open.lanes.entry(lane.lane).or_insert(Use { running: 0, pace: Pace::new() });
        used.running += 1;
        used.pace.take(1, rate, now);
        open.sending.insert(message);
        if lane.lane != Lane::Mail {
            open.posting += 1;
            open.unwell += usize::from(was_unwell);
        }
        drop(open);
        Self { board: board.clone(), wake: wake.clone(), lane: lane.lane, message, was_unwell }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut board = self.board.lock();
        board.sending.remove(&self.message);
        if let Some(used) = board.lanes.get_mut(&self.lane) {
            used.running -= 1;
        }
        if self.lane != Lane::Mail {
            board.posting -= 1;
            board.unwell -= usize::from(self.was_unwell);
        }
        board.stir(self.lane);
        drop(board);
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn standing(number: u128, failures: u32) -> Standing {
        let lane = Lane::Endpoint(EndpointId::fixed(number));
        Standing { lane, channel: Channel::Webhook, failures, rate_max: None, due: NOW }
    }

    fn config() -> Config {
        let mut config = Config::default();
        config.endpoints.in_flight_max = 8;
        config.endpoints.in_flight_each_max = 3;
        config
    }

    #[test]
    fn a_lane_has_its_share_and_failing_ones_never_more_than_half_of_all() {
        let board = Arc::new(Mutex::new(Board::new(&config())));
        let wake = Arc::new(Notify::new());
        let count = |lane: &Standing| {
            let board = board.lock();
            board.allowed(lane, board.room(), NOW).count
        };
        let mut number = 0;
        let mut take = |lane: &Standing| {
            number += 1;
            Slot::take(&board, &wake, (lane, MessageId::fixed(number)), NOW)
        };
        assert_eq!(count(&standing(1, 0)), 3);
        let mut held: Vec<_> = (0..3).map(|_| take(&standing(1, 0))).collect();
        assert_eq!((count(&standing(1, 0)), count(&standing(2, 0))), (0, 3));
        for failing in 10..14 {
            assert_eq!(count(&standing(failing, 1)), 1);
            held.push(take(&standing(failing, 1)));
            assert_eq!(count(&standing(failing, 1)), 0, "one at a time");
        }
        assert_eq!(count(&standing(14, 1)), 0, "four of eight fail: the rest is for the well");
        assert_eq!(count(&standing(2, 0)), 1);
        held.clear();
        assert_eq!((count(&standing(1, 0)), count(&standing(14, 1))), (3, 1));
        board.lock().tidy(NOW.plus(Duration::from_secs(10)));
        assert!(board.lock().lanes.is_empty());
    }

    #[test]
    fn a_pace_stops_a_lane_and_says_for_how_long() {
        let mut config = config();
        config.endpoints.slack_per_second_max = 1;
        let board = Arc::new(Mutex::new(Board::new(&config)));
        let wake = Arc::new(Notify::new());
        let slack = Standing { channel: Channel::Slack, ..standing(1, 0) };
        let ask = |lane: &Standing| {
            let board = board.lock();
            board.allowed(lane, board.room(), NOW)
        };
        let first = ask(&slack);
        assert_eq!(first, Allowed { count: 1, then: Some(Duration::from_secs(1)) });
        drop(Slot::take(&board, &wake, (&slack, MessageId::fixed(1)), NOW));
        assert_eq!(ask(&slack), Allowed { count: 0, then: Some(Duration::from_secs(1)) });
        let faster = Standing { rate_max: Some(10), ..slack };
        assert!(ask(&faster).then.is_none() || ask(&faster).count < 3);
    }

    #[test]
    fn endpoints_that_nothing_is_for_are_looked_at_once_a_second() {
        let mut board = Board::new(&config());
        let at = |millis| NOW.plus(Duration::from_millis(millis));
        let lively = |look: Look| match look {
            Look::All => panic!("it looks at all"),
            Look::Lively { mut endpoints, .. } => {
                endpoints.sort_unstable();
                endpoints
            }
        };
        let one = |number| EndpointId::fixed(number);
        assert_eq!(board.look(at(0)), Look::All);
        board.stir(Lane::Mail);
        board.stir(Lane::Endpoint(one(1)));
        let Look::Lively { endpoints, all_in } = board.look(at(400)) else { panic!() };
        assert_eq!((endpoints, all_in), (vec![one(1)], Duration::from_millis(600)));
        assert_eq!(board.look(at(1_000)), Look::All);
        board.stir(Lane::Endpoint(one(2)));
        assert_eq!(lively(board.look(at(1_100))), [one(1), one(2)], "for two seconds at least");
        assert_eq!(board.look(at(2_000)), Look::All);
        assert_eq!(lively(board.look(at(2_100))), [one(2)]);
        board.look_at_all();
        assert_eq!(board.look(at(2_200)), Look::All);
        assert_eq!(board.look(at(2_100)), Look::All, "the clock was set back");
        (0..300).for_each(|number| board.stir(Lane::Endpoint(one(number))));
        assert_eq!(board.look(at(2_300)), Look::All, "too many to name");
    }

    #[test]
    fn a_lane_is_known_by_its_name() {
        let endpoint = Lane::Endpoint(EndpointId::fixed(7));
        for lane in [Lane::Mail, endpoint] {
            assert_eq!(Lane::named(&lane.name()), Some(lane));
        }
        assert_eq!(Lane::named("nobody"), None);
    }
}

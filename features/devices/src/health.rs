//! Health: how well each device is heard. Pure but for the memory of one organisation; rows and events are in
//! `health/keeper.rs`.
//!
//! A device is judged by three signs: its MQTT connection (last will, keep-alive), when each of its sensors was heard
//! last (by the server's clock, whatever the readings' times), and how long each sensor may be silent.
//!
//! - `disconnected`: its connection was lost and nothing came since, or every sensor with a limit is silent.
//! - `unstable`: some sensors are silent, or all of them on an open connection, or connections are lost often, or its
//!   battery is low: a value `battery` of any of its readings, in percent.
//! - `stable`: connected, or heard in time.
//! - `unknown`: never heard; or heard long ago, with no connection and no limit that would say what to think of it.

pub(crate) mod keeper;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;

use crate::Config;
use crate::registry::{Device, Registry};

/// Lost connections within [`DROPS_WINDOW`] that make a connected device unstable.
const DROPS_MAX: usize = 3;
const DROPS_WINDOW: Duration = Duration::from_mins(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) enum State {
    Stable,
    Unstable,
    Disconnected,
    #[default]
    Unknown,
}

/// Why a device is in its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Reason {
    #[default]
    NeverHeard,
    Connected,
    Heard,
    /// Neither a connection nor a limit says how it is.
    Quiet,
    /// Sensors that have a limit are silent for longer.
    Silent,
    /// Its connection was lost.
    Lost,
    /// Its connection was lost again and again.
    Flapping,
    /// It is well but for its battery.
    BatteryLow,
}

/// The value by which a reading says how full a battery is, in percent.
pub(crate) const BATTERY: &str = "battery";

/// How full a battery was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Battery {
    pub percent: f64,
    /// Of the reading.
    pub time: Timestamp,
}

/// Its connections to the broker, all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Link {
    /// Never had one, or took leave of it.
    #[default]
    None,
    Up,
    /// Had one when the server stopped, and may be on its way back.
    Expected {
        from: Timestamp,
        until: Timestamp,
    },
    Lost {
        at: Timestamp,
    },
}

/// One sensor of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pulse<'a> {
    pub sensor: &'a str,
    pub heard: Option<Timestamp>,
    /// It may be silent for so long.
    pub limit: Option<Duration>,
}

/// What a device is judged by.
#[derive(Debug)]
pub(crate) struct Signs<'a> {
    pub created: Timestamp,
    pub link: Link,
    /// When its connections were lost, the newest last.
    pub drops: &'a [Timestamp],
    pub pulses: &'a [Pulse<'a>],
    /// Without a connection or a limit it counts as heard for so long.
    pub heard_lately: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Judgement {
    pub state: State,
    pub reason: Reason,
    /// The sensors that are silent for too long, when that is the reason.
    pub silent: Vec<String>,
    /// When time alone may change this.
    pub next: Option<Timestamp>,
}

/// How a device is, by its signs alone.
pub(crate) fn judge(signs: &Signs<'_>, now: Timestamp) -> Judgement {
    let newest = signs.pulses.iter().filter_map(|pulse| pulse.heard).max();
    let (is_up, lost) = match signs.link {
        Link::Up => (true, None),
        Link::Expected { until, .. } if now < until => (true, None),
        Link::Expected { from, .. } => (false, Some(from)),
        Link::Lost { at } => (false, Some(at)),
        Link::None => (false, None),
    };
    if let Some(at) = lost
        && newest.is_none_or(|newest| newest <= at)
    {
        return Judgement::of(State::Disconnected, Reason::Lost, None);
    }
    if newest.is_none() && !is_up {
        return Judgement::default();
    }
    let mut next = match signs.link {
        Link::Expected { until, .. } if is_up => Some(until),
        _ => None,
    };
    let mut silent = Vec::new();
    let mut limited = 0;
    for pulse in signs.pulses {
        let Some(limit) = pulse.limit else { continue };
        limited += 1;
        let until = pulse.heard.unwrap_or(signs.created).plus(limit);
        if until <= now {
            silent.push(pulse.sensor.to_owned());
        } else {
            next = Some(earlier(next, until));
        }
    }
    if !silent.is_empty() {
        let is_gone = silent.len() == limited && !is_up;
        let state = if is_gone { State::Disconnected } else { State::Unstable };
        return Judgement { silent, ..Judgement::of(state, Reason::Silent, next) };
    }
    if is_up {
        let recent: Vec<_> =
            signs.drops.iter().filter(|drop| drop.plus(DROPS_WINDOW) > now).collect();
        if recent.len() >= DROPS_MAX {
            // It is stable again when one fewer than too many are recent.
            let until = recent[recent.len() - DROPS_MAX].plus(DROPS_WINDOW);
            return Judgement::of(State::Unstable, Reason::Flapping, Some(earlier(next, until)));
        }
        return Judgement::of(State::Stable, Reason::Connected, next);
    }
    if limited > 0 {
        return Judgement::of(State::Stable, Reason::Heard, next);
    }
    match newest.map(|newest| newest.plus(signs.heard_lately)) {
        Some(until) if until > now => {
            Judgement::of(State::Stable, Reason::Heard, Some(earlier(next, until)))
        }
        _ => Judgement::of(State::Unknown, Reason::Quiet, next),
    }
}

fn earlier(next: Option<Timestamp>, other: Timestamp) -> Timestamp {
    next.map_or(other, |next| next.min(other))
}

impl Judgement {
    fn of(state: State, reason: Reason, next: Option<Timestamp>) -> Self {
        Self { state, reason, silent: Vec::new(), next }
    }
}

impl State {
    pub(crate) const ALL: [Self; 4] =
        [Self::Stable, Self::Unstable, Self::Disconnected, Self::Unknown];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Unstable => "unstable",
            Self::Disconnected => "disconnected",
            Self::Unknown => "unknown",
        }
    }

    pub(crate) fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

impl Reason {
    const ALL: [Self; 8] = [
        Self::NeverHeard,
        Self::Connected,
        Self::Heard,
        Self::Quiet,
        Self::Silent,
        Self::Lost,
        Self::Flapping,
        Self::BatteryLow,
    ];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::NeverHeard => "never-heard",
            Self::Connected => "connected",
            Self::Heard => "heard",
            Self::Quiet => "quiet",
            Self::Silent => "silent",
            Self::Lost => "lost",
            Self::Flapping => "flapping",
            Self::BatteryLow => "battery-low",
        }
    }

    pub(crate) fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.word() == word)
    }
}

/// A state as it is told, kept and shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    pub state: State,
    pub reason: Reason,
    pub silent: Vec<String>,
    pub since: Timestamp,
    /// Which entry of the device's history this is, counted from 1.
    pub changes: u64,
}

/// What is remembered of one device.
#[derive(Debug, Default)]
pub(crate) struct Vital {
    pub link: Link,
    /// Open connections that carry it.
    connections: usize,
    drops: VecDeque<Timestamp>,
    heard: HashMap<String, Timestamp>,
    battery: Option<Battery>,
    due: Option<Timestamp>,
    /// What was told last; nothing before the first time.
    pub told: Option<Health>,
    /// The link as the rows have it.
    pub stored_link: Link,
}

/// One client of the broker.
#[derive(Debug, Default)]
struct Client {
    is_up: bool,
    devices: HashSet<String>,
}

/// The signs of all devices of an organisation.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    devices: HashMap<String, Vital>,
    clients: HashMap<String, Client>,
    /// Those to be judged at the next turn.
    touched: HashSet<String>,
    due: BTreeSet<(Timestamp, String)>,
}

/// What the rows know of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub device: String,
    pub link: Link,
    pub health: Health,
}

/// A device whose state or link is to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub device: String,
    pub link: Link,
    pub health: Health,
    /// The state before; none when only the link moved, which nobody is told.
    pub was: Option<State>,
}

impl Vitals {
    /// Puts back what the rows know. Whoever was connected is expected between two moments.
    pub(crate) fn restore(&mut self, kept: Kept, (from, until): (Timestamp, Timestamp)) {
        let Kept { device, link, health } = kept;
        let vital = self.devices.entry(device.clone()).or_default();
        vital.stored_link = link;
        vital.link = if link == Link::Up { Link::Expected { from, until } } else { link };
        vital.told = Some(health);
        self.touched.insert(device);
    }

    pub(crate) fn told(&self, device: &str) -> Option<&Health> {
        self.devices.get(device)?.told.as_ref()
    }

    /// A reading of the device was received.
    pub(crate) fn heard(&mut self, device: &str, sensor: &str, at: Timestamp) {
        if !self.devices.contains_key(device) {
            self.devices.insert(device.to_owned(), Vital::default());
        }
        let vital = self.devices.get_mut(device).expect("it was put there above");
        match vital.heard.get_mut(sensor) {
            Some(heard) if *heard >= at => return,
            Some(heard) => *heard = at,
            None => drop(vital.heard.insert(sensor.to_owned(), at)),
        }
        // A device that is well and reports again stays well: its next look is due by itself.
        let is_well = vital.told.as_ref().is_some_and(|told| told.state == State::Stable);
        if !is_well {
            self.touched.insert(device.to_owned());
        }
    }

    /// A reading of the device says how full its battery is.
    pub(crate) fn powered(&mut self, device: &str, battery: Battery) {
        let Some(vital) = self.devices.get_mut(device) else { return };
        if vital.battery.is_none_or(|known| known.time < battery.time) {
            let has_moved =
                vital.battery.is_none_or(|it| it.percent.to_bits() != battery.percent.to_bits());
            vital.battery = Some(battery);
            if has_moved {
                self.touched.insert(device.to_owned());
            }
        }
    }

    pub(crate) fn battery(&self, device: &str) -> Option<Battery> {
        self.devices.get(device)?.battery
    }

    /// A client carries a device: what becomes of its connection is a sign of it. One that left carries nothing more,
    /// such as its own will.
    pub(crate) fn bind(&mut self, client: &str, device: &str, clients_max: usize) {
        if !self.clients.contains_key(client) {
            self.arrived(client, clients_max);
        }
        let Some(known) = self.clients.get_mut(client).filter(|known| known.is_up) else { return };
        if !known.devices.contains(device) {
            known.devices.insert(device.to_owned());
            self.devices.entry(device.to_owned()).or_default().connect();
            self.touched.insert(device.to_owned());
        }
    }

    /// A client was let in; with it the devices that it carried before.
    pub(crate) fn arrived(&mut self, client: &str, clients_max: usize) {
        if !self.clients.contains_key(client) && self.clients.len() >= clients_max {
            self.clients.retain(|_, client| client.is_up);
            if self.clients.len() >= clients_max {
                return;
            }
        }
        let known = self.clients.entry(client.to_owned()).or_default();
        if std::mem::replace(&mut known.is_up, true) {
            return;
        }
        for device in &known.devices {
            self.devices.entry(device.clone()).or_default().connect();
            self.touched.insert(device.clone());
        }
    }

    /// A connection of a client is over.
    pub(crate) fn left(&mut self, client: &str, is_lost: bool, now: Timestamp) {
        let Some(known) = self.clients.get_mut(client) else { return };
        if !std::mem::replace(&mut known.is_up, false) {
            return;
        }
        for device in &known.devices {
            self.devices.entry(device.clone()).or_default().disconnect(is_lost, now);
            self.touched.insert(device.clone());
        }
        if known.devices.is_empty() {
            self.clients.remove(client);
        }
    }

    pub(crate) fn touch(&mut self, devices: impl IntoIterator<Item = String>) {
        self.touched.extend(devices);
    }

    pub(crate) fn forget(&mut self, device: &str) {
        if let Some(due) = self.devices.remove(device).and_then(|vital| vital.due) {
            self.due.remove(&(due, device.to_owned()));
        }
        for client in self.clients.values_mut() {
            client.devices.remove(device);
        }
    }

    /// Judges those that were touched and those whose time has come, at most `most`, and gives what changed. They are
    /// not told before [`Vitals::tell`].
    pub(crate) fn turn(
        &mut self,
        registry: &Registry,
        config: &Config,
        now: Timestamp,
        most: usize,
    ) -> Vec<Change> {
        let mut names: HashSet<String> = self.touched.iter().take(most).cloned().collect();
        while names.len() < most
            && let Some((due, name)) = self.due.first().cloned()
            && due <= now
        {
            self.due.pop_first();
            if let Some(vital) = self.devices.get_mut(&name) {
                vital.due = None;
            }
            names.insert(name);
        }
        let mut changes = Vec::new();
        for name in names {
            self.touched.remove(&name);
            let (Some(device), Some(vital)) =
                (registry.devices.get(&name), self.devices.get_mut(&name))
            else {
                continue;
            };
            let judgement = vital.judge(device, registry, config, now);
            if let Some(due) = vital.due.take() {
                self.due.remove(&(due, name.clone()));
            }
            vital.due = judgement.next;
            if let Some(next) = judgement.next {
                self.due.insert((next, name.clone()));
            }
            changes.extend(vital.change(&name, judgement, now));
        }
        changes
    }

    /// These are in the rows.
    pub(crate) fn tell(&mut self, changes: &[Change]) {
        for change in changes {
            if let Some(vital) = self.devices.get_mut(&change.device) {
                vital.told = Some(change.health.clone());
                vital.stored_link = change.link;
                // It may have been heard while this was written down.
                if change.health.state != State::Stable {
                    self.touched.insert(change.device.clone());
                }
            }
        }
    }

    /// These could not be written down, so they are judged again.
    pub(crate) fn again(&mut self, changes: &[Change]) {
        self.touched.extend(changes.iter().map(|change| change.device.clone()));
    }

    pub(crate) fn has_touched(&self) -> bool {
        !self.touched.is_empty()
    }
}

impl Vital {
    fn connect(&mut self) {
        self.connections += 1;
        self.link = Link::Up;
    }

    fn disconnect(&mut self, is_lost: bool, now: Timestamp) {
        self.connections = self.connections.saturating_sub(1);
        if is_lost {
            self.drops.push_back(now);
            while self.drops.len() > DROPS_MAX {
                self.drops.pop_front();
            }
        }
        if self.connections == 0 {
            self.link = if is_lost { Link::Lost { at: now } } else { Link::None };
        }
    }

    fn judge(
        &mut self,
        device: &Arc<Device>,
        registry: &Registry,
        config: &Config,
        now: Timestamp,
    ) -> Judgement {
        if let Link::Expected { from, until } = self.link
            && until <= now
        {
            self.link = Link::Lost { at: from };
        }
        let pulses: Vec<Pulse<'_>> = device
            .sensors
            .iter()
            .map(|sensor| Pulse {
                sensor,
                heard: self.heard.get(sensor).copied(),
                limit: registry.sensors.get(sensor).and_then(|sensor| sensor.silent_after),
            })
            .collect();
        let signs = Signs {
            created: device.created,
            link: self.link,
            drops: self.drops.make_contiguous(),
            pulses: &pulses,
            heard_lately: config.health_heard_lately,
        };
        let judgement = judge(&signs, now);
        let low = f64::from(config.health_battery_low);
        let is_low = self.battery.is_some_and(|battery| battery.percent < low);
        if is_low && judgement.state == State::Stable {
            let (state, reason) = (State::Unstable, Reason::BatteryLow);
            return Judgement { state, reason, ..judgement };
        }
        judgement
    }

    /// What is to be written down, if anything is.
    fn change(&self, name: &str, judgement: Judgement, now: Timestamp) -> Option<Change> {
        let Judgement { state, reason, silent, .. } = judgement;
        // While it is waited for, the rows go on saying that it was connected.
        let link = match self.link {
            Link::Expected { .. } => Link::Up,
            link => link,
        };
        let fresh = Health::unknown(now);
        let before = self.told.as_ref().unwrap_or(&fresh);
        let is_same = (before.state, before.reason, &before.silent) == (state, reason, &silent);
        if is_same && link == self.stored_link {
            return None;
        }
        let since = if state == before.state { before.since } else { now };
        let changes = before.changes + u64::from(!is_same);
        let was = (!is_same).then_some(before.state);
        let health = Health { state, reason, silent, since, changes };
        Some(Change { device: name.to_owned(), link, health, was })
    }
}

impl Health {
    /// Of a device that nothing was heard of since then.
    pub(crate) fn unknown(since: Timestamp) -> Self {
        let (state, reason) = (State::Unknown, Reason::NeverHeard);
        Self { state, reason, silent: Vec::new(), since, changes: 0 }
    }
}

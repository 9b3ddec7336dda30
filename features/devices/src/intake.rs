//! The way in: a reading is checked, its device is known or registered, and it is in the log; or it is a dead
//! letter with the reason. Nothing is answered before one of the two is on disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::Timestamp;
use base::access::{Principal, Resource};
use base64::Engine;
use bytes::Bytes;
use eventlog::Record;
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};

use crate::commands::Answer;
use crate::fleet::Fleet;
use crate::persons::author_of;
use crate::reading::{Reading, Refusal};
use crate::registry::Wanted;
use crate::twin::Report;
use crate::{DEVICES_REGISTER, Devices, Error, Result};

/// What became of a message of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// In the log, on disk.
    Stored,
    /// Among the dead letters, on disk.
    Refused { reason: String },
    /// Only the server may send such a message.
    Denied,
    /// Nowhere; it must not be acknowledged.
    Unavailable,
}

/// The topics that devices publish to begin so.
pub(crate) const TOPIC_PREFIX: &str = "data/";
/// Commands to devices.
pub(crate) const COMMAND_PREFIX: &str = "command/";
/// What devices say of commands.
pub(crate) const ANSWER_PREFIX: &str = "answer/";
/// What devices are to be like.
pub(crate) const DESIRED_PREFIX: &str = "desired/";
/// What devices say that they are like.
pub(crate) const REPORTED_PREFIX: &str = "reported/";
/// The header with the moment at which a reading was received, in microseconds since 1970.
pub(crate) const RECEIVED: &str = "received";
/// Readings that come together are appended in parts of about this size.
const APPEND_BYTES: usize = 1 << 20;
/// How much of a topic a dead letter keeps.
const LETTER_TOPIC_CHARS_MAX: usize = 256;

impl Devices {
    /// The device of a broker's topic, such as `roof-1` of `data/roof-1`; none when the topic is not for devices.
    pub fn device_of(topic: &str) -> Option<&str> {
        topic.strip_prefix(TOPIC_PREFIX)
    }

    /// Takes a message on a topic of devices: gives the device and what became of it; none when the topic is not for
    /// devices. Whoever calls has asked whether the principal may publish.
    pub async fn receive<'t>(
        &self,
        principal: &Principal,
        topic: &'t str,
        payload: &[u8],
    ) -> Option<(&'t str, Outcome)> {
        if let Some(device) = Self::device_of(topic) {
            return Some((device, self.accept(principal, device, payload).await));
        }
        for prefix in [COMMAND_PREFIX, DESIRED_PREFIX] {
            if let Some(device) = topic.strip_prefix(prefix) {
                return Some((device, Outcome::Denied));
            }
        }
        let (device, is_answer) = match topic.strip_prefix(ANSWER_PREFIX) {
            Some(device) => (device, true),
            None => (topic.strip_prefix(REPORTED_PREFIX)?, false),
        };
        let taken = async {
            let fleet = self.fleet(principal.organisation).await?;
            let refusal = fleet.heed(device, payload, is_answer).await?;
            if let Some(refusal) = &refusal {
                let letter = fleet.letter(topic, refusal, payload, &author_of(principal));
                fleet.bury(vec![letter], std::iter::once(refusal)).await?;
            }
            Ok::<_, Error>(refusal)
        };
        let outcome = match taken.await {
            Ok(None) => Outcome::Stored,
            Ok(Some(refusal)) => Outcome::Refused { reason: refusal.reason() },
            Err(error) => {
                tracing::warn!(%error, topic, "a message of a device could not be taken");
                Outcome::Unavailable
            }
        };
        Some((device, outcome))
    }

    /// The same of messages that came together: readings are made durable at once, whatever their devices.
    pub async fn receive_all<'t>(
        &self,
        principal: &Principal,
        messages: &[(&'t str, &[u8])],
    ) -> Vec<Option<(&'t str, Outcome)>> {
        let readings: Vec<(&str, &[u8])> = messages
            .iter()
            .filter_map(|(topic, payload)| Some((Self::device_of(topic)?, *payload)))
            .collect();
        let others = messages.iter().filter(|(topic, _)| Self::device_of(topic).is_none());
        let others = others.map(|(topic, payload)| self.receive(principal, topic, payload));
        let (taken, others) =
            tokio::join!(self.accept_all(principal, &readings), futures::future::join_all(others));
        let (mut taken, mut others) = (taken.into_iter(), others.into_iter());
        let of = |(topic, _): &(&'t str, &[u8])| match Self::device_of(topic) {
            Some(device) => Some((device, taken.next().unwrap_or(Outcome::Unavailable))),
            None => others.next().flatten(),
        };
        messages.iter().map(of).collect()
    }

    async fn accept_all(&self, principal: &Principal, readings: &[(&str, &[u8])]) -> Vec<Outcome> {
        if readings.is_empty() {
            return Vec::new();
        }
        let taken = async {
            let fleet = self.fleet(principal.organisation).await?;
            fleet.take_all(principal, readings).await
        };
        match taken.await {
            Ok(refusals) => {
                let outcome = |refusal: Option<Refusal>| match refusal {
                    None => Outcome::Stored,
                    Some(refusal) => Outcome::Refused { reason: refusal.reason() },
                };
                refusals.into_iter().map(outcome).collect()
            }
            Err(error) => {
                tracing::warn!(%error, count = readings.len(), "readings could not be taken");
                vec![Outcome::Unavailable; readings.len()]
            }
        }
    }

    /// Takes one message of a device. Whoever calls has asked whether the principal may publish.
    pub async fn accept(&self, principal: &Principal, device: &str, payload: &[u8]) -> Outcome {
        self.accept_all(principal, &[(device, payload)]).await.pop().unwrap_or(Outcome::Unavailable)
    }
}

impl Fleet {
    /// Takes an answer or a report, and says why it is none, if so.
    async fn heed(&self, device: &str, payload: &[u8], is_answer: bool) -> Result<Option<Refusal>> {
        if self.device(device).is_err() {
            return Ok(Some(Refusal::UnknownDevice(device.to_owned())));
        }
        let most = self.house.config.payload_bytes_max;
        if payload.len() > most {
            return Ok(Some(Refusal::Large(most)));
        }
        if is_answer {
            let answer: Answer = match serde_json::from_slice(payload) {
                Ok(answer) => answer,
                Err(error) => return Ok(Some(Refusal::Unheeded(error.to_string()))),
            };
            return Ok(self.answered(device, answer).await?.map(Refusal::Unheeded));
        }
        let report: Report = match serde_json::from_slice(payload) {
            Ok(report) => report,
            Err(error) => return Ok(Some(Refusal::Unheeded(error.to_string()))),
        };
        match self.reported(device, report).await {
            Ok(()) => Ok(None),
            Err(Error::Invalid(faults)) => {
                let text = faults.into_iter().map(|fault| fault.text).next().unwrap_or_default();
                Ok(Some(Refusal::Unheeded(text)))
            }
            Err(error) => Err(error),
        }
    }

    /// Takes messages of one device, see [`Fleet::take_all`].
    pub(crate) async fn take(
        self: &Arc<Self>,
        principal: &Principal,
        device: &str,
        payloads: &[&[u8]],
    ) -> Result<Vec<Option<Refusal>>> {
        let readings: Vec<_> = payloads.iter().map(|payload| (device, *payload)).collect();
        self.take_all(principal, &readings).await
    }

    /// Takes messages of devices and gives for each why it was refused, if it was. After an error nothing
    /// is certain and all of them can be sent again.
    pub(crate) async fn take_all(
        self: &Arc<Self>,
        principal: &Principal,
        readings: &[(&str, &[u8])],
    ) -> Result<Vec<Option<Refusal>>> {
        let now = self.house.base.clock.now();
        let mut refusals = Vec::with_capacity(readings.len());
        let (mut records, mut letters) = (Vec::new(), Vec::new());
        for (device, payload) in readings {
            match self.check(principal, device, payload, now).await? {
                Ok(record) => {
                    records.push((self.readings.partition_for(device.as_bytes()), record));
                    refusals.push(None);
                }
                Err(refusal) => {
                    let source = format!("{TOPIC_PREFIX}{device}");
                    letters.push(self.letter(&source, &refusal, payload, &author_of(principal)));
                    refusals.push(Some(refusal));
                }
            }
        }
        self.bury(letters, refusals.iter().flatten()).await?;
        self.append_all(records).await?;
        Ok(refusals)
    }

    /// Puts readings on disk, those of one partition in their order.
    pub(crate) async fn append_all(&self, records: Vec<(u32, Record)>) -> Result<()> {
        let count = records.len() as u64;
        let parts = appends(records).into_iter().map(|(partition, appends)| async move {
            for append in appends {
                self.readings.append(partition, append).await?;
            }
            Ok::<_, Error>(())
        });
        try_join_all(parts).await?;
        self.house.meters.accepted.inc_by(count);
        Ok(())
    }

    /// The record that the log will keep. What is known is checked without waiting, so readings keep the order
    /// in which they came.
    pub(crate) async fn check(
        self: &Arc<Self>,
        principal: &Principal,
        device: &str,
        payload: &[u8],
        now: Timestamp,
    ) -> Result<Result<Record, Refusal>> {
        let reading = match Reading::published(device, payload, &self.house.config, now) {
            Ok(reading) => reading,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Err(unknown) = self.registry(|registry| registry.knows(&reading)) {
            let path = crate::device_path(device);
            let resource = Resource { organisation: self.organisation, path: &path };
            let authority = &self.house.needs.authority;
            if authority.authorize(principal, DEVICES_REGISTER, resource).is_err() {
                return Ok(Err(unknown));
            }
            self.register(Wanted::from(&reading)).await?;
            // What is unknown even now did not fit.
            if let Err(unknown) = self.registry(|registry| registry.knows(&reading)) {
                return Ok(Err(self.full(unknown)));
            }
        }
        Ok(Ok(Record {
            timestamp: now,
            key: Some(Bytes::copy_from_slice(device.as_bytes())),
            value: reading.to_json().into(),
            headers: vec![(RECEIVED.to_owned(), now.micros().to_string().into())],
        }))
    }

    fn full(&self, unknown: Refusal) -> Refusal {
        let config = &self.house.config;
        match unknown {
            Refusal::UnknownDevice(_) => Refusal::Full("device", config.devices_max),
            Refusal::UnknownSensor(_) => Refusal::Full("sensor", config.sensors_max),
            Refusal::UnknownValue(..) => Refusal::Full("value of a sensor", config.value_count_max),
            Refusal::UnfittedSensor(_) => {
                Refusal::Full("sensor of a device", config.device_sensors_max)
            }
            other => other,
        }
    }

    /// What is kept of something that was refused.
    pub(crate) fn letter(
        &self,
        source: &str,
        refusal: &Refusal,
        payload: &[u8],
        from: &str,
    ) -> Record {
        let now = self.house.base.clock.now();
        let kept = &payload[..payload.len().min(self.house.config.dead_letter_payload_bytes_max)];
        let text = match std::str::from_utf8(kept) {
            Ok(text) => Some(text),
            // The cut may have gone through a character.
            Err(error) if error.error_len().is_none() && kept.len() < payload.len() => {
                std::str::from_utf8(&kept[..error.valid_up_to()]).ok()
            }
            Err(_) => None,
        };
        let letter = Letter {
            topic: source.chars().take(LETTER_TOPIC_CHARS_MAX).collect(),
            kind: refusal.kind().to_owned(),
            reason: refusal.reason(),
            payload: text.map_or_else(
                || base64::engine::general_purpose::STANDARD.encode(kept),
                str::to_owned,
            ),
            encoding: if text.is_some() { Encoding::Utf8 } else { Encoding::Base64 },
            is_truncated: kept.len() < payload.len(),
            time: now.to_string(),
            from: from.chars().take(LETTER_TOPIC_CHARS_MAX).collect(),
        };
        let value = serde_json::to_vec(&letter).expect("strings always become JSON");
        Record { timestamp: now, key: None, value: value.into(), headers: Vec::new() }
    }

    /// Writes dead letters, all to one partition so that they have one order.
    pub(crate) async fn bury<'r>(
        &self,
        letters: Vec<Record>,
        refusals: impl Iterator<Item = &'r Refusal>,
    ) -> Result<(), Error> {
        if letters.is_empty() {
            return Ok(());
        }
        let letters = letters.into_iter().map(|letter| (0, letter));
        for append in appends(letters).into_values().flatten() {
            self.dead_letters.append(0, append).await?;
        }
        refusals.for_each(|refusal| self.house.meters.refused(refusal.kind()));
        Ok(())
    }
}

/// By partition and in their order, what one append takes: about as much as [`APPEND_BYTES`], or one record.
fn appends(records: impl IntoIterator<Item = (u32, Record)>) -> BTreeMap<u32, Vec<Vec<Record>>> {
    let mut parts: BTreeMap<u32, (Vec<Vec<Record>>, usize)> = BTreeMap::new();
    for (partition, record) in records {
        let (appends, bytes) = parts.entry(partition).or_default();
        let more = bytes_of(&record);
        match appends.last_mut() {
            Some(last) if *bytes + more <= APPEND_BYTES => last.push(record),
            _ => {
                *bytes = 0;
                appends.push(vec![record]);
            }
        }
        *bytes += more;
    }
    parts.into_iter().map(|(partition, (appends, _))| (partition, appends)).collect()
}

fn bytes_of(record: &Record) -> usize {
    let headers = record.headers.iter().map(|(name, value)| name.len() + value.len());
    record.key.as_ref().map_or(0, Bytes::len) + record.value.len() + headers.sum::<usize>()
}

/// A dead letter as the log keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Letter {
    /// Where it came: the broker's topic, or the log's topic with partition and offset.
    pub topic: String,
    pub kind: String,
    pub reason: String,
    pub payload: String,
    pub encoding: Encoding,
    pub is_truncated: bool,
    pub time: String,
    /// Who sent it, as people know them.
    pub from: String,
}

/// How a payload is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    #[serde(rename = "utf-8")]
    Utf8,
    Base64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_append_is_of_one_partition_and_no_larger_than_it_may_be() {
        let record = |number: u32, size: usize| {
            let headers = vec![("number".to_owned(), number.to_string().into_bytes().into())];
            let (key, value) = (None, vec![0; size].into());
            (number % 2, Record { timestamp: Timestamp::from_micros(0), key, value, headers })
        };
        // Where another partition's bytes would count, or stop counting, an append grew over all bounds.
        let sizes =
            [APPEND_BYTES / 2, 1, APPEND_BYTES / 3, APPEND_BYTES * 2, 1, 0, APPEND_BYTES - 7];
        let records =
            (0..).zip(sizes.into_iter().cycle().take(70)).map(|(n, size)| record(n, size));
        let parts = appends(records.clone());
        let mut came: Vec<(u32, Record)> = Vec::new();
        for (partition, appends) in parts {
            for append in appends {
                let bytes: usize = append.iter().map(bytes_of).sum();
                assert!(bytes <= APPEND_BYTES || append.len() == 1, "{bytes}");
                came.extend(append.into_iter().map(|record| (partition, record)));
            }
        }
        let mut given: Vec<_> = records.collect();
        given.sort_by_key(|(partition, _)| *partition);
        assert_eq!(came, given);
        let small = (0..1_000).map(|number| record(number, 100));
        assert!(appends(small).values().all(|appends| appends.len() == 1));
        assert!(appends([]).is_empty());
    }
}

//! Devices: what they are and where, what their readings say, and which readings raise an alert.
//!
//! A reading comes in by MQTT or HTTP, is checked, and is a record in the event log before it is acknowledged.
//! One pipeline per partition then takes each new reading once: rules, then alerts with their mails and
//! events, the last values and its own position in one commit, then the lake. Whatever is killed in between,
//! each reading is in SQL once and each alert is raised once; `pipeline.rs` says why.
//!
//! It is not the broker (that is `mqtt`), sends no mail and makes no keys: those are needs, in `needs.rs`.
//! Start at [`Devices`]; the rules are in `rule.rs`.
//!
//! What is accepted and what is not:
//! - A reading's identity is (organisation, device, sensor, time). The first one counts; again, even with
//!   other values, it changes nothing. Times are kept to the microsecond. The event stream shows records as
//!   they come, repeated ones too.
//! - Rules look at new readings in the order in which they arrive, late ones too. Cool-downs count in the time
//!   of the readings, see `rule.rs`.
//! - Readings of a sensor with a retention are rolled up by the minute, the hour and the day, and then deleted by the day; what
//!   comes for such a day later is taken by nobody. See `rollup.rs`.
//! - A dead letter is written before its message is acknowledged; a crash can write it twice. Replayed, it is
//!   checked again as if it came now, with the rights of whoever replays it; the reading counts once.

mod backfill;
mod commands;
mod csv;
mod dashboards;
mod errands;
mod evidence;
mod fleet;
mod health;
mod http;
mod intake;
mod letters;
mod metrics;
mod needs;
mod persons;
mod pipeline;
mod reading;
mod registry;
mod rollup;
mod rule;
mod series;
mod store;
mod stream;
#[cfg(test)]
mod tests;
mod trial;
mod twin;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base::access::{Action, Authority};
use base::{Base, ErrorKind, OrganisationId};
use eventlog::EventLog;
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use lake::Lake;
use parking_lot::Mutex;
use relational::{Db, Read};
use results::Results;
use tokio::sync::{OnceCell, watch};

use fleet::Fleet;
use metrics::Meters;

pub use fleet::table as readings_table;
pub use intake::{Encoding, Outcome};
pub use letters::{DeadLetter, LetterFilter};
pub use needs::{
    IssuedKey, KeyIssuer, KeyRequest, Message, Messenger, NeedError, Notice, Notifier, Recipient,
    TxFuture,
};
pub use rollup::{ROLL_UP, ROLL_UP_SCHEDULE};
pub use rule::{RuleId, RuleKind};

/// Seeing devices, sensors, dashboards and the overview.
pub const DEVICES_READ: Action = Action("devices.read");
/// Changing devices, sensors and dashboards.
pub const DEVICES_WRITE: Action = Action("devices.write");
/// Registering what is unknown by a first reading; asked on `device/NAME`.
pub const DEVICES_REGISTER: Action = Action("devices.register");
/// Making a key for one device.
pub const DEVICES_KEYS: Action = Action("devices.keys");
/// Registering one device of a fleet and making it its key, once; on `device/NAME`.
pub const DEVICES_PROVISION: Action = Action("devices.provision");
/// Sending readings by HTTP, on `device/NAME`. By MQTT the broker asks for `mqtt.publish` alone.
pub const READINGS_PUBLISH: Action = Action("readings.publish");
/// Following readings and alerts as they come, and trying rules on past readings.
pub const READINGS_READ: Action = Action("readings.read");
/// Seeing rules.
pub const RULES_READ: Action = Action("rules.read");
/// Changing rules.
pub const RULES_WRITE: Action = Action("rules.write");
/// Seeing alerts.
pub const ALERTS_READ: Action = Action("alerts.read");
/// Acknowledging and clearing alerts.
pub const ALERTS_WRITE: Action = Action("alerts.write");

/// Having devices do something, and saying what they are to be like; on `device/NAME`.
pub const COMMANDS_SEND: Action = Action("commands.send");

/// Every deed of this room that can be granted.
pub const ACTIONS: &[Action] = &[
    DEVICES_READ,
    DEVICES_WRITE,
    DEVICES_REGISTER,
    DEVICES_KEYS,
    DEVICES_PROVISION,
    READINGS_PUBLISH,
    READINGS_READ,
    RULES_READ,
    RULES_WRITE,
    ALERTS_READ,
    ALERTS_WRITE,
    COMMANDS_SEND,
];

/// The topic of readings that were accepted.
pub const READINGS_TOPIC: &str = "readings";
/// The topic of what was refused, with the reason.
pub const DEAD_LETTERS_TOPIC: &str = "dead-letters";
/// The topic of alerts, by way of the outbox.
pub const ALERTS_TOPIC: &str = store::ALERTS;
/// The topic of changed health of devices, by way of the outbox.
pub const HEALTH_TOPIC: &str = health::keeper::HEALTH;

const ROOM: &str = "devices";
/// The broker's action for publishing, which a device's key is granted.
const MQTT_PUBLISH: &str = "mqtt.publish";
/// The broker's action for subscribing, which a device's key is granted.
const MQTT_SUBSCRIBE: &str = "mqtt.subscribe";
/// The broker's action for being a client whose session another key began.
const MQTT_CLIENT: &str = "mqtt.client";

/// The path of a device in grants, as the HTTP door writes it: a percent sign is encoded.
pub(crate) fn device_path(name: &str) -> String {
    format!("device/{}", name.replace('%', "%25"))
}

/// Limits of the devices of each organisation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Organisations whose devices are in memory at once.
    pub organisations_max: usize,
    /// Devices of an organisation.
    pub devices_max: usize,
    /// Sensor types of an organisation.
    pub sensors_max: usize,
    /// Sensor types that one device carries.
    pub device_sensors_max: usize,
    /// Devices that one import changes.
    pub import_devices_max: usize,
    /// Tags of a device.
    pub device_tags_max: usize,
    /// Values of a sensor and of a reading; at most 1024.
    pub value_count_max: usize,
    /// The largest payload of one reading.
    pub payload_bytes_max: usize,
    /// Readings in one request.
    pub request_readings_max: usize,
    /// Lines of one table with readings.
    pub import_readings_max: usize,
    /// How far the time of a reading may be ahead of the server's clock.
    #[serde(with = "duration")]
    pub ahead_max: Duration,
    /// How much of a refused payload a dead letter keeps.
    pub dead_letter_payload_bytes_max: usize,
    /// Dead letters that one page looks through for those that are wanted.
    pub dead_letters_looked_at_max: usize,
    /// First readings of unknown devices that may wait to be registered.
    pub registrations_max: usize,
    /// Rules of an organisation.
    pub rules_max: usize,
    /// Conditions of a rule.
    pub conditions_max: usize,
    /// Ranges of a condition.
    pub ranges_max: usize,
    /// Actions of a rule.
    pub actions_max: usize,
    /// Points of the polygon of a rule.
    pub area_points_max: usize,
    /// The longest time that a rule has to hold, or looks back for change.
    #[serde(with = "duration")]
    pub lasting_max: Duration,
    /// Pairs of rule and device that something is remembered of, in each pipeline; those over it are not remembered.
    pub rule_memory_pairs_max: usize,
    /// Former texts that are kept of each rule.
    pub rule_versions_max: usize,
    /// The longest cool-down of a rule.
    #[serde(with = "duration")]
    pub cooldown_max: Duration,
    /// How long a change of rules waits until every pipeline has taken it over.
    #[serde(with = "duration")]
    pub rules_swap_time_max: Duration,
    /// Alert times that are kept in memory for each rule and device; older ones are asked from the rows.
    pub cooldown_times_max: usize,
    /// Pairs of rule and device whose alert times are kept in memory.
    pub cooldown_pairs_max: usize,
    /// Bytes of records that a pipeline takes from the log at once.
    pub batch_bytes_max: usize,
    /// Readings that a pipeline commits at once.
    pub batch_readings_max: usize,
    /// How often rules look at readings until a pipeline commits: whoever changes a rule waits for that.
    pub batch_evaluations_max: u64,
    /// Days of one sensor that are rolled up with one wait for the pipelines.
    pub roll_up_days_max: usize,
    /// Minutes of all devices and values that a day of a sensor may have in roll-ups.
    pub roll_up_cells_max: usize,
    /// How long a roll-up waits for a pipeline to begin another batch.
    #[serde(with = "duration")]
    pub roll_up_wait_max: Duration,
    /// Points of one answer about a series.
    pub series_points_max: usize,
    /// Dashboards of an organisation.
    pub dashboards_max: usize,
    /// Charts of a dashboard.
    pub dashboard_charts_max: usize,
    /// Lines of a chart.
    pub dashboard_lines_max: usize,
    /// Bytes of a dashboard as JSON.
    pub dashboard_bytes_max: usize,
    /// Alerts that a pipeline commits at once; what follows comes with the next commit.
    pub batch_alerts_max: usize,
    /// Past readings that one trial of a rule looks at.
    pub trial_readings_max: usize,
    /// Rows that a trial asks from the lake at once.
    pub trial_rows_max: usize,
    /// How long one trial of a rule may run.
    #[serde(with = "duration")]
    pub trial_time_max: Duration,
    /// Trials that run at once.
    pub trials_max: usize,
    /// Bytes of records that an event stream takes from the log at once.
    pub stream_bytes_max: usize,
    /// Actuators of an organisation.
    pub actuators_max: usize,
    /// Commands of an actuator.
    pub actuator_commands_max: usize,
    /// Values of a command.
    pub command_values_max: usize,
    /// Commands that are given one after another.
    pub command_steps_max: usize,
    /// The longest pause before a command.
    #[serde(with = "duration")]
    pub command_pause_max: Duration,
    /// The longest that a device may take to answer a command.
    #[serde(with = "duration")]
    pub command_timeout_max: Duration,
    /// How long a command waits for its answer until it goes out again.
    #[serde(with = "duration")]
    pub command_again: Duration,
    /// Commands of an organisation that wait or are on their way.
    pub commands_open_max: usize,
    /// Commands that are kept of each device.
    pub command_entries_max: usize,
    /// Bytes of what a device is to be like, and of what it says it is like.
    pub twin_bytes_max: usize,
    /// The longest time until an alert escalates.
    #[serde(with = "duration")]
    pub escalation_after_max: Duration,
    /// How long a device that was connected when the server stopped may take to come back.
    #[serde(with = "duration")]
    pub health_reconnect_max: Duration,
    /// How long a device without connection and without a limit on silence counts as heard.
    #[serde(with = "duration")]
    pub health_heard_lately: Duration,
    /// A device whose battery is below so many percent is not well; 0: none is.
    pub health_battery_low: u8,
    /// Changes of health that are kept of each device.
    pub health_entries_max: usize,
    /// Clients of the broker that are remembered with the devices that they carry.
    pub health_clients_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            organisations_max: 1_000,
            devices_max: 100_000,
            sensors_max: 1_000,
            device_sensors_max: 64,
            import_devices_max: 2_000,
            device_tags_max: 32,
            value_count_max: 256,
            payload_bytes_max: 64 << 10,
            request_readings_max: 1_000,
            import_readings_max: 20_000,
            ahead_max: Duration::from_hours(24),
            dead_letter_payload_bytes_max: 4 << 10,
            dead_letters_looked_at_max: 10_000,
            registrations_max: 10_000,
            rules_max: 10_000,
            conditions_max: 32,
            ranges_max: 32,
            actions_max: 8,
            area_points_max: 100,
            lasting_max: Duration::from_hours(24 * 31),
            rule_memory_pairs_max: 200_000,
            rule_versions_max: 100,
            cooldown_max: Duration::from_hours(24 * 366),
            rules_swap_time_max: Duration::from_secs(5),
            cooldown_times_max: 64,
            cooldown_pairs_max: 100_000,
            batch_bytes_max: 32 << 20,
            batch_readings_max: 30_000,
            batch_evaluations_max: 5_000_000,
            roll_up_days_max: 32,
            roll_up_cells_max: 4_000_000,
            roll_up_wait_max: Duration::from_secs(30),
            series_points_max: 10_000,
            dashboards_max: 1_000,
            dashboard_charts_max: 48,
            dashboard_lines_max: 12,
            dashboard_bytes_max: 48 << 10,
            batch_alerts_max: 1_000,
            trial_readings_max: 1_000_000,
            trial_rows_max: 50_000,
            trial_time_max: Duration::from_secs(20),
            trials_max: 2,
            stream_bytes_max: 256 << 10,
            actuators_max: 1_000,
            actuator_commands_max: 64,
            command_values_max: 32,
            command_steps_max: 32,
            command_pause_max: Duration::from_hours(24),
            command_timeout_max: Duration::from_hours(24),
            command_again: Duration::from_secs(10),
            commands_open_max: 10_000,
            command_entries_max: 1_000,
            twin_bytes_max: 16 << 10,
            escalation_after_max: Duration::from_hours(24 * 31),
            health_reconnect_max: Duration::from_mins(2),
            health_heard_lately: Duration::from_mins(10),
            health_battery_low: 15,
            health_entries_max: 1_000,
            health_clients_max: 100_000,
        }
    }
}

impl Config {
    fn check(&self) -> Result<()> {
        let positive = [
            ("batch_bytes_max", self.batch_bytes_max),
            ("batch_readings_max", self.batch_readings_max),
            ("batch_alerts_max", self.batch_alerts_max),
            ("roll_up_days_max", self.roll_up_days_max),
            ("series_points_max", self.series_points_max),
            ("batch_evaluations_max", usize::try_from(self.batch_evaluations_max).unwrap_or(1)),
            ("cooldown_times_max", self.cooldown_times_max),
            ("stream_bytes_max", self.stream_bytes_max),
            ("registrations_max", self.registrations_max),
            ("health_entries_max", self.health_entries_max),
            ("dead_letters_looked_at_max", self.dead_letters_looked_at_max),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::Config(format!("devices.{name} must be at least 1")));
        }
        if self.value_count_max > reading::VALUE_COUNT_HARD_MAX {
            let most = reading::VALUE_COUNT_HARD_MAX;
            return Err(Error::Config(format!("devices.value_count_max must be at most {most}")));
        }
        // A page that is smaller than one reading would never get past it.
        if self.trial_rows_max <= reading::VALUE_COUNT_HARD_MAX {
            let least = reading::VALUE_COUNT_HARD_MAX + 1;
            return Err(Error::Config(format!("devices.trial_rows_max must be at least {least}")));
        }
        Ok(())
    }
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something about devices was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("there is no {0} {1:?}")]
    NotFound(&'static str, String),
    #[error("there is already a {0} {1:?}")]
    AlreadyExists(&'static str, String),
    #[error("the request does not fit")]
    Invalid(Vec<Fault>),
    #[error("{0}")]
    Config(String),
    #[error("{0}")]
    InUse(String),
    #[error("the organisation may have {1} {0} at most")]
    Full(&'static str, usize),
    #[error("{0}")]
    TooMany(&'static str),
    #[error("{0}")]
    Unavailable(&'static str),
    #[error("another pipeline moved on in between")]
    Overtaken,
    #[error("it could not be taken again: {0}")]
    Replay(String),
    #[error("{0} is damaged")]
    Damaged(&'static str),
    #[error(transparent)]
    Need(#[from] NeedError),
    #[error(transparent)]
    Rows(#[from] relational::Error),
    #[error(transparent)]
    Answer(#[from] results::Error),
    #[error(transparent)]
    Log(#[from] eventlog::Error),
    #[error(transparent)]
    Lake(#[from] lake::Error),
}

/// One part of a request that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// A JSON pointer into the body, or the name of a parameter.
    pub pointer: String,
    pub text: String,
}

impl Fault {
    pub(crate) fn new(pointer: impl Into<String>, text: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), text: text.into() }
    }
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(..) => ErrorKind::NotFound,
            Self::AlreadyExists(..) => ErrorKind::AlreadyExists,
            Self::Invalid(_) | Self::Config(_) => ErrorKind::Invalid,
            Self::InUse(_) | Self::Overtaken | Self::Replay(_) => ErrorKind::Conflict,
            Self::Full(..) | Self::TooMany(_) => ErrorKind::TooMany,
            Self::Unavailable(_) => ErrorKind::Unavailable,
            Self::Damaged(_) => ErrorKind::Internal,
            Self::Need(error) => error.kind,
            Self::Rows(error) => error.kind(),
            Self::Answer(error) => error.kind(),
            Self::Log(error) => error.kind(),
            Self::Lake(error) => error.kind(),
        }
    }

    pub(crate) fn invalid(pointer: &str, text: impl Into<String>) -> Self {
        Self::Invalid(vec![Fault::new(pointer, text)])
    }

    pub(crate) fn cursor(text: &str) -> Self {
        Self::invalid("after", format!("a page cannot begin after {text:?}"))
    }

    pub(crate) fn damaged(what: &'static str) -> Self {
        Self::Damaged(what)
    }
}

/// What devices stand on.
#[derive(Clone)]
pub struct Needs {
    pub db: Db,
    pub log: EventLog,
    pub lake: Lake,
    pub authority: Arc<dyn Authority>,
    pub results: Results,
    pub notifier: Arc<dyn Notifier>,
    pub keys: Arc<dyn KeyIssuer>,
}

/// The devices of all organisations; cloning it is cheap.
#[derive(Clone)]
pub struct Devices {
    house: Arc<House>,
    fleets: Arc<Mutex<Fleets>>,
}

/// By organisation; a cell is filled by whoever asks first, while others wait.
type Fleets = HashMap<OrganisationId, Arc<OnceCell<Arc<Fleet>>>>;

/// What the fleets of all organisations share.
pub(crate) struct House {
    pub config: Config,
    pub base: Base,
    pub needs: Needs,
    pub meters: Meters,
    pub trials: tokio::sync::Semaphore,
    /// Who sends messages to devices, once there is somebody.
    pub messenger: watch::Sender<Option<Arc<dyn Messenger>>>,
    #[cfg(test)]
    pub hook: tests::Hook,
}

/// Numbers of an organisation for the console's first page.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overview {
    pub devices: usize,
    pub sensors: usize,
    pub rules: usize,
    /// Each counted once, however often it was sent.
    pub readings_total: u64,
    /// Over the last ten seconds.
    pub readings_per_second: f64,
    pub alerts_total: u64,
    /// Since midnight UTC.
    pub alerts_today: u64,
    pub dead_letters: u64,
}

impl Devices {
    /// Makes the tables and starts the pipelines of every organisation that ever had one.
    pub async fn open(config: Config, base: &Base, needs: Needs) -> Result<Self> {
        let house = House {
            meters: Meters::new(&base.metrics),
            trials: tokio::sync::Semaphore::new(config.trials_max),
            messenger: watch::Sender::new(None),
            config,
            base: base.clone(),
            needs,
            #[cfg(test)]
            hook: tests::Hook::default(),
        };
        Self::start(house).await
    }

    async fn start(house: House) -> Result<Self> {
        house.config.check()?;
        house.needs.db.migrate(ROOM, store::MIGRATIONS).await?;
        let devices = Self { house: Arc::new(house), fleets: Arc::default() };
        let list = async |read: &mut Read| store::organisations(read).await;
        for organisation in devices.house.needs.db.read(list).await? {
            devices.fleet(organisation).await?;
        }
        Ok(devices)
    }

    /// Says who sends messages to devices; until then they wait in rows.
    pub fn connect(&self, messenger: Arc<dyn Messenger>) {
        self.house.messenger.send_replace(Some(messenger));
    }

    /// What the console's first page says of devices.
    pub async fn overview(&self, organisation: OrganisationId) -> Result<Overview> {
        self.fleet(organisation).await?.overview().await
    }

    /// The operations under `/v1`.
    pub fn routes(&self) -> edge::Routes<Self> {
        http::routes(self.clone())
    }

    /// The devices of one organisation; opened when first asked for.
    pub(crate) async fn fleet(&self, organisation: OrganisationId) -> Result<Arc<Fleet>> {
        let cell = {
            let mut fleets = self.fleets.lock();
            let most = self.house.config.organisations_max;
            if !fleets.contains_key(&organisation) && fleets.len() >= most {
                return Err(Error::Full("organisations", most));
            }
            fleets.entry(organisation).or_default().clone()
        };
        let fleet = cell.get_or_try_init(|| Fleet::open(self.house.clone(), organisation)).await?;
        Ok(fleet.clone())
    }
}

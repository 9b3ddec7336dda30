//! The devices of one organisation: what is registered, which rules there are, and how both are changed.
//!
//! Rows first, memory after: a change is a task of its own that ends even when its caller went away, changes
//! come one after another, and after an answer that leaves the rows open the memory is read again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{ErrorKind, OrganisationId, Timestamp};
use eventlog::Topic;
use futures::future::BoxFuture;
use lake::{ColumnType, Table, TableSpec};
use parking_lot::{Mutex, RwLock};
use relational::{Read, Tx};
use results::Question;
use tokio::sync::{Semaphore, watch};

use crate::errands::{self, Errands};
use crate::health::{self, Vitals};
use crate::reading::Reading;
use crate::registry::{Actuator, Device, Registry, Sensor, Wanted};
use crate::rollup::RollUps;
use crate::rule::{Deed, Rule, RuleId, RuleSet, RuleText};
use crate::{
    DEAD_LETTERS_TOPIC, Error, Fault, House, Overview, READINGS_TOPIC, Result, commands, pipeline,
    store, twin,
};

/// First readings that are registered in one transaction.
const REGISTRATIONS_AT_ONCE: usize = 1_000;

pub(crate) struct Fleet {
    pub house: Arc<House>,
    pub organisation: OrganisationId,
    pub readings: Topic,
    pub dead_letters: Topic,
    pub alerts: Topic,
    pub table: Table,
    pub rate: Rate,
    pub health: Topic,
    pub roll_ups: RollUps,
    pub errands: Errands,
    /// Locked after the registry, where both are.
    pub vitals: Mutex<Vitals>,
    registry: RwLock<Registry>,
    rules: watch::Sender<Arc<RuleSet>>,
    /// The version of the rules that each pipeline evaluates; [`IDLE`] while it evaluates none.
    adopted: Vec<watch::Sender<u64>>,
    /// One permit: whoever holds it changes rows and memory.
    turn: Semaphore,
    /// The memory may differ from the rows.
    is_stale: AtomicBool,
    wanted: Mutex<Vec<Arc<Wanted>>>,
}

/// A pipeline that is not running evaluates with no rules at all, so nobody waits for it.
pub(crate) const IDLE: u64 = u64::MAX;

impl Fleet {
    pub(crate) fn open(
        house: Arc<House>,
        organisation: OrganisationId,
    ) -> BoxFuture<'static, Result<Arc<Self>>> {
        Box::pin(async move {
            let needs = &house.needs;
            let readings = needs.log.topic(organisation, READINGS_TOPIC).await?;
            let dead_letters = needs.log.topic(organisation, DEAD_LETTERS_TOPIC).await?;
            let alerts = needs.log.topic(organisation, store::ALERTS).await?;
            let health = needs.log.topic(organisation, health::keeper::HEALTH).await?;
            let table = needs.lake.table(organisation, table()).await?;
            let partitions = readings.partitions();
            let roll_ups =
                RollUps::open(&needs.lake, (&needs.db, organisation), partitions).await?;
            let ensure = async move |tx: &mut Tx| {
                store::ensure_pipelines(tx, organisation, partitions).await
            };
            needs.db.write(ensure).await?;
            let load = async move |read: &mut Read| {
                Ok::<_, Error>((
                    store::registry(read, organisation).await?,
                    store::rules(read, organisation).await?,
                ))
            };
            let (registry, rules) = needs.db.read(load).await?;
            let fleet = Arc::new(Self {
                organisation,
                readings,
                dead_letters,
                alerts,
                table,
                rate: Rate::default(),
                health,
                roll_ups,
                errands: Errands::default(),
                vitals: Mutex::default(),
                registry: RwLock::new(registry),
                rules: watch::Sender::new(Arc::new(RuleSet::new(1, rules))),
                adopted: (0..partitions).map(|_| watch::Sender::new(IDLE)).collect(),
                turn: Semaphore::new(1),
                is_stale: AtomicBool::new(false),
                wanted: Mutex::default(),
                house,
            });
            fleet.restore_health().await?;
            // Nothing is awaited from here on, so whoever stops waiting cannot leave half of them running.
            let owner = fleet.clone();
            let watch = move || health::keeper::run(owner.clone());
            fleet.house.base.tasks.supervise("devices-health", watch);
            let owner = fleet.clone();
            let errands = move || errands::run(owner.clone());
            fleet.house.base.tasks.supervise("devices-errands", errands);
            for partition in 0..partitions {
                let owner = fleet.clone();
                let run = move || pipeline::run(owner.clone(), partition);
                fleet.house.base.tasks.supervise("devices-pipeline", run);
            }
            Ok(fleet)
        })
    }

    #[cfg(test)]
    pub(crate) async fn at(&self, step: pipeline::Step) -> Result<()> {
        self.house.hook.at(step).await
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_async, reason = "tests wait here")]
    pub(crate) async fn at(&self, _: pipeline::Step) -> Result<()> {
        Ok(())
    }

    /// Asks the registry; short, since it is locked meanwhile.
    pub(crate) fn registry<T>(&self, ask: impl FnOnce(&Registry) -> T) -> T {
        ask(&self.registry.read())
    }

    pub(crate) fn rules(&self) -> Arc<RuleSet> {
        self.rules.borrow().clone()
    }

    /// Follows the rules as they change.
    pub(crate) fn watch_rules(&self) -> watch::Receiver<Arc<RuleSet>> {
        self.rules.subscribe()
    }

    /// Where a pipeline says which version of the rules it evaluates.
    pub(crate) fn adopted(&self, partition: u32) -> &watch::Sender<u64> {
        &self.adopted[partition as usize]
    }

    pub(crate) fn device(&self, name: &str) -> Result<Arc<Device>> {
        let found = self.registry(|registry| registry.devices.get(name).cloned());
        found.ok_or_else(|| Error::NotFound("device", name.to_owned()))
    }

    pub(crate) fn sensor(&self, name: &str) -> Result<Arc<Sensor>> {
        let found = self.registry(|registry| registry.sensors.get(name).cloned());
        found.ok_or_else(|| Error::NotFound("sensor", name.to_owned()))
    }

    pub(crate) fn rule(&self, id: RuleId) -> Result<Arc<Rule>> {
        let found = self.rules.borrow().rules.get(&id).cloned();
        found.ok_or_else(|| Error::NotFound("rule", id.to_string()))
    }

    /// Registers what a first reading names, as far as the limits allow. Many that come together share one
    /// transaction.
    pub(crate) async fn register(self: &Arc<Self>, wanted: Wanted) -> Result<()> {
        let wanted = Arc::new(wanted);
        {
            let mut waiting = self.wanted.lock();
            if waiting.len() >= self.house.config.registrations_max {
                return Err(Error::TooMany("too many devices wait to be registered"));
            }
            waiting.push(wanted.clone());
        }
        let own = wanted.clone();
        let done =
            self.change(move |fleet| async move { fleet.register_waiting(&own).await }).await;
        self.wanted.lock().retain(|other| !Arc::ptr_eq(other, &wanted));
        done
    }

    async fn register_waiting(&self, own: &Arc<Wanted>) -> Result<()> {
        loop {
            let batch: Vec<Arc<Wanted>> = {
                let waiting = self.wanted.lock();
                if !waiting.iter().any(|other| Arc::ptr_eq(other, own)) {
                    return Ok(());
                }
                waiting.iter().take(REGISTRATIONS_AT_ONCE).cloned().collect()
            };
            let now = self.house.base.clock.now();
            let config = &self.house.config;
            let added = self.registry(|registry| registry.additions(&batch, now, config));
            if !added.is_empty() {
                let (organisation, rows) = (self.organisation, added.clone());
                let put =
                    async move |tx: &mut Tx| store::put_additions(tx, organisation, &rows).await;
                self.house.needs.db.write(put).await?;
                self.registry.write().apply(added);
            }
            self.wanted.lock().retain(|other| !batch.iter().any(|done| Arc::ptr_eq(other, done)));
        }
    }

    pub(crate) async fn create_sensor(self: &Arc<Self>, sensor: Sensor) -> Result<Arc<Sensor>> {
        self.change(move |fleet| async move {
            let config = &fleet.house.config;
            fleet.registry(|registry| {
                if registry.sensors.contains_key(&sensor.name) {
                    return Err(Error::AlreadyExists("sensor", sensor.name.clone()));
                }
                if registry.sensors.len() >= config.sensors_max {
                    return Err(Error::Full("sensors", config.sensors_max));
                }
                Ok(())
            })?;
            fleet.put_sensor(sensor).await
        })
        .await
    }

    /// Changes a sensor; a value that a rule looks at stays.
    pub(crate) async fn update_sensor(
        self: &Arc<Self>,
        name: String,
        update: impl FnOnce(&Sensor) -> Result<Sensor> + Send + 'static,
    ) -> Result<Arc<Sensor>> {
        self.change(move |fleet| async move {
            let sensor = update(&*fleet.sensor(&name)?)?;
            for rule in fleet.rules().rules.values().filter(|rule| rule.text.sensor == name) {
                if let Some(value) = rule.text.values().find(|value| !sensor.has(value)) {
                    return Err(Error::InUse(format!(
                        "the value {value:?} is used by the rule {:?}; change or delete the rule first",
                        rule.text.name
                    )));
                }
            }
            fleet.put_sensor(sensor).await
        })
        .await
    }

    /// Deletes a sensor that no rule uses, also from the devices that carry it. Its readings stay.
    pub(crate) async fn delete_sensor(self: &Arc<Self>, name: String) -> Result<()> {
        self.change(move |fleet| async move {
            fleet.sensor(&name)?;
            if let Some(rule) = fleet.rules().rules.values().find(|r| r.text.sensor == name) {
                return Err(Error::InUse(format!(
                    "the sensor {name:?} is used by the rule {:?}; delete the rule first",
                    rule.text.name
                )));
            }
            let carriers: Vec<Device> = fleet.registry(|registry| {
                let carriers = registry.devices.values().filter(|d| d.sensors.contains(&name));
                carriers.map(|device| Device::clone(device)).collect()
            });
            let without: Vec<Device> = carriers
                .into_iter()
                .map(|mut device| {
                    device.sensors.remove(&name);
                    device
                })
                .collect();
            let rows = (fleet.organisation, name.clone(), without.clone());
            let delete = async move |tx: &mut Tx| {
                let (organisation, name, without) = &rows;
                store::delete_sensor(tx, *organisation, name).await?;
                for device in without {
                    store::put_device(tx, *organisation, device).await?;
                }
                Ok::<_, Error>(())
            };
            fleet.house.needs.db.write(delete).await?;
            let touched: Vec<String> = without.iter().map(|device| device.name.clone()).collect();
            {
                let mut registry = fleet.registry.write();
                registry.sensors.remove(&name);
                for device in without {
                    registry.devices.insert(device.name.clone(), Arc::new(device));
                }
            }
            fleet.vitals.lock().touch(touched);
            Ok(())
        })
        .await
    }

    /// Adds an actuator, or changes the one of this name; a command that a rule gives stays.
    pub(crate) async fn put_actuator(
        self: &Arc<Self>,
        actuator: Actuator,
        is_new: bool,
    ) -> Result<Arc<Actuator>> {
        self.change(move |fleet| async move {
            let most = fleet.house.config.actuators_max;
            let known = fleet.actuator(&actuator.name).ok();
            match known {
                Some(_) if is_new => {
                    return Err(Error::AlreadyExists("actuator", actuator.name));
                }
                None if !is_new => return Err(Error::NotFound("actuator", actuator.name)),
                None if fleet.registry(|registry| registry.actuators.len()) >= most => {
                    return Err(Error::Full("actuators", most));
                }
                _ => {}
            }
            for rule in fleet.rules().rules.values() {
                let steps = rule.text.steps_of(&actuator.name);
                if let Some(steps) =
                    steps.into_iter().find(|it| !actuator.faults_of(it, "", &fleet.house.config).is_empty())
                {
                    return Err(Error::InUse(format!(
                        "the rule {:?} gives {} commands that would not fit; change or delete the rule first",
                        rule.text.name,
                        steps.len()
                    )));
                }
            }
            let actuator = Arc::new(actuator);
            let (organisation, row) = (fleet.organisation, actuator.clone());
            let put = async move |tx: &mut Tx| store::put_actuator(tx, organisation, &row).await;
            fleet.house.needs.db.write(put).await?;
            let mut registry = fleet.registry.write();
            registry.actuators.insert(actuator.name.clone(), actuator.clone());
            Ok(actuator)
        })
        .await
    }

    /// Deletes an actuator that no device carries and no rule uses.
    pub(crate) async fn delete_actuator(self: &Arc<Self>, name: String) -> Result<()> {
        self.change(move |fleet| async move {
            fleet.actuator(&name)?;
            let set = fleet.rules();
            if let Some(rule) = set.rules.values().find(|it| !it.text.steps_of(&name).is_empty()) {
                return Err(Error::InUse(format!(
                    "the actuator {name:?} is used by the rule {:?}; delete the rule first",
                    rule.text.name
                )));
            }
            let carrier = fleet.registry(|registry| {
                let mut devices = registry.devices.values();
                devices.find(|it| it.actuators.contains(&name)).map(|it| it.name.clone())
            });
            if let Some(carrier) = carrier {
                return Err(Error::InUse(format!(
                    "the actuator {name:?} is carried by the device {carrier:?}"
                )));
            }
            let (organisation, row) = (fleet.organisation, name.clone());
            let delete =
                async move |tx: &mut Tx| store::delete_actuator(tx, organisation, &row).await;
            fleet.house.needs.db.write(delete).await?;
            fleet.registry.write().actuators.remove(&name);
            Ok(())
        })
        .await
    }

    pub(crate) async fn create_device(self: &Arc<Self>, device: Device) -> Result<Arc<Device>> {
        self.change(move |fleet| async move {
            let config = &fleet.house.config;
            fleet.registry(|registry| {
                if registry.devices.contains_key(&device.name) {
                    return Err(Error::AlreadyExists("device", device.name.clone()));
                }
                if registry.devices.len() >= config.devices_max {
                    return Err(Error::Full("devices", config.devices_max));
                }
                Ok(())
            })?;
            fleet.put_device(device).await
        })
        .await
    }

    pub(crate) async fn update_device(
        self: &Arc<Self>,
        name: String,
        update: impl FnOnce(&Device) -> Result<Device> + Send + 'static,
    ) -> Result<Arc<Device>> {
        self.change(move |fleet| async move {
            let device = update(&*fleet.device(&name)?)?;
            fleet.put_device(device).await
        })
        .await
    }

    /// Registers a device of a fleet, or takes the one of this name, and notes that it has got its key: it can be done
    /// once.
    pub(crate) async fn provision(self: &Arc<Self>, device: Device) -> Result<Arc<Device>> {
        self.change(move |fleet| async move {
            let known = fleet.registry(|registry| registry.devices.get(&device.name).cloned());
            let device = match known {
                Some(known) if known.provisioned.is_some() => {
                    return Err(Error::AlreadyExists("key of the device", device.name));
                }
                Some(known) => Device { provisioned: device.provisioned, ..(*known).clone() },
                None => {
                    fleet.room_for(1)?;
                    device
                }
            };
            fleet.put_device(device).await
        })
        .await
    }

    /// Whether there may be so many more devices.
    fn room_for(&self, more: usize) -> Result<()> {
        let most = self.house.config.devices_max;
        let count = self.registry(|registry| registry.devices.len());
        if count + more > most { Err(Error::Full("devices", most)) } else { Ok(()) }
    }

    /// Takes devices in, all of them or none: those of a known name are changed, the others are new. Gives how many are new
    /// and how many were changed.
    pub(crate) async fn import_devices(
        self: &Arc<Self>,
        devices: Vec<Device>,
    ) -> Result<(usize, usize)> {
        self.change(move |fleet| async move {
            let (mut changed, mut made, mut faults) = (Vec::new(), 0, Vec::new());
            fleet.registry(|registry| {
                for (index, device) in devices.into_iter().enumerate() {
                    let unknown = device.sensors.iter();
                    for sensor in unknown.filter(|it| !registry.sensors.contains_key(*it)) {
                        let text = format!("there is no sensor {sensor:?}");
                        faults.push(Fault::new(format!("/devices/{index}/sensors"), text));
                    }
                    let unknown = device.actuators.iter();
                    for name in unknown.filter(|it| !registry.actuators.contains_key(*it)) {
                        let text = format!("there is no actuator {name:?}");
                        faults.push(Fault::new(format!("/devices/{index}/actuators"), text));
                    }
                    let known = registry.devices.get(&device.name);
                    made += usize::from(known.is_none());
                    let device = match known {
                        Some(known) => Device {
                            created: known.created,
                            provisioned: known.provisioned,
                            ..device
                        },
                        None => device,
                    };
                    if known.is_none_or(|known| **known != device) {
                        changed.push(Arc::new(device));
                    }
                }
            });
            if !faults.is_empty() {
                return Err(Error::Invalid(faults));
            }
            fleet.room_for(made)?;
            let (organisation, rows) = (fleet.organisation, changed.clone());
            let put = async move |tx: &mut Tx| {
                for device in &rows {
                    store::put_device(tx, organisation, device).await?;
                }
                Ok::<_, Error>(())
            };
            fleet.house.needs.db.write(put).await?;
            let counts = (made, changed.len() - made);
            let touched: Vec<String> = changed.iter().map(|device| device.name.clone()).collect();
            let added = changed.into_iter().map(|device| (device.name.clone(), device));
            fleet.registry.write().devices.extend(added);
            fleet.vitals.lock().touch(touched);
            Ok(counts)
        })
        .await
    }

    /// Deletes a device that no rule names. Its readings and alerts stay.
    pub(crate) async fn delete_device(self: &Arc<Self>, name: String) -> Result<()> {
        self.change(move |fleet| async move {
            fleet.device(&name)?;
            let set = fleet.rules();
            let user = set.rules.values().find(|r| r.text.names_device(&name));
            if let Some(rule) = user {
                return Err(Error::InUse(format!(
                    "the device {name:?} is named by the rule {:?}; delete the rule first",
                    rule.text.name
                )));
            }
            let (organisation, row) = (fleet.organisation, name.clone());
            let delete = async move |tx: &mut Tx| {
                store::delete_device(tx, organisation, &row).await?;
                commands::delete(tx, organisation, &row).await?;
                twin::delete(tx, organisation, &row).await?;
                health::keeper::delete(tx, organisation, &row).await
            };
            fleet.house.needs.db.write(delete).await?;
            fleet.registry.write().devices.remove(&name);
            fleet.vitals.lock().forget(&name);
            Ok(())
        })
        .await
    }

    pub(crate) async fn create_rule(
        self: &Arc<Self>,
        text: RuleText,
        author: String,
    ) -> Result<Arc<Rule>> {
        let made = self.change(move |fleet| async move {
            let config = &fleet.house.config;
            if fleet.rules().rules.len() >= config.rules_max {
                return Err(Error::Full("rules", config.rules_max));
            }
            let rule = fleet.new_rule(text);
            fleet.put_rule(rule, author).await
        });
        let (rule, version) = made.await?;
        self.adoption(version).await?;
        Ok(rule)
    }

    fn new_rule(&self, text: RuleText) -> Rule {
        let now = self.house.base.clock.now();
        let id = RuleId::new(now, &self.house.base.entropy);
        Rule { id, version: 1, text, created: now, updated: now }
    }

    pub(crate) async fn update_rule(
        self: &Arc<Self>,
        id: RuleId,
        author: String,
        update: impl FnOnce(&RuleText) -> Result<RuleText> + Send + 'static,
    ) -> Result<Arc<Rule>> {
        let made = self.change(move |fleet| async move {
            let old = fleet.rule(id)?;
            let text = update(&old.text)?;
            let updated = fleet.house.base.clock.now();
            let (version, created) = (old.version + 1, old.created);
            fleet.put_rule(Rule { id, version, text, created, updated }, author).await
        });
        let (rule, version) = made.await?;
        self.adoption(version).await?;
        Ok(rule)
    }

    /// Makes a former text of a rule its newest one.
    pub(crate) async fn restore_rule(
        self: &Arc<Self>,
        id: RuleId,
        version: u64,
        author: String,
    ) -> Result<Arc<Rule>> {
        self.rule(id)?;
        let organisation = self.organisation;
        let ask =
            async move |read: &mut Read| store::version(read, organisation, (id, version)).await;
        let found = self.house.needs.db.read(ask).await?;
        let found = found.ok_or_else(|| Error::NotFound("version", version.to_string()))?;
        self.update_rule(id, author, move |_| Ok(found.text)).await
    }

    /// Takes rules in, all of them at one moment or none: those of a known name get the text as their newest version, the
    /// others are new. Gives how many are new and how many were changed.
    pub(crate) async fn import_rules(
        self: &Arc<Self>,
        texts: Vec<RuleText>,
        author: String,
    ) -> Result<(usize, usize)> {
        let made = self.change(move |fleet| async move {
            let before = fleet.rules();
            let mut rules = before.rules.clone();
            let (mut changed, mut faults) = (Vec::new(), Vec::new());
            let mut names = BTreeSet::new();
            let now = fleet.house.base.clock.now();
            for (index, text) in texts.into_iter().enumerate() {
                let of_name = before.rules.values().filter(|rule| rule.text.name == text.name);
                let known: Vec<_> = of_name.collect();
                let checked = match known.len() {
                    _ if !names.insert(text.name.clone()) => {
                        Err(Error::invalid("/name", "there are two rules of this name"))
                    }
                    0 | 1 => fleet.check_rule(&text),
                    _ => Err(Error::invalid("/name", "there is more than one rule of this name")),
                };
                let checked = match checked {
                    Ok(()) => fleet.check_endpoints(&text).await,
                    error => error,
                };
                match checked {
                    Ok(()) => {}
                    Err(Error::Invalid(more)) => {
                        faults.extend(more.into_iter().map(|fault| Fault {
                            pointer: format!("/rules/{index}{}", fault.pointer),
                            ..fault
                        }));
                        continue;
                    }
                    Err(error) => return Err(error),
                }
                let rule = match known.first() {
                    Some(old) if old.text == text => continue,
                    Some(old) => {
                        let (id, version, created) = (old.id, old.version + 1, old.created);
                        Rule { id, version, text, created, updated: now }
                    }
                    None => fleet.new_rule(text),
                };
                let rule = Arc::new(rule);
                changed.push(rule.clone());
                rules.insert(rule.id, rule);
            }
            if !faults.is_empty() {
                return Err(Error::Invalid(faults));
            }
            let config = &fleet.house.config;
            if rules.len() > config.rules_max {
                return Err(Error::Full("rules", config.rules_max));
            }
            let made = rules.len() - before.rules.len();
            let counts = (made, changed.len() - made);
            let (organisation, kept) = (fleet.organisation, config.rule_versions_max);
            let put = async move |tx: &mut Tx| {
                for rule in &changed {
                    store::put_rule(tx, organisation, rule, (author.as_str(), kept)).await?;
                }
                Ok::<_, Error>(())
            };
            fleet.house.needs.db.write(put).await?;
            Ok((counts, fleet.swap(rules)))
        });
        let (counts, version) = made.await?;
        self.adoption(version).await?;
        Ok(counts)
    }

    /// Deletes a rule. Its alerts stay.
    pub(crate) async fn delete_rule(self: &Arc<Self>, id: RuleId) -> Result<()> {
        let deleted = self.change(move |fleet| async move {
            fleet.rule(id)?;
            let organisation = fleet.organisation;
            let delete = async move |tx: &mut Tx| store::delete_rule(tx, organisation, id).await;
            fleet.house.needs.db.write(delete).await?;
            let mut rules = fleet.rules().rules.clone();
            rules.remove(&id);
            Ok(fleet.swap(rules))
        });
        self.adoption(deleted.await?).await
    }

    /// What is wrong with a rule as things stand.
    pub(crate) fn check_rule(&self, text: &RuleText) -> Result<()> {
        let notifier = &self.house.needs.notifier;
        let faults = self.registry(|registry| {
            let sensor = registry.sensors.get(&text.sensor).map(|sensor| &**sensor);
            let mut faults =
                text.faults(sensor, |address| notifier.accepts(address), &self.house.config);
            if let Some(device) =
                text.device.as_ref().filter(|d| !registry.devices.contains_key(*d))
            {
                faults.push(Fault::new("/device", format!("there is no device {device:?}")));
            }
            faults
        });
        let mut faults = faults;
        for (index, action) in text.actions.iter().enumerate() {
            let Deed::Actuator { device, actuator, steps, timeout } = action else { continue };
            let known = device.as_ref().map(|device| self.device(device));
            if let Some(Err(_)) = known {
                let text = "there is no such device";
                faults.push(Fault::new(format!("/actions/{index}/device"), text));
            }
            let known = known.and_then(Result::ok);
            let at = format!("/actions/{index}/steps");
            let wanted = (actuator.as_str(), steps.as_slice());
            faults.extend(self.check_wish(known.as_deref(), wanted, (*timeout, &at)));
        }
        if faults.is_empty() { Ok(()) } else { Err(Error::Invalid(faults)) }
    }

    /// Whether every endpoint that a rule names is there.
    async fn check_endpoints(&self, text: &RuleText) -> Result<()> {
        let mut faults = Vec::new();
        let later = text.escalation.as_ref().map_or(&[][..], |escalation| &escalation.actions);
        for (at, actions) in [("/actions", &text.actions[..]), ("/escalation/actions", later)] {
            for (index, action) in actions.iter().enumerate() {
                if let Deed::Endpoint { endpoint } = action
                    && !self.house.needs.notifier.knows(self.organisation, endpoint).await?
                {
                    let pointer = format!("{at}/{index}/endpoint");
                    faults.push(Fault::new(&pointer, format!("there is no endpoint {endpoint:?}")));
                }
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(Error::Invalid(faults)) }
    }

    pub(crate) async fn overview(&self) -> Result<Overview> {
        let (organisation, now) = (self.organisation, self.house.base.clock.now());
        let midnight = Timestamp::from_micros(now.micros() - now.micros().rem_euclid(DAY_MICROS));
        let db = self.house.needs.db.clone();
        let count = async move |read: &mut Read| store::counts(read, organisation).await;
        let counts = db.read(count).await?;
        // Every console asks for it every few seconds, and it moves with alerts only.
        let (day, subjects) = (midnight.micros().to_string(), [crate::pipeline::ALERTS]);
        let today = Question::new("alerts.today", &day, &subjects, Duration::from_hours(24));
        let results = self.house.needs.results.for_organisation(organisation);
        let alerts_today = results.answer_json(today, move || async move {
            db.read(async move |read: &mut Read| {
                store::alerts_since(read, organisation, midnight).await
            })
            .await
        });
        let (devices, sensors) = self.registry(|r| (r.devices.len(), r.sensors.len()));
        Ok(Overview {
            devices,
            sensors,
            rules: self.rules().rules.len(),
            readings_total: counts.readings,
            readings_per_second: self.rate.per_second(now),
            alerts_total: counts.alerts,
            alerts_today: alerts_today.await?,
            dead_letters: self.letters_count().await?,
        })
    }

    async fn put_sensor(&self, sensor: Sensor) -> Result<Arc<Sensor>> {
        let sensor = Arc::new(sensor);
        let (organisation, row) = (self.organisation, sensor.clone());
        let put = async move |tx: &mut Tx| store::put_sensor(tx, organisation, &row).await;
        self.house.needs.db.write(put).await?;
        let carriers: Vec<String> = {
            let mut registry = self.registry.write();
            registry.sensors.insert(sensor.name.clone(), sensor.clone());
            let all = registry.devices.values();
            all.filter(|d| d.sensors.contains(&sensor.name)).map(|d| d.name.clone()).collect()
        };
        // How long it may be silent may have changed.
        self.vitals.lock().touch(carriers);
        Ok(sensor)
    }

    async fn put_device(&self, device: Device) -> Result<Arc<Device>> {
        let unknown = self.registry(|registry| {
            device.sensors.iter().position(|sensor| !registry.sensors.contains_key(sensor))
        });
        if let Some(index) = unknown {
            return Err(Error::invalid(&format!("/sensors/{index}"), "there is no such sensor"));
        }
        let unknown = self.registry(|registry| {
            let mut actuators = device.actuators.iter();
            actuators.position(|actuator| !registry.actuators.contains_key(actuator))
        });
        if let Some(index) = unknown {
            let text = "there is no such actuator";
            return Err(Error::invalid(&format!("/actuators/{index}"), text));
        }
        let device = Arc::new(device);
        let (organisation, row) = (self.organisation, device.clone());
        let put = async move |tx: &mut Tx| store::put_device(tx, organisation, &row).await;
        self.house.needs.db.write(put).await?;
        self.registry.write().devices.insert(device.name.clone(), device.clone());
        self.vitals.lock().touch([device.name.clone()]);
        Ok(device)
    }

    async fn put_rule(&self, rule: Rule, author: String) -> Result<(Arc<Rule>, u64)> {
        self.check_rule(&rule.text)?;
        self.check_endpoints(&rule.text).await?;
        let rule = Arc::new(rule);
        let (organisation, row) = (self.organisation, rule.clone());
        let kept = self.house.config.rule_versions_max;
        let put = async move |tx: &mut Tx| {
            store::put_rule(tx, organisation, &row, (author.as_str(), kept)).await
        };
        self.house.needs.db.write(put).await?;
        let mut rules = self.rules().rules.clone();
        rules.insert(rule.id, rule.clone());
        Ok((rule, self.swap(rules)))
    }

    /// Makes these the rules, and gives their version. Pipelines take them before their next batch.
    fn swap(&self, rules: BTreeMap<RuleId, Arc<Rule>>) -> u64 {
        let version = self.rules.borrow().version + 1;
        self.rules.send_replace(Arc::new(RuleSet::new(version, rules)));
        version
    }

    /// Waits until no pipeline evaluates older rules.
    async fn adoption(&self, version: u64) -> Result<()> {
        let all = async {
            for adopted in &self.adopted {
                let mut adopted = adopted.subscribe();
                let reached = adopted.wait_for(|adopted| *adopted >= version).await;
                reached.expect("the sender lives as long as this fleet");
            }
        };
        let within = self.house.config.rules_swap_time_max;
        tokio::time::timeout(within, all).await.map_err(|_| {
            Error::Unavailable(
                "the rule is stored, but a pipeline still evaluates the former rules",
            )
        })
    }

    /// Runs one change when no other runs. It is a task of its own: once begun it ends, so memory follows
    /// the rows even when the caller went away.
    async fn change<T, F>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>) -> F + Send + 'static,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        let fleet = self.clone();
        let task = self.house.base.tasks.spawn("devices-change", async move {
            let _turn = fleet.turn.acquire().await.expect("the semaphore is never closed");
            if fleet.is_stale.swap(true, Ordering::AcqRel) {
                fleet.reload().await?;
            }
            let done = work(fleet.clone()).await;
            let is_open = done.as_ref().is_err_and(|error| {
                matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Internal)
            });
            fleet.is_stale.store(is_open, Ordering::Release);
            done
        });
        match task.await {
            Ok(Some(done)) => done,
            // The panic was logged where it was caught.
            _ => Err(Error::Unavailable("the change was interrupted")),
        }
    }

    async fn reload(&self) -> Result<()> {
        let organisation = self.organisation;
        let load = async move |read: &mut Read| {
            Ok::<_, Error>((
                store::registry(read, organisation).await?,
                store::rules(read, organisation).await?,
            ))
        };
        let (registry, rules) = self.house.needs.db.read(load).await?;
        *self.registry.write() = registry;
        if self.rules.borrow().rules != rules {
            self.swap(rules);
        }
        Ok(())
    }
}

/// The table that analysts know: one row per value of a reading.
pub fn table() -> TableSpec {
    TableSpec::new(
        "readings",
        &[
            ("device", ColumnType::Text),
            ("sensor", ColumnType::Text),
            ("time", ColumnType::Timestamp),
            ("name", ColumnType::Text),
            ("value", ColumnType::Float),
        ],
        "time",
        &["device", "sensor", "time"],
    )
}

/// What a first reading names.
impl From<&Reading<'_>> for Wanted {
    fn from(reading: &Reading<'_>) -> Self {
        Self {
            device: reading.device.to_string(),
            sensor: reading.sensor.to_string(),
            values: reading.values.iter().map(|(name, _)| name.to_string()).collect(),
        }
    }
}

const DAY_MICROS: i64 = 86_400_000_000;
const SECOND_MICROS: i64 = 1_000_000;

/// Counts what was taken in the last seconds.
#[derive(Default)]
pub(crate) struct Rate(Mutex<VecDeque<(i64, u64)>>);

impl Rate {
    const WINDOW: Duration = Duration::from_secs(10);

    pub(crate) fn note(&self, now: Timestamp, count: u64) {
        let second = now.micros().div_euclid(SECOND_MICROS);
        let mut seconds = self.0.lock();
        match seconds.back_mut() {
            Some((last, so_far)) if *last == second => *so_far += count,
            _ => seconds.push_back((second, count)),
        }
        // One more than the window has seconds, since it begins within one.
        while seconds.len() > 11 {
            seconds.pop_front();
        }
    }

    pub(crate) fn per_second(&self, now: Timestamp) -> f64 {
        let from = now.minus(Self::WINDOW).micros().div_euclid(SECOND_MICROS);
        let seconds = self.0.lock();
        let count: u64 = seconds.iter().filter(|(at, _)| *at > from).map(|(_, count)| count).sum();
        count as f64 / Self::WINDOW.as_secs_f64()
    }
}

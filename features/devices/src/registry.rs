//! What an organisation has: sensor types with named values, and devices with a place. Pure; it answers from
//! memory and is changed after the rows are.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use base::{Page, PageRequest, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reading::{Reading, Refusal, check_name};
use crate::rollup::Retention;
use crate::rule::check_title;
use crate::{Config, Fault};

/// A kind of measurement: an ordered list of named values with units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sensor {
    pub name: String,
    pub values: Vec<SensorValue>,
    /// A device is not well when it says nothing for so long; none when it may be silent.
    pub silent_after: Option<Duration>,
    /// Rules look at no reading that is older than the newest one of its device by more; none when they look at all.
    pub lateness: Option<Duration>,
    /// How long readings and their roll-ups are kept; without it all readings are, and there are no roll-ups.
    pub retention: Option<Retention>,
    pub created: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SensorValue {
    pub name: String,
    /// Empty when nobody said.
    pub unit: String,
    pub label: Option<String>,
}

/// A kind of thing that a device does when it is told to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Actuator {
    pub name: String,
    pub commands: Vec<ActuatorCommand>,
    pub created: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ActuatorCommand {
    pub name: String,
    /// For people, where the name is not for them.
    #[serde(default)]
    pub label: Option<String>,
    /// Numbers that each such command has, all of them.
    #[serde(default)]
    pub values: Vec<CommandValue>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommandValue {
    pub name: String,
    /// Such as `%`; empty when there is none.
    #[serde(default)]
    pub unit: String,
    /// The least that it may be.
    #[serde(default)]
    pub min: Option<f64>,
    /// The most that it may be.
    #[serde(default)]
    pub max: Option<f64>,
}

/// One of the commands that are given to an actuator one after another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    /// The name of a command of the actuator.
    pub command: String,
    /// By name; all that the command has.
    #[serde(default)]
    pub values: BTreeMap<String, f64>,
    /// From the acknowledgement of the step before; of the first from the beginning.
    #[serde(default)]
    pub pause_seconds: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Device {
    pub name: String,
    pub label: Option<String>,
    pub position: Option<Position>,
    pub sensors: BTreeSet<String>,
    pub actuators: BTreeSet<String>,
    pub tags: BTreeSet<String>,
    pub group: Option<String>,
    /// When it got its own key by a provisioning key.
    pub provisioned: Option<Timestamp>,
    pub created: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Position {
    pub latitude: f64,
    pub longitude: f64,
}

/// Which devices; all of them without. Every part must fit.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct DeviceFilter {
    pub rectangle: Option<Rectangle>,
    /// A part of the name, the label, the group or a tag, whatever its case; in lower case.
    pub text: Option<String>,
    pub tag: Option<String>,
    pub group: Option<String>,
}

impl DeviceFilter {
    fn wants(&self, device: &Device) -> bool {
        let is_inside = match (self.rectangle, device.position) {
            (None, _) => true,
            (Some(rectangle), Some(position)) => rectangle.contains(position),
            (Some(_), None) => false,
        };
        let has_text = self.text.as_ref().is_none_or(|part| {
            let texts = [Some(&device.name), device.label.as_ref(), device.group.as_ref()];
            let mut texts = texts.into_iter().flatten().chain(&device.tags);
            texts.any(|text| text.to_lowercase().contains(part))
        });
        is_inside
            && has_text
            && self.tag.as_ref().is_none_or(|tag| device.tags.contains(tag))
            && self.group.as_ref().is_none_or(|group| device.group.as_ref() == Some(group))
    }
}

/// A part of the map. It crosses the antimeridian when `left` is greater than `right`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rectangle {
    pub left: f64,
    pub right: f64,
    pub up: f64,
    pub down: f64,
}

#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub sensors: BTreeMap<String, Arc<Sensor>>,
    pub actuators: BTreeMap<String, Arc<Actuator>>,
    pub devices: BTreeMap<String, Arc<Device>>,
}

/// What a first reading would register, by names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub device: String,
    pub sensor: String,
    pub values: Vec<String>,
}

/// Whole sensors and devices as they are after first readings: new ones and ones that grew.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Additions {
    pub sensors: BTreeMap<String, Arc<Sensor>>,
    pub devices: BTreeMap<String, Arc<Device>>,
}

impl Additions {
    pub(crate) fn is_empty(&self) -> bool {
        self.sensors.is_empty() && self.devices.is_empty()
    }
}

impl Sensor {
    pub(crate) fn new(name: &str, values: &[&str], created: Timestamp) -> Self {
        let values = values.iter().map(|name| SensorValue::named(name)).collect();
        Self {
            name: name.to_owned(),
            values,
            silent_after: None,
            lateness: None,
            retention: None,
            created,
        }
    }

    pub(crate) fn has(&self, value: &str) -> bool {
        self.values.iter().any(|known| known.name == value)
    }
}

impl Device {
    pub(crate) fn new(name: &str, created: Timestamp) -> Self {
        let name = name.to_owned();
        let (sensors, actuators, tags) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let (label, position, group, provisioned) = (None, None, None, None);
        Self { name, label, position, sensors, actuators, tags, group, provisioned, created }
    }
}

impl Actuator {
    /// What is wrong with its commands.
    pub(crate) fn faults(&self, config: &Config) -> Vec<Fault> {
        let mut faults = Vec::new();
        if let Err(why) = check_name(&self.name) {
            faults.push(Fault::new("/name", format!("the name {why}")));
        }
        let most = config.actuator_commands_max;
        if !(1..=most).contains(&self.commands.len()) {
            faults.push(Fault::new("/commands", format!("not from 1 to {most}")));
        }
        let mut names = BTreeSet::new();
        for (index, command) in self.commands.iter().enumerate() {
            let at = |field: &str| format!("/commands/{index}/{field}");
            if let Err(why) = check_name(&command.name) {
                faults.push(Fault::new(at("name"), format!("the name {why}")));
            }
            if !names.insert(&command.name) {
                faults.push(Fault::new(at("name"), "there are two commands of this name"));
            }
            if let Some(Err(why)) = command.label.as_deref().map(check_title) {
                faults.push(Fault::new(at("label"), format!("the label {why}")));
            }
            if command.values.len() > config.command_values_max {
                let text = format!("more than {}", config.command_values_max);
                faults.push(Fault::new(at("values"), text));
            }
            let mut values = BTreeSet::new();
            for (place, value) in command.values.iter().enumerate() {
                let at = |field: &str| at(&format!("values/{place}/{field}"));
                if let Err(why) = check_name(&value.name) {
                    faults.push(Fault::new(at("name"), format!("the name {why}")));
                }
                if !values.insert(&value.name) {
                    faults.push(Fault::new(at("name"), "there are two values of this name"));
                }
                if check_name(&value.unit).is_err() && !value.unit.is_empty() {
                    faults.push(Fault::new(at("unit"), "not a unit"));
                }
                if let (Some(min), Some(max)) = (value.min, value.max)
                    && min > max
                {
                    faults.push(Fault::new(at("min"), "more than the most"));
                }
            }
        }
        faults
    }

    /// What is wrong with commands to it; `at` is where they stand.
    pub(crate) fn faults_of(&self, steps: &[Step], at: &str, config: &Config) -> Vec<Fault> {
        let mut faults = Vec::new();
        let most = config.command_steps_max;
        if !(1..=most).contains(&steps.len()) {
            faults.push(Fault::new(at, format!("not from 1 to {most}")));
        }
        for (index, step) in steps.iter().enumerate() {
            let at = |field: &str| format!("{at}/{index}/{field}");
            let most = config.command_pause_max.as_secs();
            if step.pause_seconds > most {
                faults.push(Fault::new(at("pause_seconds"), format!("more than {most}")));
            }
            let known = self.commands.iter().find(|known| known.name == step.command);
            let Some(known) = known else {
                let text = format!("{:?} has no command {:?}", self.name, step.command);
                faults.push(Fault::new(at("command"), text));
                continue;
            };
            for value in &known.values {
                let at = || at(&format!("values/{}", value.name));
                match step.values.get(&value.name) {
                    None => faults.push(Fault::new(at(), "missing")),
                    Some(given) if value.min.is_some_and(|min| *given < min) => {
                        faults.push(Fault::new(at(), "less than the least"));
                    }
                    Some(given) if value.max.is_some_and(|max| *given > max) => {
                        faults.push(Fault::new(at(), "more than the most"));
                    }
                    Some(_) => {}
                }
            }
            for name in step.values.keys() {
                if !known.values.iter().any(|value| value.name == *name) {
                    faults.push(Fault::new(at(&format!("values/{name}")), "no such value"));
                }
            }
        }
        faults
    }
}

impl SensorValue {
    pub(crate) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), unit: String::new(), label: None }
    }
}

impl Position {
    /// Both numbers or none, each within the globe.
    pub(crate) fn checked(
        latitude: Option<f64>,
        longitude: Option<f64>,
    ) -> Result<Option<Self>, Vec<Fault>> {
        let mut faults = Vec::new();
        if latitude.is_some_and(|value| !(-90.0..=90.0).contains(&value)) {
            faults.push(Fault::new("/latitude", "not between -90 and 90"));
        }
        if longitude.is_some_and(|value| !(-180.0..=180.0).contains(&value)) {
            faults.push(Fault::new("/longitude", "not between -180 and 180"));
        }
        match (latitude, longitude) {
            _ if !faults.is_empty() => Err(faults),
            (Some(latitude), Some(longitude)) => Ok(Some(Self { latitude, longitude })),
            (None, None) => Ok(None),
            (Some(_), None) => Err(vec![Fault::new("/longitude", "missing beside a latitude")]),
            (None, Some(_)) => Err(vec![Fault::new("/latitude", "missing beside a longitude")]),
        }
    }
}

impl Rectangle {
    pub(crate) fn contains(&self, position: Position) -> bool {
        let Position { latitude, longitude } = position;
        let across = if self.left <= self.right {
            (self.left..=self.right).contains(&longitude)
        } else {
            longitude >= self.left || longitude <= self.right
        };
        across && (self.down..=self.up).contains(&latitude)
    }
}

impl Registry {
    /// Whether everything that the reading names is registered; else the first thing that is not.
    pub(crate) fn knows(&self, reading: &Reading<'_>) -> Result<(), Refusal> {
        let Some(device) = self.devices.get(&*reading.device) else {
            return Err(Refusal::UnknownDevice(reading.device.to_string()));
        };
        let Some(sensor) = self.sensors.get(&*reading.sensor) else {
            return Err(Refusal::UnknownSensor(reading.sensor.to_string()));
        };
        for (index, (name, _)) in reading.values.iter().enumerate() {
            // Readings of one make name their values in one order, so this is rarely a search.
            let in_place = sensor.values.get(index).is_some_and(|value| value.name == **name);
            if !in_place && !sensor.has(name) {
                return Err(Refusal::UnknownValue(sensor.name.clone(), name.to_string()));
            }
        }
        if !device.sensors.contains(&*reading.sensor) {
            return Err(Refusal::UnfittedSensor(reading.sensor.to_string()));
        }
        Ok(())
    }

    /// What is to be added so that every wanted reading is known, as far as the limits allow.
    pub(crate) fn additions(
        &self,
        wanted: &[Arc<Wanted>],
        now: Timestamp,
        config: &Config,
    ) -> Additions {
        let mut added = Additions::default();
        let (mut sensor_count, mut device_count) = (self.sensors.len(), self.devices.len());
        for want in wanted {
            let old = added.sensors.get(&want.sensor).or_else(|| self.sensors.get(&want.sensor));
            if old.is_none() && sensor_count >= config.sensors_max {
                continue;
            }
            sensor_count += usize::from(old.is_none());
            let mut sensor =
                old.map_or_else(|| Sensor::new(&want.sensor, &[], now), |old| (**old).clone());
            for name in &want.values {
                if !sensor.has(name) && sensor.values.len() < config.value_count_max {
                    sensor.values.push(SensorValue::named(name));
                }
            }
            if old.is_none_or(|old| **old != sensor) {
                added.sensors.insert(want.sensor.clone(), Arc::new(sensor));
            }

            let old = added.devices.get(&want.device).or_else(|| self.devices.get(&want.device));
            if old.is_none() && device_count >= config.devices_max {
                continue;
            }
            device_count += usize::from(old.is_none());
            let mut device =
                old.map_or_else(|| Device::new(&want.device, now), |old| (**old).clone());
            if device.sensors.len() < config.device_sensors_max {
                device.sensors.insert(want.sensor.clone());
            }
            if old.is_none_or(|old| **old != device) {
                added.devices.insert(want.device.clone(), Arc::new(device));
            }
        }
        added
    }

    pub(crate) fn apply(&mut self, added: Additions) {
        self.sensors.extend(added.sensors);
        self.devices.extend(added.devices);
    }

    /// Devices by name; the cursor is a name, so writes between two pages move nothing.
    pub(crate) fn devices_page(
        &self,
        request: &PageRequest,
        filter: &DeviceFilter,
        is_wanted: impl Fn(&Device) -> bool,
    ) -> Page<Arc<Device>> {
        let found = after(&self.devices, request.after.as_deref());
        let found = found.filter(|device| filter.wants(device) && is_wanted(device));
        let found = found.take(request.limit + 1).cloned().collect();
        Page::of(found, request.limit, |device: &Arc<Device>| device.name.clone())
    }

    pub(crate) fn sensors_page(&self, request: &PageRequest) -> Page<Arc<Sensor>> {
        let found = after(&self.sensors, request.after.as_deref());
        let found = found.take(request.limit + 1).cloned().collect();
        Page::of(found, request.limit, |sensor: &Arc<Sensor>| sensor.name.clone())
    }
}

fn after<'m, T>(map: &'m BTreeMap<String, T>, name: Option<&str>) -> impl Iterator<Item = &'m T> {
    let from = name.map_or(Bound::Unbounded, Bound::Excluded);
    map.range::<str, _>((from, Bound::Unbounded)).map(|(_, item)| item)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn want(device: &str, sensor: &str, values: &[&str]) -> Arc<Wanted> {
        let values = values.iter().map(|name| (*name).to_owned()).collect();
        Arc::new(Wanted { device: device.into(), sensor: sensor.into(), values })
    }

    fn reading(want: &Wanted) -> Reading<'_> {
        Reading {
            device: Cow::Borrowed(&want.device),
            sensor: Cow::Borrowed(&want.sensor),
            time: Timestamp::from_micros(1),
            values: want.values.iter().map(|name| (Cow::Borrowed(&**name), 1.0)).collect(),
        }
    }

    fn device(name: &str, place: Option<(f64, f64)>) -> (String, Arc<Device>) {
        let position = place.map(|(latitude, longitude)| Position { latitude, longitude });
        let device = Device { position, ..Device::new(name, Timestamp::from_micros(0)) };
        (name.into(), Arc::new(device))
    }

    #[test]
    fn what_first_readings_add_makes_them_known_and_adds_nothing_twice() {
        let mut registry = Registry::default();
        let config = Config::default();
        let now = Timestamp::from_micros(7);
        let wanted = [
            want("a", "weather", &["temp"]),
            want("b", "weather", &["humid", "temp"]),
            want("a", "soil", &["wet"]),
        ];
        assert_eq!(registry.knows(&reading(&wanted[0])), Err(Refusal::UnknownDevice("a".into())));
        let added = registry.additions(&wanted, now, &config);
        registry.apply(added);
        for want in &wanted {
            assert_eq!(registry.knows(&reading(want)), Ok(()));
        }
        let names: Vec<_> = registry.sensors["weather"].values.iter().map(|v| &*v.name).collect();
        assert_eq!(names, ["temp", "humid"], "values keep the order in which they came");
        assert_eq!(registry.additions(&wanted, now, &config), Additions::default());
        let unfitted = want("b", "soil", &["wet"]);
        let refusal = Refusal::UnfittedSensor("soil".into());
        assert_eq!(registry.knows(&reading(&unfitted)), Err(refusal));
        let value = want("b", "weather", &["wind"]);
        let refusal = Refusal::UnknownValue("weather".into(), "wind".into());
        assert_eq!(registry.knows(&reading(&value)), Err(refusal));
    }

    #[test]
    fn limits_hold_for_first_readings() {
        let registry = Registry::default();
        let config =
            Config { devices_max: 1, sensors_max: 1, value_count_max: 1, ..Config::default() };
        let wanted = [want("a", "s", &["x", "y"]), want("b", "s", &["x"]), want("a", "t", &["x"])];
        let added = registry.additions(&wanted, Timestamp::from_micros(0), &config);
        assert_eq!(added.devices.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(added.sensors.keys().collect::<Vec<_>>(), ["s"]);
        assert_eq!(added.sensors["s"].values.len(), 1);
    }

    #[test]
    fn a_rectangle_may_cross_the_antimeridian() {
        let fiji = Position { latitude: -18.0, longitude: 178.0 };
        let samoa = Position { latitude: -13.8, longitude: -172.0 };
        let seoul = Position { latitude: 37.5, longitude: 127.0 };
        let pacific = Rectangle { left: 170.0, right: -170.0, up: 0.0, down: -30.0 };
        let asia = Rectangle { left: 100.0, right: 150.0, up: 37.5, down: 10.0 };
        assert!(pacific.contains(fiji) && pacific.contains(samoa) && !pacific.contains(seoul));
        assert!(asia.contains(seoul) && !asia.contains(fiji));
    }

    #[test]
    fn pages_go_on_after_the_name_even_when_it_is_gone() {
        let devices = ["a", "b", "c", "d"].map(|name| device(name, Some((1.0, 1.0))));
        let mut registry = Registry { devices: devices.into(), ..Registry::default() };
        let request = |after: Option<&str>| PageRequest { after: after.map(Into::into), limit: 2 };
        let all = DeviceFilter::default();
        let first = registry.devices_page(&request(None), &all, |_| true);
        assert_eq!(first.next.as_deref(), Some("b"));
        registry.devices.remove("b");
        registry.devices.extend([device("aa", None)]);
        let second = registry.devices_page(&request(first.next.as_deref()), &all, |_| true);
        let names: Vec<_> = second.items.iter().map(|device| &*device.name).collect();
        assert_eq!((names, second.next), (vec!["c", "d"], None));
        let world = Rectangle { left: -180.0, right: 180.0, up: 90.0, down: -90.0 };
        let placed = DeviceFilter { rectangle: Some(world), ..all };
        let placed = registry.devices_page(&PageRequest::default(), &placed, |_| true);
        assert_eq!(placed.items.len(), 3, "a device without a place is in no rectangle");
    }

    #[test]
    fn devices_are_found_by_every_text_that_people_gave_them() {
        let made = |name: &str, label: &str, group: &str, tags: &[&str]| {
            let device = Device {
                label: Some(label.into()),
                group: Some(group.into()),
                tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
                ..Device::new(name, Timestamp::from_micros(0))
            };
            (name.to_owned(), Arc::new(device))
        };
        let devices = [
            made("roof-1", "마당 지붕", "Seoul", &["outdoor"]),
            made("cellar", "Keller", "Berlin", &["indoor", "cold"]),
        ];
        let registry = Registry { devices: devices.into(), ..Registry::default() };
        let found = |text: Option<&str>, tag: Option<&str>, group: Option<&str>| -> Vec<String> {
            let text = text.map(Into::into);
            let (tag, group) = (tag.map(Into::into), group.map(Into::into));
            let filter = DeviceFilter { rectangle: None, text, tag, group };
            let page = registry.devices_page(&PageRequest::default(), &filter, |_| true);
            page.items.iter().map(|device| device.name.clone()).collect()
        };
        for text in ["roof", "지붕", "seoul", "outd"] {
            assert_eq!(found(Some(text), None, None), ["roof-1"], "{text}");
        }
        assert_eq!(found(None, Some("cold"), Some("Berlin")), ["cellar"]);
        assert!(found(None, Some("cold"), Some("Seoul")).is_empty());
        assert_eq!(found(Some("e"), None, None), ["cellar", "roof-1"]);
    }

    #[test]
    fn a_position_is_whole_and_on_the_globe() {
        assert!(Position::checked(Some(90.0), Some(-180.0)).unwrap().is_some());
        assert!(Position::checked(None, None).unwrap().is_none());
        for (latitude, longitude, pointer) in [
            (Some(90.1), Some(0.0), "/latitude"),
            (Some(0.0), Some(180.1), "/longitude"),
            (Some(f64::NAN), Some(0.0), "/latitude"),
            (Some(0.0), None, "/longitude"),
            (None, Some(0.0), "/latitude"),
        ] {
            assert_eq!(Position::checked(latitude, longitude).unwrap_err()[0].pointer, pointer);
        }
    }
}

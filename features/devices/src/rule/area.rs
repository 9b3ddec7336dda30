//! Places on the globe that a rule is about.

use base::Timestamp;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::registry::{Device, Position, Rectangle};
use crate::rule::{Minute, Window};

/// The mean radius of the earth in metres (IUGG).
const EARTH_METRES: f64 = 6_371_008.8;

/// Where a device is to be, or not to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Area {
    /// The rule is about what is outside of it.
    #[serde(default)]
    pub outside: bool,
    pub shape: Shape,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Shape {
    Circle {
        latitude: f64,
        longitude: f64,
        metres: f64,
    },
    /// `left` may be greater than `right`: it then crosses the antimeridian.
    Rectangle {
        left: f64,
        right: f64,
        up: f64,
        down: f64,
    },
    /// Latitude and longitude of each corner, in order; it does not cross the antimeridian.
    Polygon {
        points: Vec<(f64, f64)>,
    },
}

impl Area {
    /// What is wrong with it, if anything is.
    pub(crate) fn fault(&self, points_max: usize) -> Option<String> {
        let is_latitude = |value: f64| (-90.0..=90.0).contains(&value);
        let is_longitude = |value: f64| (-180.0..=180.0).contains(&value);
        let is_there =
            |(latitude, longitude): &(f64, f64)| is_latitude(*latitude) && is_longitude(*longitude);
        let fault = match &self.shape {
            Shape::Circle { latitude, longitude, .. } if !is_there(&(*latitude, *longitude)) => {
                "its centre is not on the globe"
            }
            Shape::Circle { metres, .. } if !(metres.is_finite() && *metres > 0.0) => {
                "its radius is not above 0"
            }
            Shape::Rectangle { left, right, up, down }
                if !(is_there(&(*up, *left)) && is_there(&(*down, *right))) =>
            {
                "its corners are not on the globe"
            }
            Shape::Rectangle { up, down, .. } if down > up => "down is above up",
            Shape::Polygon { points } if points.len() < 3 => "a polygon has at least 3 points",
            Shape::Polygon { points } if points.len() > points_max => {
                return Some(format!("a polygon has at most {points_max} points"));
            }
            Shape::Polygon { points } if !points.iter().all(is_there) => {
                "a point is not on the globe"
            }
            Shape::Polygon { points } if width(points) > 180.0 => {
                "it is wider than half of the globe"
            }
            _ => return None,
        };
        Some(fault.to_owned())
    }

    /// Whether the rule is about a device there.
    pub(crate) fn fits(&self, at: Position) -> bool {
        self.shape.contains(at) != self.outside
    }
}

impl Shape {
    fn contains(&self, at: Position) -> bool {
        match self {
            Self::Circle { latitude, longitude, metres } => {
                let centre = Position { latitude: *latitude, longitude: *longitude };
                distance_metres(centre, at) <= *metres
            }
            &Self::Rectangle { left, right, up, down } => {
                Rectangle { left, right, up, down }.contains(at)
            }
            Self::Polygon { points } => is_in_polygon(points, at),
        }
    }
}

fn width(points: &[(f64, f64)]) -> f64 {
    let longitudes = points.iter().map(|(_, longitude)| *longitude);
    let (low, high) = longitudes
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), it| (low.min(it), high.max(it)));
    high - low
}

/// Along a great circle (haversine).
fn distance_metres(a: Position, b: Position) -> f64 {
    let half = |degrees: f64| (degrees.to_radians() / 2.0).sin().powi(2);
    let across = half(b.longitude - a.longitude);
    let (one, other) = (a.latitude.to_radians().cos(), b.latitude.to_radians().cos());
    let chord = (one * other).mul_add(across, half(b.latitude - a.latitude));
    2.0 * EARTH_METRES * chord.sqrt().min(1.0).asin()
}

/// Even-odd: a line to the east crosses the border an odd number of times.
fn is_in_polygon(points: &[(f64, f64)], at: Position) -> bool {
    let mut is_inside = false;
    let mut from = points[points.len() - 1];
    for &to in points {
        if (to.0 > at.latitude) != (from.0 > at.latitude) {
            let along = (at.latitude - to.0) / (from.0 - to.0);
            if at.longitude < (from.1 - to.1).mul_add(along, to.1) {
                is_inside = !is_inside;
            }
        }
        from = to;
    }
    is_inside
}

/// Where a reading was taken: what it says itself, else where its device stands.
pub(crate) fn position_of(
    value: impl Fn(&str) -> Option<f64>,
    device: Option<&Device>,
) -> Option<Position> {
    let own = Position::checked(value("latitude"), value("longitude")).ok().flatten();
    own.or_else(|| device?.position)
}

/// Days of the week on which a window begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Days(u8);

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Day {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

impl Day {
    pub(crate) const ALL: [Self; 7] = [
        Self::Monday,
        Self::Tuesday,
        Self::Wednesday,
        Self::Thursday,
        Self::Friday,
        Self::Saturday,
        Self::Sunday,
    ];
}

impl Days {
    pub(crate) const ALL: Self = Self(0b111_1111);

    /// None named is all of them.
    pub(crate) fn of(days: &[Day]) -> Self {
        let bits = days.iter().fold(0, |bits, day| bits | 1 << (*day as u8));
        if bits == 0 { Self::ALL } else { Self(bits) }
    }

    /// In order; none when it is all of them.
    pub(crate) fn list(self) -> Vec<Day> {
        if self == Self::ALL {
            return Vec::new();
        }
        Day::ALL.into_iter().filter(|day| self.has(*day as u8)).collect()
    }

    /// `day` counts from Monday, 0.
    fn has(self, day: u8) -> bool {
        self.0 & (1 << day) != 0
    }
}

/// A window with its zone looked up.
#[derive(Debug)]
pub(crate) struct Hours {
    from: i64,
    to: i64,
    days: Days,
    zone: TimeZone,
}

impl Hours {
    pub(crate) fn new(window: &Window) -> Option<Self> {
        let zone = super::zone(&window.zone)?;
        let micros = |minute: Minute| i64::from(minute.0) * 60_000_000;
        Some(Self { from: micros(window.from), to: micros(window.to), days: window.days, zone })
    }

    /// Whether clocks on the wall show a time within it. After midnight it is the window of the day before.
    pub(crate) fn hold(&self, time: Timestamp) -> bool {
        let Ok(moment) = jiff::Timestamp::from_microsecond(time.micros()) else { return false };
        let wall = self.zone.to_datetime(moment);
        let seconds = (i64::from(wall.hour()) * 60 + i64::from(wall.minute())) * 60;
        let now = (seconds + i64::from(wall.second())) * 1_000_000
            + i64::from(wall.subsec_nanosecond() / 1_000);
        let today = wall.weekday().to_monday_zero_offset().unsigned_abs();
        if self.from < self.to {
            return (self.from..self.to).contains(&now) && self.days.has(today);
        }
        if now >= self.from {
            return self.days.has(today);
        }
        now < self.to && self.days.has((today + 6) % 7)
    }
}

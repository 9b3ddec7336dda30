//! Places on Earth as whole numbers of 52 bits whose neighbours are near, distances, and the boxes that a search has to
//! look into.

/// Where the plane of the hash ends.
const LONGITUDE_MAX: f64 = 180.0;
const LATITUDE_MAX: f64 = 85.051_128_78;
const EARTH_RADIUS: f64 = 6_372_797.560_856;
/// Half of the circumference on the plane.
const MERCATOR_MAX: f64 = 20_037_726.37;
/// Bits of each coordinate.
const STEPS_MAX: u32 = 26;
const ODD: u64 = 0xaaaa_aaaa_aaaa_aaaa;
const EVEN: u64 = 0x5555_5555_5555_5555;
const ALPHABET: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    pub(crate) longitude: f64,
    pub(crate) latitude: f64,
}

impl Point {
    pub(crate) fn is_valid(self) -> bool {
        (-LONGITUDE_MAX..=LONGITUDE_MAX).contains(&self.longitude)
            && (-LATITUDE_MAX..=LATITUDE_MAX).contains(&self.latitude)
    }

    /// The score of a sorted set that stands for it.
    pub(crate) fn score(self) -> f64 {
        Cell::of(self, STEPS_MAX, LATITUDE_MAX).bits as f64
    }

    /// The middle of the cell that a score stands for.
    pub(crate) fn of_score(score: f64) -> Self {
        Cell { bits: score as u64, steps: STEPS_MAX }.area().middle()
    }

    /// The text of 11 letters that others know.
    pub(crate) fn text(self) -> Vec<u8> {
        let bits = Cell::of(self, STEPS_MAX, 90.0).bits;
        let letter = |at: u32| match at {
            // There are 52 bits, two of the 55 are missing, and nothing is made up for them.
            10 => 0,
            at => bits >> (52 - (at + 1) * 5) & 0x1f,
        };
        (0..11).map(|at| ALPHABET[letter(at) as usize]).collect()
    }

    /// Metres along the surface.
    pub(crate) fn distance(self, other: Self) -> f64 {
        let (from, to) = (self.latitude.to_radians(), other.latitude.to_radians());
        let v = ((other.longitude.to_radians() - self.longitude.to_radians()) / 2.0).sin();
        if v == 0.0 {
            return meridian(self.latitude, other.latitude);
        }
        let u = ((to - from) / 2.0).sin();
        2.0 * EARTH_RADIUS * (u * u + from.cos() * to.cos() * v * v).sqrt().asin()
    }
}

/// Metres along a meridian.
fn meridian(from: f64, to: f64) -> f64 {
    EARTH_RADIUS * (to.to_radians() - from.to_radians()).abs()
}

/// What is searched, in metres.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    Circle(f64),
    /// Width and height.
    Box(f64, f64),
}

impl Shape {
    /// How far a point is from the middle, if it is within.
    pub(crate) fn holds(self, middle: Point, point: Point) -> Option<f64> {
        match self {
            Self::Circle(radius) => Some(middle.distance(point)).filter(|far| *far <= radius),
            Self::Box(width, height) => {
                if meridian(point.latitude, middle.latitude) > height / 2.0 {
                    return None;
                }
                let beside = Point { longitude: middle.longitude, ..point };
                let is_within = point.distance(beside) <= width / 2.0;
                is_within.then(|| middle.distance(point))
            }
        }
    }

    fn reach(self) -> f64 {
        match self {
            Self::Circle(radius) => radius,
            Self::Box(width, height) => {
                ((width / 2.0) * (width / 2.0) + (height / 2.0) * (height / 2.0)).sqrt()
            }
        }
    }

    fn bounds(self, middle: Point) -> Area {
        let (width, height) = match self {
            Self::Circle(radius) => (radius, radius),
            Self::Box(width, height) => (width / 2.0, height / 2.0),
        };
        let tall = (height / EARTH_RADIUS).to_degrees();
        let wide =
            |latitude: f64| (width / EARTH_RADIUS / latitude.to_radians().cos()).to_degrees();
        let towards_pole =
            if middle.latitude < 0.0 { middle.latitude - tall } else { middle.latitude + tall };
        let wide = wide(towards_pole);
        Area {
            west: middle.longitude - wide,
            east: middle.longitude + wide,
            south: middle.latitude - tall,
            north: middle.latitude + tall,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Area {
    west: f64,
    east: f64,
    south: f64,
    north: f64,
}

impl Area {
    fn middle(self) -> Point {
        Point {
            longitude: f64::midpoint(self.west, self.east).clamp(-LONGITUDE_MAX, LONGITUDE_MAX),
            latitude: f64::midpoint(self.south, self.north).clamp(-LATITUDE_MAX, LATITUDE_MAX),
        }
    }
}

/// A cell of the plane: so many bits of each coordinate, by turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    bits: u64,
    steps: u32,
}

impl Cell {
    fn of(point: Point, steps: u32, latitude_max: f64) -> Self {
        let scale = (1u64 << steps) as f64;
        let vertical = (point.latitude + latitude_max) / (latitude_max * 2.0) * scale;
        let horizontal = (point.longitude + LONGITUDE_MAX) / (LONGITUDE_MAX * 2.0) * scale;
        let bits = spread(vertical as u32) | spread(horizontal as u32) << 1;
        Self { bits, steps }
    }

    fn area(self) -> Area {
        let scale = (1u64 << self.steps) as f64;
        let (vertical, horizontal) = (gather(self.bits), gather(self.bits >> 1));
        let latitude = |at: f64| -LATITUDE_MAX + at / scale * (LATITUDE_MAX * 2.0);
        let longitude = |at: f64| -LONGITUDE_MAX + at / scale * (LONGITUDE_MAX * 2.0);
        Area {
            west: longitude(f64::from(horizontal)),
            east: longitude(f64::from(horizontal) + 1.0),
            south: latitude(f64::from(vertical)),
            north: latitude(f64::from(vertical) + 1.0),
        }
    }

    /// The cell so many to the east and the north, at most one each, around the Earth if need be.
    fn beside(self, east: i32, north: i32) -> Self {
        let unused = 64 - self.steps * 2;
        let step = |bits: u64, others: u64, by: i32| match by {
            0 => bits,
            1 => bits.wrapping_add((others >> unused).wrapping_add(1)),
            _ => (bits | others >> unused).wrapping_sub((others >> unused).wrapping_add(1)),
        };
        let horizontal = step(self.bits & ODD, EVEN, east) & ODD >> unused;
        let vertical = step(self.bits & EVEN, ODD, north) & EVEN >> unused;
        Self { bits: horizontal | vertical, ..self }
    }

    /// Scores of everything in the cell, the end exclusive.
    fn scores(self) -> (f64, f64) {
        let shift = 52 - self.steps * 2;
        ((self.bits << shift) as f64, ((self.bits + 1) << shift) as f64)
    }
}

/// Puts a zero before each bit.
fn spread(value: u32) -> u64 {
    [(16, 0x0000_ffff_0000_ffff), (8, 0x00ff_00ff_00ff_00ff), (4, 0x0f0f_0f0f_0f0f_0f0f)]
        .into_iter()
        .chain([(2, 0x3333_3333_3333_3333), (1, EVEN)])
        .fold(u64::from(value), |bits, (shift, mask)| (bits | bits << shift) & mask)
}

fn gather(bits: u64) -> u32 {
    let masks = [(1, 0x3333_3333_3333_3333), (2, 0x0f0f_0f0f_0f0f_0f0f)];
    let more = [(4, 0x00ff_00ff_00ff_00ff), (8, 0x0000_ffff_0000_ffff), (16, 0xffff_ffff)];
    masks
        .into_iter()
        .chain(more)
        .fold(bits & EVEN, |bits, (shift, mask): (u32, u64)| (bits | bits >> shift) & mask)
        as u32
}

/// How coarse cells are of which three by three hold everything so near.
fn steps(reach: f64, latitude: f64) -> u32 {
    if reach == 0.0 {
        return STEPS_MAX;
    }
    let (mut steps, mut reach) = (1i32, reach);
    while reach < MERCATOR_MAX {
        reach *= 2.0;
        steps += 1;
    }
    steps -= 2;
    // Cells are narrower towards the poles.
    if latitude.abs() > 66.0 {
        steps -= 1;
        if latitude.abs() > 80.0 {
            steps -= 1;
        }
    }
    steps.clamp(1, STEPS_MAX as i32) as u32
}

/// Ranges of scores that hold whatever the shape holds, in the order in which Redis looks.
pub(crate) fn ranges(middle: Point, shape: Shape) -> Vec<(f64, f64)> {
    let bounds = shape.bounds(middle);
    let mut cell = Cell::of(middle, steps(shape.reach(), middle.latitude), LATITUDE_MAX);
    let is_short = cell.beside(0, 1).area().north < bounds.north
        || cell.beside(0, -1).area().south > bounds.south
        || cell.beside(1, 0).area().east < bounds.east
        || cell.beside(-1, 0).area().west > bounds.west;
    if cell.steps > 1 && is_short {
        cell = Cell::of(middle, cell.steps - 1, LATITUDE_MAX);
    }
    let area = cell.area();
    let is_useless = |east: i32, north: i32| {
        cell.steps >= 2
            && ((north < 0 && area.south < bounds.south)
                || (north > 0 && area.north > bounds.north)
                || (east < 0 && area.west < bounds.west)
                || (east > 0 && area.east > bounds.east))
    };
    let around = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)];
    let mut last = None;
    let mut ranges = Vec::with_capacity(around.len());
    for (east, north) in around {
        let beside = cell.beside(east, north);
        // Coarse cells are their own neighbours.
        if is_useless(east, north) || last == Some(beside) {
            continue;
        }
        last = Some(beside);
        ranges.push(beside.scores());
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    const PALERMO: Point = Point { longitude: 13.361_389, latitude: 38.115_556 };
    const CATANIA: Point = Point { longitude: 15.087_269, latitude: 37.502_669 };

    #[test]
    fn known_places_have_their_known_hashes_and_distance() {
        assert_eq!(PALERMO.score() as u64, 3_479_099_956_230_698);
        assert_eq!(CATANIA.score() as u64, 3_479_447_370_796_909);
        let decoded = Point::of_score(PALERMO.score());
        assert_eq!(decoded.text(), b"sqc8b49rny0");
        let far = decoded.distance(Point::of_score(CATANIA.score()));
        assert_eq!(format!("{far:.4}"), "166274.1516");
    }

    #[test]
    fn whatever_is_within_is_in_a_range() {
        let mut random = 9u64;
        let mut next = |span: f64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((random >> 11) as f64 / (1u64 << 53) as f64 - 0.5) * span
        };
        for _ in 0..2_000 {
            let middle = Point { longitude: next(300.0), latitude: next(120.0) };
            let shape = Shape::Circle(next(2.0).abs() * 200_000.0);
            let ranges = ranges(middle, shape);
            for _ in 0..20 {
                let point = Point {
                    longitude: middle.longitude + next(4.0),
                    latitude: middle.latitude + next(4.0),
                };
                let score = point.score();
                let is_found = ranges.iter().any(|(from, to)| (*from..*to).contains(&score));
                let stored = Point::of_score(score);
                assert!(is_found || shape.holds(middle, stored).is_none(), "{middle:?} {point:?}");
            }
        }
    }
}

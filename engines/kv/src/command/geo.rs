//! Commands on places, which are members of sorted sets.

use super::options::integer;
use super::sorted::{AddOptions, add, store};
use crate::context::{Ctx, Outcome};
use crate::store::geohash::{Point, Shape, ranges};
use crate::store::number::parse_f64;
use crate::store::sorted::Sorted;
use crate::wire::reply::{Fault, NOT_FLOAT, Reply, SYNTAX};
use crate::wire::request::Args;

const NO_MEMBER: &str = "ERR could not decode requested zset member";

impl Reply {
    /// A coordinate, with 17 places at most.
    fn coordinate(&mut self, value: f64) {
        let text = format!("{value:.17}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        self.decimal(if text == "-0" { "0" } else { text });
    }

    fn point(&mut self, point: Point) {
        self.array(2);
        self.coordinate(point.longitude);
        self.coordinate(point.latitude);
    }

    /// A distance in the unit that was asked for.
    fn distance(&mut self, far: f64) {
        self.text(&format!("{far:.4}"));
    }
}

fn point(args: Args<'_>, at: usize) -> Result<Point, Fault> {
    let coordinate = |at| args.get(at).and_then(parse_f64).ok_or(NOT_FLOAT);
    let point = Point { longitude: coordinate(at)?, latitude: coordinate(at + 1)? };
    if point.is_valid() {
        return Ok(point);
    }
    let (longitude, latitude) = (point.longitude, point.latitude);
    Err(format!("ERR invalid longitude,latitude pair {longitude:.6},{latitude:.6}").into())
}

/// Metres of a unit.
fn unit(text: &[u8]) -> Result<f64, Fault> {
    [("m", 1.0), ("km", 1_000.0), ("ft", 0.304_8), ("mi", 1_609.34)]
        .into_iter()
        .find(|(name, _)| text.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, metres)| metres)
        .ok_or_else(|| "ERR unsupported unit provided. please use M, KM, FT, MI".into())
}

pub(crate) fn geoadd(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let mut options = AddOptions::default();
    let mut at = 2;
    while at < args.len() {
        match () {
            () if args.is(at, "NX") => options.missing = true,
            () if args.is(at, "XX") => options.exists = true,
            () if args.is(at, "CH") => options.counts_changes = true,
            () => break,
        }
        at += 1;
    }
    let rest = args.len() - at;
    if rest == 0 || !rest.is_multiple_of(3) || (options.missing && options.exists) {
        return Err(SYNTAX);
    }
    let pairs: Result<Vec<(f64, &[u8])>, Fault> = (at..args.len())
        .step_by(3)
        .map(|at| Ok((point(args, at)?.score(), args.at(at + 2))))
        .collect();
    add(ctx, args.at(1), &pairs?, &options)
}

fn place(sorted: Option<&Sorted>, member: &[u8]) -> Option<Point> {
    sorted.and_then(|sorted| sorted.score(member)).map(Point::of_score)
}

pub(crate) fn geopos(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (sorted, out) = ctx.collection_and_out::<Sorted>(args.at(1))?;
    out.array(args.len() - 2);
    for member in args.from(2).iter() {
        match place(sorted, member) {
            Some(point) => out.point(point),
            None => out.null_array(),
        }
    }
    Ok(())
}

pub(crate) fn geohash(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let (sorted, out) = ctx.collection_and_out::<Sorted>(args.at(1))?;
    out.array(args.len() - 2);
    for member in args.from(2).iter() {
        out.maybe(place(sorted, member).map(Point::text).as_deref());
    }
    Ok(())
}

pub(crate) fn geodist(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    let metres = match args.len() {
        4 => 1.0,
        5 => unit(args.at(4))?,
        _ => return Err(SYNTAX),
    };
    let (sorted, out) = ctx.collection_and_out::<Sorted>(args.at(1))?;
    match (place(sorted, args.at(2)), place(sorted, args.at(3))) {
        (Some(from), Some(to)) => out.distance(from.distance(to) / metres),
        _ => out.null(),
    }
    Ok(())
}

/// The commands that search, which share their options.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Search {
    Around { stores: bool },
    AroundMember { stores: bool },
    Free,
    Store,
}

pub(crate) fn georadius(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    search(ctx, args, Search::Around { stores: true })
}

pub(crate) fn georadius_ro(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    search(ctx, args, Search::Around { stores: false })
}

pub(crate) fn georadiusbymember(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    search(ctx, args, Search::AroundMember { stores: true })
}

pub(crate) fn georadiusbymember_ro(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    search(ctx, args, Search::AroundMember { stores: false })
}

pub(crate) fn geosearch(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    search(ctx, args, Search::Free)
}

pub(crate) fn geosearchstore(ctx: &mut Ctx<'_>, args: Args<'_>) -> Outcome {
    search(ctx, args, Search::Store)
}

#[allow(clippy::struct_excessive_bools, reason = "each is an option of its own")]
struct Question<'a> {
    middle: Option<Point>,
    has_member: bool,
    has_place: bool,
    shape: Option<Shape>,
    metres: f64,
    with_distance: bool,
    with_hash: bool,
    with_point: bool,
    /// The nearest first, the farthest first, or as they come.
    falls: Option<bool>,
    count: usize,
    takes_any: bool,
    target: Option<&'a [u8]>,
    stores_distance: bool,
}

fn length(text: &[u8], what: &str) -> Result<f64, Fault> {
    parse_f64(text).ok_or_else(|| format!("ERR need numeric {what}").into())
}

/// Radius and unit.
fn circle(args: Args<'_>, at: usize) -> Result<(Shape, f64), Fault> {
    let radius = length(args.at(at), "radius")?;
    if radius < 0.0 {
        return Err("ERR radius cannot be negative".into());
    }
    let metres = unit(args.at(at + 1))?;
    Ok((Shape::Circle(radius * metres), metres))
}

/// Width, height and unit.
fn rectangle(args: Args<'_>, at: usize) -> Result<(Shape, f64), Fault> {
    let (width, height) = (length(args.at(at), "width")?, length(args.at(at + 1), "height")?);
    if width < 0.0 || height < 0.0 {
        return Err("ERR height or width cannot be negative".into());
    }
    let metres = unit(args.at(at + 2))?;
    Ok((Shape::Box(width * metres, height * metres), metres))
}

impl<'a> Question<'a> {
    fn of(args: Args<'a>, kind: Search, sorted: Option<&Sorted>) -> Result<Self, Fault> {
        let mut question = Self {
            middle: None,
            has_member: false,
            has_place: false,
            shape: None,
            metres: 1.0,
            with_distance: false,
            with_hash: false,
            with_point: false,
            falls: None,
            count: 0,
            takes_any: false,
            target: None,
            stores_distance: false,
        };
        let mut at = match kind {
            Search::Around { .. } => {
                question.middle = Some(point(args, 2)?);
                question.set_shape(circle(args, 4)?);
                6
            }
            Search::AroundMember { .. } => {
                if sorted.is_some() {
                    question.middle = Some(place(sorted, args.at(2)).ok_or(NO_MEMBER)?);
                    question.set_shape(circle(args, 3)?);
                }
                5
            }
            Search::Free => 2,
            Search::Store => {
                question.target = Some(args.at(1));
                3
            }
        };
        while at < args.len() {
            at = match question.take_common(args, at)? {
                Some(next) => next,
                None => question.take_other(args, at, (kind, sorted))?,
            };
        }
        question.check(args, kind)?;
        Ok(question)
    }

    fn set_shape(&mut self, (shape, metres): (Shape, f64)) {
        self.shape = Some(shape);
        self.metres = metres;
    }

    /// Takes an option that all searches have; gives where the next one is.
    fn take_common(&mut self, args: Args<'_>, at: usize) -> Result<Option<usize>, Fault> {
        match () {
            () if args.is(at, "WITHDIST") => self.with_distance = true,
            () if args.is(at, "WITHHASH") => self.with_hash = true,
            () if args.is(at, "WITHCOORD") => self.with_point = true,
            () if args.is(at, "ANY") => self.takes_any = true,
            () if args.is(at, "ASC") => self.falls = Some(false),
            () if args.is(at, "DESC") => self.falls = Some(true),
            () if args.is(at, "COUNT") && at + 1 < args.len() => {
                let count = usize::try_from(integer(args.at(at + 1))?).unwrap_or(0);
                if count == 0 {
                    return Err("ERR COUNT must be > 0".into());
                }
                self.count = count;
                return Ok(Some(at + 2));
            }
            () => return Ok(None),
        }
        Ok(Some(at + 1))
    }

    fn take_other(
        &mut self,
        args: Args<'a>,
        at: usize,
        (kind, sorted): (Search, Option<&Sorted>),
    ) -> Result<usize, Fault> {
        let more = args.len() - at - 1;
        if let Search::Around { stores } | Search::AroundMember { stores } = kind {
            let is_distance = args.is(at, "STOREDIST");
            if !stores || more == 0 || !(is_distance || args.is(at, "STORE")) {
                return Err(SYNTAX);
            }
            self.target = Some(args.at(at + 1));
            self.stores_distance = is_distance;
            return Ok(at + 2);
        }
        let is_box = matches!(self.shape, Some(Shape::Box(..)));
        let is_circle = matches!(self.shape, Some(Shape::Circle(_)));
        match () {
            () if more >= 1 && args.is(at, "FROMMEMBER") && !self.has_place => {
                if sorted.is_some() {
                    self.middle = Some(place(sorted, args.at(at + 1)).ok_or(NO_MEMBER)?);
                }
                self.has_member = true;
                Ok(at + 2)
            }
            () if more >= 2 && args.is(at, "FROMLONLAT") && !self.has_member => {
                self.middle = Some(point(args, at + 1)?);
                self.has_place = true;
                Ok(at + 3)
            }
            () if more >= 2 && args.is(at, "BYRADIUS") && !is_box => {
                self.set_shape(circle(args, at + 1)?);
                Ok(at + 3)
            }
            () if more >= 3 && args.is(at, "BYBOX") && !is_circle => {
                self.set_shape(rectangle(args, at + 1)?);
                Ok(at + 4)
            }
            () if kind == Search::Store && args.is(at, "STOREDIST") => {
                self.stores_distance = true;
                Ok(at + 1)
            }
            () => Err(SYNTAX),
        }
    }

    fn check(&self, args: Args<'_>, kind: Search) -> Outcome {
        let is_free = matches!(kind, Search::Free | Search::Store);
        let name = String::from_utf8_lossy(args.at(0));
        if self.target.is_some() && (self.with_distance || self.with_hash || self.with_point) {
            let what = if is_free { "GEOSEARCHSTORE" } else { "STORE option in GEORADIUS" };
            return Err(format!(
                "ERR {what} is not compatible with WITHDIST, WITHHASH and WITHCOORD options"
            )
            .into());
        }
        if is_free && !self.has_member && !self.has_place {
            return Err(format!(
                "ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for {name}"
            )
            .into());
        }
        if is_free && self.shape.is_none() {
            return Err(format!(
                "ERR exactly one of BYRADIUS and BYBOX can be specified for {name}"
            )
            .into());
        }
        if self.takes_any && self.count == 0 {
            return Err("ERR the ANY argument requires COUNT argument".into());
        }
        Ok(())
    }

    /// Members that were asked for, with scores, places and metres.
    fn found(&self, sorted: &Sorted) -> Vec<Hit> {
        let (Some(middle), Some(shape)) = (self.middle, self.shape) else { return Vec::new() };
        let most = if self.takes_any { self.count } else { usize::MAX };
        let mut hits = Vec::new();
        'ranges: for (least, end) in ranges(middle, shape) {
            let from = sorted.count_while(|score, _| score < least);
            for (member, score) in sorted.range(from, sorted.len()) {
                if score >= end {
                    break;
                }
                let point = Point::of_score(score);
                if let Some(far) = shape.holds(middle, point) {
                    hits.push(Hit { member: member.to_vec(), score, point, far });
                    if hits.len() >= most {
                        break 'ranges;
                    }
                }
            }
        }
        // Some of all make sense only as the nearest.
        let falls =
            if self.count > 0 && !self.takes_any { self.falls.or(Some(false)) } else { self.falls };
        if let Some(falls) = falls {
            hits.sort_by(|a, b| {
                let order = a.far.total_cmp(&b.far);
                if falls { order.reverse() } else { order }
            });
        }
        if self.count > 0 {
            hits.truncate(self.count);
        }
        hits
    }
}

struct Hit {
    member: Vec<u8>,
    score: f64,
    point: Point,
    far: f64,
}

fn search(ctx: &mut Ctx<'_>, args: Args<'_>, kind: Search) -> Outcome {
    let source = args.at(if kind == Search::Store { 2 } else { 1 });
    let sorted = ctx.collection::<Sorted>(source)?;
    let question = Question::of(args, kind, sorted)?;
    let hits = sorted.map(|sorted| question.found(sorted)).unwrap_or_default();
    if let Some(target) = question.target {
        let mut result = Sorted::default();
        for hit in &hits {
            let far = hit.far / question.metres;
            result.set(&hit.member, if question.stores_distance { far } else { hit.score });
        }
        let is_free = kind == Search::Store;
        return store(
            ctx,
            target,
            result,
            if is_free { "geosearchstore" } else { "georadiusstore" },
        );
    }
    let out = ctx.out();
    out.array(hits.len());
    let options = [question.with_distance, question.with_hash, question.with_point];
    let extra = options.iter().filter(|is_wanted| **is_wanted).count();
    for hit in hits {
        if extra > 0 {
            out.array(extra + 1);
        }
        out.bulk(&hit.member);
        if question.with_distance {
            out.distance(hit.far / question.metres);
        }
        if question.with_hash {
            out.int(hit.score as i64);
        }
        if question.with_point {
            out.point(hit.point);
        }
    }
    Ok(())
}

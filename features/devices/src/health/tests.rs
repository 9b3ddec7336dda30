//! What signs say, and what becomes of them.

use super::*;
use crate::registry::Sensor;

fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

const MINUTE: Duration = Duration::from_mins(1);

fn pulse(sensor: &'static str, heard: Option<i64>, limit: Option<u64>) -> Pulse<'static> {
    Pulse { sensor, heard: heard.map(at), limit: limit.map(Duration::from_secs) }
}

/// Judges at second 1,000 and gives the state, the reason and when to look again.
fn judged(link: Link, drops: &[i64], pulses: &[Pulse<'_>]) -> (State, Reason, Option<i64>) {
    let drops: Vec<Timestamp> = drops.iter().copied().map(at).collect();
    let heard_lately = Duration::from_mins(10);
    let signs = Signs { created: at(0), link, drops: &drops, pulses, heard_lately };
    let Judgement { state, reason, next, .. } = judge(&signs, at(1_000));
    (state, reason, next.map(|next| next.micros() / 1_000_000))
}

#[test]
fn signs_say_how_a_device_is() {
    use Reason::{Connected, Flapping, Heard, Lost, NeverHeard, Quiet, Silent};
    use State::{Disconnected, Stable, Unknown, Unstable};
    let lost = |second: i64| Link::Lost { at: at(second) };
    let expected = |until: i64| Link::Expected { from: at(900), until: at(until) };
    let heard = |second: i64| pulse("a", Some(second), None);
    let limited = |second: i64| pulse("a", Some(second), Some(60));
    let other = |second: i64| pulse("b", Some(second), Some(600));
    let never = pulse("c", None, Some(60));
    let cases = [
        (Link::None, vec![], vec![pulse("a", None, None)], (Unknown, NeverHeard, None)),
        (Link::None, vec![], vec![never], (Unknown, NeverHeard, None)),
        // Heard, with nothing that says how often it should be.
        (Link::None, vec![], vec![heard(401)], (Stable, Heard, Some(1_001))),
        (Link::None, vec![], vec![heard(400)], (Unknown, Quiet, None)),
        // A limit on silence.
        (Link::None, vec![], vec![limited(941)], (Stable, Heard, Some(1_001))),
        (Link::None, vec![], vec![limited(940)], (Disconnected, Silent, None)),
        (Link::None, vec![], vec![limited(940), other(900)], (Unstable, Silent, Some(1_500))),
        (Link::None, vec![], vec![limited(940), other(300)], (Disconnected, Silent, None)),
        (Link::None, vec![], vec![other(900), never], (Unstable, Silent, Some(1_500))),
        // A connection.
        (Link::Up, vec![], vec![pulse("a", None, None)], (Stable, Connected, None)),
        (Link::Up, vec![], vec![heard(1)], (Stable, Connected, None)),
        (Link::Up, vec![], vec![limited(950)], (Stable, Connected, Some(1_010))),
        (Link::Up, vec![], vec![limited(1)], (Unstable, Silent, None)),
        (Link::Up, vec![500, 600, 700], vec![heard(999)], (Unstable, Flapping, Some(1_100))),
        (Link::Up, vec![400, 600, 700], vec![heard(999)], (Stable, Connected, None)),
        // A lost one, and readings that came by another way since.
        (lost(990), vec![990], vec![limited(980)], (Disconnected, Lost, None)),
        (lost(990), vec![990], vec![heard(991)], (Stable, Heard, Some(1_591))),
        (lost(990), vec![], vec![], (Disconnected, Lost, None)),
        // One that was there before the server stopped.
        (expected(1_020), vec![], vec![heard(1)], (Stable, Connected, Some(1_020))),
        (expected(1_000), vec![], vec![heard(1)], (Disconnected, Lost, None)),
        (expected(1_000), vec![], vec![heard(950)], (Stable, Heard, Some(1_550))),
    ];
    for (link, drops, pulses, wanted) in cases {
        assert_eq!(judged(link, &drops, &pulses), wanted, "{link:?} {drops:?} {pulses:?}");
    }
}

#[test]
fn every_word_is_read_as_it_is_written() {
    for state in State::ALL {
        assert_eq!(State::read(state.word()), Some(state));
    }
    for reason in Reason::ALL {
        assert_eq!(Reason::read(reason.word()), Some(reason));
    }
}

/// One device `roof` with a sensor that may be silent for a minute.
struct Scene {
    registry: Registry,
    config: Config,
    vitals: Vitals,
}

impl Scene {
    fn new() -> Self {
        let mut registry = Registry::default();
        let sensor = Sensor { silent_after: Some(MINUTE), ..Sensor::new("s", &["v"], at(0)) };
        registry.sensors.insert("s".into(), Arc::new(sensor));
        let device = Device { sensors: ["s".into()].into(), ..Device::new("roof", at(0)) };
        registry.devices.insert("roof".into(), Arc::new(device));
        Self { registry, config: Config::default(), vitals: Vitals::default() }
    }

    /// Lets the time come and writes down what changed.
    fn turn(&mut self, second: i64) -> Vec<(State, Reason)> {
        let changes = self.vitals.turn(&self.registry, &self.config, at(second), 10);
        self.vitals.tell(&changes);
        let told = changes.iter().filter(|change| change.was.is_some());
        told.map(|change| (change.health.state, change.health.reason)).collect()
    }
}

#[test]
fn a_device_goes_through_its_states_and_each_is_told_once() {
    let mut scene = Scene::new();
    assert_eq!(scene.turn(0), []);
    scene.vitals.heard("roof", "s", at(10));
    assert_eq!(scene.turn(10), [(State::Stable, Reason::Heard)]);
    scene.vitals.heard("roof", "s", at(40));
    assert_eq!(scene.turn(69), []);
    assert_eq!(scene.turn(70), [], "it was heard again in between");
    assert_eq!(scene.turn(99), []);
    assert_eq!(scene.turn(100), [(State::Disconnected, Reason::Silent)]);
    assert_eq!(scene.turn(101), []);
    scene.vitals.heard("roof", "s", at(200));
    assert_eq!(scene.turn(200), [(State::Stable, Reason::Heard)]);
    scene.vitals.bind("client", "roof", 10);
    assert_eq!(scene.turn(201), [(State::Stable, Reason::Connected)]);
    scene.vitals.left("client", true, at(210));
    assert_eq!(scene.turn(210), [(State::Disconnected, Reason::Lost)]);
    scene.vitals.arrived("client", 10);
    assert_eq!(scene.turn(211), [(State::Stable, Reason::Connected)], "it carries it again");
    scene.vitals.left("client", false, at(212));
    assert_eq!(scene.turn(212), [(State::Stable, Reason::Heard)], "it took leave");
    assert_eq!(scene.vitals.told("roof").map(|health| health.changes), Some(7));
}

#[test]
fn a_client_that_is_gone_carries_nothing_and_one_of_two_is_enough() {
    let mut scene = Scene::new();
    scene.vitals.bind("one", "roof", 10);
    scene.vitals.bind("two", "roof", 10);
    scene.turn(1);
    scene.vitals.left("one", true, at(2));
    assert_eq!(scene.turn(2), [], "the other is still there");
    scene.vitals.left("two", true, at(3));
    assert_eq!(scene.turn(3), [(State::Disconnected, Reason::Lost)]);
    // Its will is a reading, which comes after it.
    scene.vitals.bind("two", "roof", 10);
    assert_eq!(scene.turn(4), []);
}

#[test]
fn clients_are_remembered_up_to_the_limit() {
    let mut vitals = Vitals::default();
    for number in 0..5 {
        vitals.arrived(&number.to_string(), 3);
    }
    assert_eq!(vitals.clients.len(), 3);
    vitals.bind("0", "roof", 3);
    vitals.left("0", true, at(1));
    vitals.left("1", true, at(1));
    assert_eq!(vitals.clients.len(), 2, "one that carried nothing is forgotten");
    vitals.arrived("a", 3);
    vitals.arrived("b", 3);
    assert_eq!(vitals.clients.len(), 3, "one that is gone gives its place up");
}

#[test]
fn who_was_connected_before_a_restart_has_time_to_come_back() {
    let mut scene = Scene::new();
    let health = Health {
        state: State::Stable,
        reason: Reason::Connected,
        silent: vec![],
        since: at(5),
        changes: 3,
    };
    let kept = Kept { device: "roof".into(), link: Link::Up, health };
    scene.vitals.restore(kept.clone(), (at(100), at(220)));
    scene.vitals.heard("roof", "s", at(90));
    assert_eq!(scene.turn(100), []);
    assert_eq!(scene.turn(149), []);
    assert_eq!(scene.turn(150), [(State::Unstable, Reason::Silent)]);
    assert_eq!(scene.turn(220), [(State::Disconnected, Reason::Lost)]);
    let mut scene = Scene::new();
    scene.vitals.restore(kept, (at(100), at(220)));
    scene.vitals.bind("client", "roof", 10);
    scene.vitals.heard("roof", "s", at(101));
    assert_eq!(scene.turn(110), []);
    assert_eq!(scene.turn(160), []);
}

/// A naive judge that looks at every device at every second is told the same.
#[test]
fn a_device_that_is_looked_at_only_when_due_is_judged_as_if_it_were_always() {
    let mut scene = Scene::new();
    let mut chance: u64 = 7;
    let mut heard: Option<i64> = None;
    let mut state = State::Unknown;
    for second in 1..20_000 {
        chance =
            chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let is_quiet = second % 1_000 > 800;
        if !is_quiet && (chance >> 33).is_multiple_of(40) {
            scene.vitals.heard("roof", "s", at(second));
            heard = Some(second);
        }
        let naive = match heard {
            None => State::Unknown,
            Some(heard) if second - heard < 60 => State::Stable,
            Some(_) => State::Disconnected,
        };
        let told: Vec<State> = scene.turn(second).into_iter().map(|(state, _)| state).collect();
        let wanted = if naive == state { vec![] } else { vec![naive] };
        assert_eq!(told, wanted, "second {second}");
        state = naive;
    }
}

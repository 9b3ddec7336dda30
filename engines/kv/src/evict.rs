//! Making room when `maxmemory` is reached: the worst of a few keys picked by chance goes, until it fits.

use crate::engine::{DATABASES, Engine};
use crate::notify;
use crate::settings::Policy;
use crate::store::Found;

/// Keys that one command may cost, so that no command waits for long.
const EVICTIONS_MAX: usize = 1_000;

pub(crate) fn make_room(engine: &mut Engine) -> bool {
    let mut evicted = 0;
    while engine.memory_used() > engine.settings.memory_max {
        if engine.settings.policy == Policy::Never || evicted >= EVICTIONS_MAX {
            return engine.settings.policy != Policy::Never;
        }
        if !evict_one(engine) {
            return false;
        }
        evicted += 1;
    }
    true
}

/// Evicts the worst of a sample over all databases.
fn evict_one(engine: &mut Engine) -> bool {
    let policy = engine.settings.policy;
    let mut worst: Option<(u64, usize, Box<[u8]>)> = None;
    for db in 0..engine.store.databases() {
        let count =
            if policy.is_volatile() { engine.store.expiring(db) } else { engine.store.len(db) };
        if count == 0 {
            continue;
        }
        // Where few keys expire, more are looked at to find one.
        let samples = if policy.is_volatile() {
            (engine.settings.samples * engine.store.len(db).div_ceil(count)).min(2_000)
        } else {
            engine.settings.samples
        };
        let mut seen = 0;
        for _ in 0..samples {
            let Some(found) = pick(engine, db) else { continue };
            let Some(cost) = badness(engine, found, policy) else { continue };
            if worst.as_ref().is_none_or(|(most, _, _)| cost > *most) {
                worst = Some((cost, db, engine.store.key(found).into()));
            }
            seen += 1;
            if seen >= engine.settings.samples {
                break;
            }
        }
    }
    let Some((_, db, key)) = worst else { return false };
    let hash = engine.store.hash_of(&key);
    let Some(found) = engine.store.find(db, hash, &key) else { return false };
    engine.offer_stream(db, found, &key);
    engine.store.remove(db, found);
    engine.stats.evicted += 1;
    engine.log_effect(db, &[b"DEL", &key]);
    engine.spoil(db, &key);
    if !engine.trackers.is_empty() {
        engine.invalidate(db, &key, None);
    }
    engine.notify(db, (notify::EVICTED, "evicted", &key));
    true
}

fn pick(engine: &mut Engine, db: usize) -> Option<Found> {
    let mut seed = engine.chance();
    engine.store.random(db, || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed ^ (seed >> 29)
    })
}

/// The more, the sooner it goes; nothing when it may not go.
fn badness(engine: &mut Engine, found: Found, policy: Policy) -> Option<u64> {
    let deadline = engine.store.deadline(found);
    if policy.is_volatile() && deadline.is_none() {
        return None;
    }
    let stamp = engine.store.stamp_of(found);
    Some(match policy {
        Policy::Never => return None,
        Policy::AllRandom | Policy::VolatileRandom => engine.chance(),
        Policy::AllLru | Policy::VolatileLru => {
            u64::from(engine.store.stamp.wrapping_sub(stamp) & 0x00ff_ffff)
        }
        Policy::AllLfu | Policy::VolatileLfu => {
            255 - u64::from(engine.settings.decayed(stamp, engine.stats.minutes()))
        }
        Policy::VolatileTtl => u64::MAX - deadline.unwrap_or(i64::MAX).max(0) as u64,
    })
}

impl Engine {
    /// Bytes that `maxmemory` is compared with: data, and what waits to be sent.
    pub(crate) fn memory_used(&self) -> usize {
        self.store.used_bytes() + self.spaces.len() * DATABASES * 64
    }
}

// The newest readings of every device, fed by one stream for the whole console.
// A browser allows six connections per host over all tabs, so a hidden tab gives its stream up.
import { signal } from 'preact';
import { devices, events } from './api.js';

/** @typedef {import('./api.js').Reading} Reading */
/** @typedef {import('./api.js').Device} Device */

/** Streams change faster than anyone reads; views follow at this pace. */
const BEAT_MS = 250;
const HIDDEN_MS_MAX = 20000;
const RATE_BEATS = 20;

/** @type {import('preact').Signal<import('./api.js').StreamState>} */
export const liveState = signal('connecting');

/** Readings a second over the last five seconds. */
export const rate = signal(0);

/** Moves when the newest readings changed. */
export const beat = signal(0);

/** Moves when readings may have been missed, so that histories are asked for again. */
export const gap = signal(0);

/** Set when a device that no list has named yet sends a reading. */
export const newcomer = signal(0);

/** @type {Map<string, Map<string, Reading>>} */
const newest = new Map();

/** @type {Set<(readings: Reading[]) => void>} */
const followers = new Set();

/** @type {Reading[]} */
let waiting = [];
/** @type {number[]} */
let counts = [];
/** @type {(() => void) | null} */
let end = null;
let timer = 0;
let hiding = 0;

/**
 * The newest reading of a device, by sensor.
 * @param {string} device
 * @returns {Map<string, Reading>}
 */
export const newestOf = (device) => newest.get(device) ?? new Map();

/**
 * The newest number of one value of a device.
 * @param {string} device
 * @param {string} value
 */
export function newestValue(device, value) {
  for (const reading of newestOf(device).values()) {
    const number = reading.values[value];
    if (number !== undefined && number !== null) return { number, reading };
  }
  return null;
}

/**
 * @param {(readings: Reading[]) => void} follower gets every reading, a beat's worth at a time
 * @returns {() => void}
 */
export function follow(follower) {
  followers.add(follower);
  return () => void followers.delete(follower);
}

/** @param {Reading} reading */
function remember(reading) {
  let sensors = newest.get(reading.device);
  if (!sensors) newest.set(reading.device, (sensors = new Map()));
  const before = sensors.get(reading.sensor);
  if (!before || Date.parse(before.time) <= Date.parse(reading.time)) sensors.set(reading.sensor, reading);
}

/** @param {Device[]} known */
export function learn(known) {
  for (const device of known) {
    if (!newest.has(device.name)) newest.set(device.name, new Map());
    for (const last of device.last ?? []) remember({ device: device.name, ...last });
  }
  beat.value += 1;
}

/** Asks for all devices, and takes their last readings in. */
export async function fetchDevices() {
  /** @type {Device[]} */
  const known = [];
  /** @type {string | null} */
  let after = null;
  do {
    /** @type {import('./api.js').Page<Device>} */
    const page = await devices({ limit: 100, after });
    known.push(...page.items);
    after = page.next;
  } while (after && known.length < 2000);
  learn(known);
  return known;
}

function pulse() {
  counts = [...counts, waiting.length].slice(-RATE_BEATS);
  const next = counts.reduce((sum, count) => sum + count, 0) / ((counts.length * BEAT_MS) / 1000);
  if (next !== rate.value) rate.value = next;
  if (waiting.length === 0) return;
  const readings = waiting;
  waiting = [];
  const strangers = readings.some((reading) => !newest.has(reading.device));
  readings.forEach(remember);
  followers.forEach((follower) => follower(readings));
  beat.value += 1;
  if (strangers) newcomer.value += 1;
}

export function startLive() {
  if (end) return;
  let wasBroken = false;
  end = events('readings', {
    onEvent: (/** @type {Reading} */ reading) => void waiting.push(reading),
    onState: (state) => {
      if (state === 'reconnecting') wasBroken = true;
      if (state === 'live' && wasBroken) {
        wasBroken = false;
        gap.value += 1;
      }
      liveState.value = state;
    },
  });
  timer = window.setInterval(pulse, BEAT_MS);
}

export function stopLive() {
  end?.();
  end = null;
  clearInterval(timer);
  waiting = [];
  counts = [];
}

/** Forgets what another organisation's session has seen. */
export function forget() {
  stopLive();
  newest.clear();
}

document.addEventListener('visibilitychange', () => {
  clearTimeout(hiding);
  if (document.hidden) {
    hiding = window.setTimeout(() => end && stopLive(), HIDDEN_MS_MAX);
    return;
  }
  if (!end && signedIn) {
    startLive();
    gap.value += 1;
  }
});

let signedIn = false;

/** @param {boolean} next */
export function setSignedIn(next) {
  signedIn = next;
  if (next) startLive();
  else forget();
}

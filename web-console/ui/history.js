// Values of devices over time: the past from their series, the present from the stream.
import { useEffect, useState } from 'preact';
import { device as fetchDevice, series } from './api.js';
import { follow, gap, learn, newestOf } from './live.js';
import { moment } from './parts/format.js';

/** @typedef {import('./parts/chart.js').Points} Points */
/** @typedef {{ device: string, sensor: string, value: string, show?: 'avg' | 'min' | 'max' | 'last' }} Line */
/** @typedef {[number[], number[]]} Track times in seconds, in order, and a value at each */

/** Points that the past of a line has at most. */
const PAST_MAX = 600;
/** Readings that came since; with more of them the past is asked for again, which holds them by then. */
const NEWS_MAX = 2000;
const HOUR_MS = 3600000;

/**
 * Puts a point where it belongs; the same time again replaces it.
 * @param {Track} track
 * @param {number} time
 * @param {number} value
 */
function put([times, values], time, value) {
  let at = times.length;
  while (at > 0 && times[at - 1] > time) at -= 1;
  if (at > 0 && times[at - 1] === time) {
    values[at - 1] = value;
    return;
  }
  times.splice(at, 0, time);
  values.splice(at, 0, value);
}

/**
 * Adds a reading that just came: the lowest or highest of a step stays that, anything else is a point of its own.
 * @param {Track} track
 * @param {Line} line
 * @param {number} step
 * @param {number} time
 * @param {number} value
 */
function add(track, { show = 'avg' }, step, time, value) {
  if (step === 0 || show === 'avg' || show === 'last') return put(track, time, value);
  const begins = Math.floor(time / step) * step;
  const at = track[0].lastIndexOf(begins);
  put(track, begins, at < 0 ? value : Math[show](track[1][at], value));
}

/** The part of a track that is not older than this. @param {Track} track @param {number} from @returns {Track} */
function since([times, values], from) {
  const first = times.findIndex((time) => time >= from);
  return first < 0 ? [[], []] : [times.slice(first), values.slice(first)];
}

/**
 * The tracks on one axis of time; a line has no value where another one has its point.
 * The stream may run ahead of the clock (a replay does), so a span ends at the newest reading.
 * @param {Track[]} tracks
 * @param {number | null} hours
 * @returns {Points}
 */
export function aligned(tracks, hours) {
  const newest = Math.max(...tracks.map(([times]) => times[times.length - 1] ?? -Infinity));
  const shown = hours === null || newest === -Infinity ? tracks : tracks.map((track) => since(track, newest - hours * 3600));
  // Copied: who draws it looks whether it is another one.
  if (shown.length === 1) return [[...shown[0][0]], [...shown[0][1]]];
  const times = [...new Set(shown.flatMap(([own]) => own))].sort((a, b) => a - b);
  const place = new Map(times.map((time, i) => [time, i]));
  const rows = shown.map(([own, values]) => {
    /** @type {(number | null)[]} */
    const row = new Array(times.length).fill(null);
    own.forEach((time, i) => (row[/** @type {number} */ (place.get(time))] = values[i]));
    return row;
  });
  return [times, ...rows];
}

/**
 * The past of one line.
 * @param {Line} line
 * @param {number | null} hours
 * @returns {Promise<{ track: Track, step: number, end: number }>} the seconds of a point, and until when it knows everything
 */
async function past({ device, sensor, value, show = 'avg' }, hours) {
  if (newestOf(device).size === 0) learn([await fetchDevice(device)]);
  const newest = newestOf(device).get(sensor);
  const end = (newest ? moment(newest.time) : Date.now()) + 1;
  const ask = (/** @type {number} */ from, /** @type {number} */ points) =>
    series(device, { sensor, value, from: new Date(from).toISOString(), to: new Date(end).toISOString(), points });
  let from = hours === null ? 0 : Math.max(0, end - hours * HOUR_MS);
  if (hours === null) {
    // Where it begins is not known: roughly first.
    const [first] = (await ask(0, 10000)).points;
    if (!first) return { track: [[], []], step: 0, end: -Infinity };
    from = moment(first.time);
  }
  const { points, step_seconds } = await ask(from, PAST_MAX);
  const times = points.map((point) => moment(point.time) / 1000);
  const values = points.map((point) => (show === 'avg' ? point.avg : point[show]) ?? point.last);
  return { track: [times, values], step: step_seconds, end: (times[times.length - 1] ?? -Infinity) + step_seconds };
}

/**
 * @param {Line[]} lines at least one
 * @param {number | null} hours null: as far as anything is kept
 */
export function useHistory(lines, hours) {
  const [state, setState] = useState(/** @type {{ points: Points | null, error: unknown }} */ ({ points: null, error: null }));
  const [turn, setTurn] = useState(0);
  const missed = gap.value;
  const key = JSON.stringify(lines);

  useEffect(() => {
    let gone = false;
    /** @type {{ track: Track, step: number }[] | null} */
    let known = null;
    /** @type {[number, number, number][]} line, time and value */
    let news = [];
    let count = 0;
    const draw = () => {
      if (!known) return;
      for (const [line, time, value] of news) add(known[line].track, lines[line], known[line].step, time, value);
      count += news.length;
      news = [];
      setState({ points: aligned(known.map(({ track }) => track), hours), error: null });
      if (count > NEWS_MAX) setTurn((before) => before + 1);
    };
    const end = follow((readings) => {
      const before = news.length;
      for (const reading of readings) {
        lines.forEach((line, i) => {
          const number = reading.values[line.value];
          if (reading.device === line.device && reading.sensor === line.sensor && number !== null && number !== undefined) {
            news.push([i, moment(reading.time) / 1000, number]);
          }
        });
      }
      if (news.length > before) draw();
    });
    Promise.all(lines.map((line) => past(line, hours))).then(
      (found) => {
        if (gone) return;
        known = found;
        // What came while the past was asked for may be in it.
        news = news.filter(([line, time]) => time >= found[line].end);
        draw();
      },
      (error) => {
        // Nothing of it is drawn, so nothing is to be kept for it.
        end();
        if (!gone) setState({ points: null, error });
      },
    );
    return () => {
      gone = true;
      end();
    };
  }, [key, hours, missed, turn]);

  return state;
}

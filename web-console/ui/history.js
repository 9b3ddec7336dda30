// One value of one device over time: the past by SQL, the present from the stream.
import { useEffect, useState } from 'preact';
import { sql } from './api.js';
import { follow, gap, newestOf } from './live.js';
import { moment } from './parts/format.js';

/** @typedef {import('./parts/chart.js').Points} Points */

const POINTS_MAX = 20000;

/** Text as a SQL literal. @param {string} text */
export const literal = (text) => `'${text.replaceAll("'", "''")}'`;

/**
 * @param {string} device
 * @param {string} sensor
 * @param {string} value
 * @param {number | null} from milliseconds
 */
export function historySql(device, sensor, value, from) {
  const since = from === null ? '' : ` AND time >= ${literal(new Date(from).toISOString())}`;
  const where = `device = ${literal(device)} AND sensor = ${literal(sensor)} AND name = ${literal(value)}${since}`;
  return `SELECT time, value FROM readings WHERE ${where} ORDER BY time DESC LIMIT ${POINTS_MAX}`;
}

/**
 * Puts a point where it belongs; the same time again replaces it.
 * @param {Points} points
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
 * The stream may run ahead of the clock (a replay does), so a span ends at the newest reading.
 * @param {Points} points
 * @param {number | null} hours
 * @returns {Points}
 */
function within([times, values], hours) {
  const newest = times[times.length - 1];
  const from = hours === null || newest === undefined ? -Infinity : newest - hours * 3600;
  let first = Math.max(0, times.length - POINTS_MAX);
  while (first < times.length && times[first] < from) first += 1;
  return [times.slice(first), values.slice(first)];
}

/**
 * @param {string} device
 * @param {string} sensor
 * @param {string} value
 * @param {number | null} hours
 */
export function useHistory(device, sensor, value, hours) {
  const [state, setState] = useState(/** @type {{ points: Points | null, error: unknown }} */ ({ points: null, error: null }));
  const missed = gap.value;

  useEffect(() => {
    let gone = false;
    /** @type {Points | null} */
    let points = null;
    /** @type {[number, number][]} */
    let early = [];
    const end = follow((readings) => {
      /** @type {[number, number][]} */
      const news = [];
      for (const reading of readings) {
        const number = reading.values[value];
        if (reading.device === device && reading.sensor === sensor && number !== null && number !== undefined) {
          news.push([moment(reading.time) / 1000, number]);
        }
      }
      if (news.length === 0) return;
      if (!points) {
        early.push(...news);
        return;
      }
      for (const [time, number] of news) put(points, time, number);
      points = within(points, hours);
      setState({ points, error: null });
    });
    (async () => {
      const newest = newestOf(device).get(sensor);
      const now = newest ? moment(newest.time) : Date.now();
      const answer = await sql(historySql(device, sensor, value, hours === null ? null : now - hours * 3600000));
      if (gone) return;
      /** @type {Points} */
      const past = [[], []];
      for (const [time, number] of answer.rows.reverse()) {
        past[0].push(moment(time) / 1000);
        past[1].push(/** @type {number | null} */ (number));
      }
      for (const [time, number] of early) put(past, time, number);
      early = [];
      points = within(past, hours);
      setState({ points, error: null });
    })().catch((error) => gone || setState({ points: null, error }));
    return () => {
      gone = true;
      end();
    };
  }, [device, sensor, value, hours, missed]);

  return state;
}

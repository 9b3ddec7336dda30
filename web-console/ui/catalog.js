// The sensor types of the organisation: which values there are, and their units.
import { signal } from 'preact';
import { all, sensors } from './api.js';

/** @type {import('preact').Signal<import('./api.js').Sensor[] | null>} */
export const catalog = signal(/** @type {import('./api.js').Sensor[] | null} */ (null));

export async function fetchCatalog() {
  catalog.value = await all(sensors);
  return catalog.value;
}

/** @param {string} sensor @param {string} value */
export function valueOf(sensor, value) {
  return catalog.value?.find((one) => one.name === sensor)?.values.find((one) => one.name === value) ?? null;
}

/** @param {string} sensor @param {string} value */
export const unitOf = (sensor, value) => valueOf(sensor, value)?.unit ?? null;

/** @param {string} sensor @param {string} value */
export const labelOf = (sensor, value) => valueOf(sensor, value)?.label || value;

/**
 * The numbers of a reading, in the order of their sensor type.
 * @param {string} sensor
 * @param {import('./api.js').Values} values
 * @returns {[string, number][]}
 */
export function numbersOf(sensor, values) {
  const order = catalog.value?.find((one) => one.name === sensor)?.values.map((one) => one.name) ?? [];
  /** @type {[string, number][]} */
  const present = [];
  for (const [name, value] of Object.entries(values)) if (value !== null && value !== undefined) present.push([name, value]);
  const place = (/** @type {string} */ name) => (order.includes(name) ? order.indexOf(name) : order.length);
  return present.sort((a, b) => place(a[0]) - place(b[0]));
}

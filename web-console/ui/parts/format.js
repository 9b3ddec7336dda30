// Numbers and times as people read them, in the chosen language and the browser's zone.
import { html, signal, useEffect } from 'preact';
import { language, t } from '../i18n.js';

/** @param {number} value @param {number} [digits] */
export function number(value, digits = 2) {
  return new Intl.NumberFormat(language.value, { maximumFractionDigits: digits }).format(value);
}

/** @param {number} value */
export function compact(value) {
  if (Math.abs(value) < 100000) return number(value, 0);
  return new Intl.NumberFormat(language.value, { notation: 'compact', maximumFractionDigits: 1 }).format(value);
}

/** @param {number} value @param {string | null | undefined} unit */
export function measured(value, unit) {
  const text = number(value, Math.abs(value) >= 1000 ? 0 : Math.abs(value) >= 100 ? 1 : 2);
  if (!unit) return text;
  return /^[°%]/.test(unit) ? `${text}${unit}` : `${text}\u202f${unit}`;
}

/** @param {Date} date @param {Intl.DateTimeFormatOptions} options */
export const dateText = (date, options) => new Intl.DateTimeFormat(language.value, { hourCycle: 'h23', ...options }).format(date);

/** @type {Intl.DateTimeFormatOptions} */
const FULL = { year: 'numeric', month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', second: '2-digit' };
/** @type {Intl.DateTimeFormatOptions} */
const SHORT = { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit' };

/**
 * A time that SQL or JSON gave: RFC 3339, a zoneless text in UTC, or microseconds.
 * @param {unknown} value
 * @returns {number} milliseconds, or NaN
 */
export function moment(value) {
  if (typeof value === 'number') return value / 1000;
  if (typeof value !== 'string') return NaN;
  const zoned = /(Z|[+-]\d\d:?\d\d)$/.test(value);
  return Date.parse(zoned ? value : `${value.replace(' ', 'T')}Z`);
}

const clock = signal(Date.now());
setInterval(() => (clock.value = Date.now()), 1000);

/** @param {number} at milliseconds */
export function ago(at) {
  const seconds = (at - clock.value) / 1000;
  const format = new Intl.RelativeTimeFormat(language.value, { numeric: 'auto', style: 'short' });
  const size = Math.abs(seconds);
  if (size < 2) return t('time.now');
  if (size < 60) return format.format(Math.round(seconds), 'second');
  if (size < 3600) return format.format(Math.round(seconds / 60), 'minute');
  if (size < 86400) return format.format(Math.round(seconds / 3600), 'hour');
  return format.format(Math.round(seconds / 86400), 'day');
}

/**
 * A time with its exact form as tooltip.
 * @param {{ at: string | null | undefined, form?: 'short' | 'full' | 'ago' }} props
 */
export function Time({ at, form = 'short' }) {
  const ms = moment(at);
  if (Number.isNaN(ms)) return html`<span class="faint">–</span>`;
  const date = new Date(ms);
  const text = form === 'ago' ? ago(ms) : dateText(date, form === 'full' ? FULL : SHORT);
  return html`<time datetime=${date.toISOString()} title=${`${dateText(date, FULL)} · ${date.toISOString()}`}>${text}</time>`;
}

/** @param {number} seconds */
export function duration(seconds) {
  const unit = (/** @type {number} */ value, /** @type {string} */ name) =>
    new Intl.NumberFormat(language.value, { style: 'unit', unit: name, unitDisplay: 'long' }).format(value);
  if (seconds >= 86400 && seconds % 86400 === 0) return unit(seconds / 86400, 'day');
  if (seconds >= 3600 && seconds % 3600 === 0) return unit(seconds / 3600, 'hour');
  if (seconds >= 60 && seconds % 60 === 0) return unit(seconds / 60, 'minute');
  return unit(seconds, 'second');
}

/** @param {number} seconds */
export function roughly(seconds) {
  if (seconds >= 2 * 86400) return duration(Math.floor(seconds / 86400) * 86400);
  if (seconds >= 2 * 3600) return duration(Math.floor(seconds / 3600) * 3600);
  if (seconds >= 60) return duration(Math.floor(seconds / 60) * 60);
  return duration(Math.floor(seconds));
}

/**
 * Runs now and then every `seconds`, while the page is seen.
 * @param {() => void} run
 * @param {number} seconds
 * @param {readonly unknown[]} inputs
 */
export function useEvery(run, seconds, inputs) {
  useEffect(() => {
    run();
    const timer = setInterval(() => document.hidden || run(), seconds * 1000);
    return () => clearInterval(timer);
  }, inputs);
}

// A rule as a sentence, so that the reader need not decode a form.
import { labelOf, unitOf } from '../catalog.js';
import { t } from '../i18n.js';
import { dateText, duration, measured } from '../parts/format.js';

/** @typedef {import('../api.js').RuleBody} RuleBody */

export const DAYS = ['monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday', 'sunday'];

/** The name of a day; the first of January 2024 was a Monday. @param {number} place */
export const dayText = (place) => dateText(new Date(Date.UTC(2024, 0, 1 + place)), { weekday: 'short', timeZone: 'UTC' });

/** @returns {Record<string, string>} */
export const comparisons = () => ({ above: t('compare.above'), 'at-least': t('compare.at-least'), below: t('compare.below'), 'at-most': t('compare.at-most'), equal: t('compare.equal'), 'not-equal': t('compare.not-equal') });

/** @returns {Record<string, string>} */
export const directions = () => ({ either: t('change.either'), rise: t('change.rise'), fall: t('change.fall') });

/**
 * @param {string} sensor
 * @param {string} value
 * @param {import('../api.js').Range} range
 */
function rangeText(sensor, value, { min, max }) {
  const text = (/** @type {number} */ number) => measured(number, unitOf(sensor, value));
  if (min !== null && max !== null) return t('sentence.between', { min: text(min), max: text(max) });
  if (min !== null) return t('sentence.from', { min: text(min) });
  if (max !== null) return t('sentence.below', { max: text(max) });
  return t('sentence.any');
}

/** @param {RuleBody} rule @param {import('../api.js').Condition} condition */
function conditionText({ sensor }, { value, ranges, hold, compare, change }) {
  const name = labelOf(sensor, value);
  if (compare) {
    const other = labelOf(sensor, compare.value);
    const plus = compare.plus ? ` ${compare.plus < 0 ? '−' : '+'} ${measured(Math.abs(compare.plus), unitOf(sensor, value))}` : '';
    return t('sentence.compare', { value: name, is: comparisons()[compare.is] ?? compare.is, other: `${other}${plus}` });
  }
  if (change) {
    return t('sentence.change', { value: name, direction: directions()[change.direction] ?? '', by: measured(change.by, unitOf(sensor, value)), time: duration(change.within_seconds) });
  }
  const text = t('sentence.condition', { value: name, ranges: ranges.map((range) => rangeText(sensor, value, range)).join(t('sentence.or')) });
  return hold ? `${text} ${t('sentence.hold', { range: rangeText(sensor, value, hold) })}` : text;
}

/** @param {RuleBody} rule */
function scopeText(rule) {
  const parts = [];
  if (rule.tags.length > 0) parts.push(t('sentence.tags', { names: rule.tags.join(', ') }));
  if (rule.groups.length > 0) parts.push(t('sentence.groups', { names: rule.groups.join(', ') }));
  if (rule.area) {
    const { type, latitude = 0, longitude = 0, metres = 0 } = rule.area.shape;
    const area = type === 'circle' ? `${latitude.toFixed(3)}, ${longitude.toFixed(3)} (${measured(metres, 'm')})` : type;
    parts.push(rule.area.outside ? t('sentence.outside', { area }) : t('sentence.inside', { area }));
  }
  return parts.length > 0 ? `(${parts.join(', ')})` : '';
}

/**
 * @param {RuleBody} rule
 * @param {(endpoint: string) => string} [nameOf]
 */
export function sentence(rule, nameOf = (id) => id) {
  const conditions = rule.conditions.map((condition) => conditionText(rule, condition)).join(t('sentence.and'));
  const parts = [rule.device ? t('sentence.one-device', { device: rule.device, conditions }) : t('sentence.all-devices', { sensor: rule.sensor, conditions })];
  const scope = scopeText(rule);
  if (scope) parts.push(scope);
  if (rule.for_seconds > 0) parts.push(t('sentence.lasting', { time: duration(rule.for_seconds) }));
  if (rule.window) {
    const { from, to, zone, days } = rule.window;
    parts.push(t('sentence.window', { from, to, zone }));
    if (days.length > 0) parts.push(t('sentence.days', { days: days.map((day) => dayText(DAYS.indexOf(day))).join(', ') }));
  }
  const mails = rule.actions.flatMap((action) => (action.type === 'email' ? [action.to] : []));
  const places = rule.actions.flatMap((action) => (action.type === 'endpoint' ? [nameOf(action.endpoint)] : []));
  const deeds = rule.actions.filter((action) => action.type === 'actuator');
  if (mails.length > 0 || places.length + deeds.length === 0) parts.push(t('sentence.mail', { to: mails.join(', ') || '…' }));
  if (places.length > 0) parts.push(t('sentence.endpoint', { to: places.join(', ') }));
  if (deeds.length > 0) parts.push(deedText(deeds));
  if (rule.escalation) {
    const to = rule.escalation.actions.map((action) => (action.type === 'email' ? action.to : action.type === 'endpoint' ? nameOf(action.endpoint) : ''));
    parts.push(`${t('alerts.escalated')}: ${duration(rule.escalation.after_seconds)} → ${to.join(', ')}.`);
  }
  if (rule.once) parts.push(t('sentence.once'));
  if (rule.cooldown_seconds > 0) parts.push(t('sentence.cooldown', { time: duration(rule.cooldown_seconds) }));
  return parts.join(' ');
}

/** @param {import('../api.js').Action[]} actions */
export function deedText(actions) {
  const commands = actions.flatMap((action) => (action.type === 'actuator' ? [`${action.device ? `${action.device}: ` : ''}${action.actuator} ${action.steps.map((step) => [step.command, ...Object.values(step.values ?? {})].join(' ')).join(' → ')}`] : []));
  return `→ ${commands.join('; ')}.`;
}

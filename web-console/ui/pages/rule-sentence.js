// A rule as a sentence, so that a reader need not decode a form.
import { labelOf, unitOf } from '../catalog.js';
import { t } from '../i18n.js';
import { duration, measured } from '../parts/format.js';

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

/**
 * @param {import('../api.js').RuleBody} rule
 * @param {(endpoint: string) => string} [nameOf]
 */
export function sentence(rule, nameOf = (id) => id) {
  const conditions = rule.conditions.map((condition) =>
    t('sentence.condition', {
      value: labelOf(rule.sensor, condition.value),
      ranges: condition.ranges.map((range) => rangeText(rule.sensor, condition.value, range)).join(t('sentence.or')),
    }),
  );
  const when = rule.device
    ? t('sentence.one-device', { device: rule.device, conditions: conditions.join(t('sentence.and')) })
    : t('sentence.all-devices', { sensor: rule.sensor, conditions: conditions.join(t('sentence.and')) });
  const parts = [when];
  if (rule.window) parts.push(t('sentence.window', { ...rule.window }));
  const mails = rule.actions.flatMap((action) => (action.type === 'email' ? [action.to] : []));
  const places = rule.actions.flatMap((action) => (action.type === 'endpoint' ? [nameOf(action.endpoint)] : []));
  if (mails.length > 0 || places.length === 0) parts.push(t('sentence.mail', { to: mails.join(', ') || '…' }));
  if (places.length > 0) parts.push(t('sentence.endpoint', { to: places.join(', ') }));
  if (rule.cooldown_seconds > 0) parts.push(t('sentence.cooldown', { time: duration(rule.cooldown_seconds) }));
  return parts.join(' ');
}

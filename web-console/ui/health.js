// How well devices are heard: as lists gave it, and as the stream of changes says since.
import { html, signal, useEffect } from 'preact';
import { events } from './api.js';
import { t } from './i18n.js';

/** @typedef {import('./api.js').Health} Health */

/** @type {import('preact').Signal<Map<string, Health>>} */
const changed = signal(new Map());

/** Follows changes while a page is open. */
export function useHealth() {
  useEffect(() => {
    const end = events('health', {
      onEvent: (/** @type {Health & { device: string }} */ one) => void (changed.value = new Map(changed.value).set(one.device, one)),
    });
    return () => {
      end();
      changed.value = new Map();
    };
  }, []);
}

/** @param {import('./api.js').Device} device @returns {Health | undefined} */
export const healthOf = (device) => changed.value.get(device.name) ?? device.health;

/** @returns {Record<import('./api.js').HealthState, string>} */
export const states = () => ({ stable: t('health.stable'), unstable: t('health.unstable'), disconnected: t('health.disconnected'), unknown: t('health.unknown') });

/** @param {Pick<Health, 'reason' | 'silent'>} health */
export function reasonOf({ reason, silent }) {
  if (reason === 'silent') return t('health.silent', { sensors: silent.join(', ') });
  /** @type {Record<string, string>} */
  const texts = {
    'never-heard': t('health.never-heard'),
    connected: t('health.connected'),
    heard: t('health.heard'),
    quiet: t('health.quiet'),
    lost: t('health.lost'),
    flapping: t('health.flapping'),
  };
  return texts[reason] ?? reason;
}

/** @param {{ health: Pick<Health, 'state' | 'reason' | 'silent'> | undefined, brief?: boolean, test?: string }} props `brief`: the dot alone is seen */
export function HealthMark({ health, brief = false, test }) {
  if (!health) return null;
  return html`<span class=${`health ${health.state}`} title=${reasonOf(health)} data-test=${test} data-state=${health.state}><span class=${brief ? 'hidden' : ''}>${states()[health.state]}</span></span>`;
}

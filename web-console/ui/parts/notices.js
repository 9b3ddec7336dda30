import { html, signal } from 'preact';
import { Problem } from '../api.js';
import { t } from '../i18n.js';
import { Icon } from './icons.js';

/** @typedef {{ id: number, kind: 'good' | 'bad', text: string }} Toast */

const SHOWN_MS = 6000;
const TOASTS_MAX = 4;

/** @type {import('preact').Signal<Toast[]>} */
const toasts = signal(/** @type {Toast[]} */ ([]));
let next = 0;

/** @param {string} text @param {'good' | 'bad'} [kind] */
export function toast(text, kind = 'good') {
  const id = (next += 1);
  toasts.value = [...toasts.value, { id, kind, text }].slice(-TOASTS_MAX);
  setTimeout(() => close(id), SHOWN_MS);
}

/** @param {number} id */
function close(id) {
  toasts.value = toasts.value.filter((one) => one.id !== id);
}

/**
 * What went wrong, in the server's words where it has any.
 * @param {unknown} error
 */
export function reason(error) {
  if (error instanceof Problem && error.status === 0) return t('error.offline');
  return error instanceof Error ? error.message : String(error);
}

/** @param {unknown} error */
export const complain = (error) => toast(reason(error), 'bad');

export function Toasts() {
  return html`<div class="toasts" role="status" aria-live="polite" data-test="toasts">
    ${toasts.value.map(
      (one) => html`<div key=${one.id} class=${`toast ${one.kind}`}>
        <span>${one.text}</span>
        <button type="button" class="icon" aria-label=${t('action.close')} onClick=${() => close(one.id)}><${Icon} name="close" /></button>
      </div>`,
    )}
  </div>`;
}

/** @param {{ error: unknown, retry?: () => void }} props */
export function Failed({ error, retry }) {
  return html`<div class="notice bad" role="alert">
    <p>${reason(error)}</p>
    ${retry && html`<button type="button" onClick=${retry}>${t('action.retry')}</button>`}
  </div>`;
}

/** @param {{ title: string, text?: unknown, children?: unknown }} props */
export function Empty({ title, text, children }) {
  return html`<div class="empty">
    <${Icon} name="court" />
    <h3>${title}</h3>
    ${text && html`<p>${text}</p>`}
    ${children}
  </div>`;
}

export function Loading() {
  return html`<p class="loading" role="status"><span class="spinner" aria-hidden="true"></span>${t('state.loading')}</p>`;
}

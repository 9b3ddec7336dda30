import { html } from 'preact';
import { t } from '../i18n.js';
import { textOf } from './form.js';
import { Icon } from './icons.js';

/** @typedef {import('../api.js').Grant} Grant */

/** @returns {Grant} */
export const blank = () => ({ action: '', resource: '*' });

/**
 * Rights, one on each line. A single line that need not be may stay blank.
 * @param {{ grants: Grant[], set: (next: Grant[]) => void, least?: number }} props
 */
export function Grants({ grants, set, least = 0 }) {
  const put = (/** @type {number} */ at, /** @type {Partial<Grant>} */ part) => set(grants.map((grant, i) => (i === at ? { ...grant, ...part } : grant)));
  return html`${grants.map(
      (grant, i) => html`<div class="line" key=${i}>
        <input aria-label=${t('keys.action')} placeholder="devices.*" required=${grants.length + least > 1} data-test=${`grant-action-${i}`} value=${grant.action} onInput=${(/** @type {Event} */ event) => put(i, { action: textOf(event) })} />
        <input aria-label=${t('keys.resource')} placeholder="*" required data-test=${`grant-resource-${i}`} value=${grant.resource} onInput=${(/** @type {Event} */ event) => put(i, { resource: textOf(event) })} />
        ${grants.length > least && html`<button type="button" class="icon" aria-label=${t('action.delete')} data-test="grant-remove" onClick=${() => set(grants.filter((_, at) => at !== i))}><${Icon} name="close" /></button>`}
      </div>`,
    )}
    <button type="button" class="quiet" data-test="grant-add" onClick=${() => set([...grants, blank()])}><${Icon} name="plus" />${t('keys.add-grant')}</button>`;
}

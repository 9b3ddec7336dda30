import { html } from 'preact';
import { t } from '../i18n.js';
import { textOf } from './form.js';
import { duration } from './format.js';

const SPANS = [6, 24, 168, 720, 8760];

/**
 * How far a chart reaches back.
 * @param {{ hours: number | null, set: (hours: number | null) => void, seen?: boolean }} props `seen`: the label is
 */
export function Span({ hours, set, seen = false }) {
  const spans = hours === null || SPANS.includes(hours) ? SPANS : [...SPANS, hours].sort((a, b) => a - b);
  const onChange = (/** @type {Event} */ event) => set(textOf(event) === '' ? null : Number(textOf(event)));
  return html`<label class="inline"><span class=${seen ? '' : 'hidden'}>${t('span.title')}</span>
    <select data-test="chart-span" value=${hours ?? ''} onChange=${onChange}>
      ${spans.map((one) => html`<option value=${one}>${duration(one * 3600)}</option>`)}
      <option value="">${t('span.all')}</option>
    </select>
  </label>`;
}

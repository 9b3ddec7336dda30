// Who did what by which door, and who was refused what.
import { h, html, useState } from 'preact';
import * as api from '../api.js';
import { t } from '../i18n.js';
import { AccountTabs } from '../parts/account-tabs.js';
import { Field, textOf } from '../parts/form.js';
import { Time } from '../parts/format.js';
import { usePages } from '../parts/load.js';
import { Empty, Failed, Loading } from '../parts/notices.js';

const DOORS = ['http', 'mqtt', 'resp', 'stomp'];

/** @returns {Record<string, string>} */
const outcomes = () => ({ done: t('audit.done'), denied: t('audit.denied') });

export default function Audit() {
  const [given, setGiven] = useState(/** @type {Record<string, string>} */ ({}));
  const [filter, setFilter] = useState(/** @type {api.AuditFilter} */ ({}));
  const put = (/** @type {string} */ name) => (/** @type {Event} */ event) => setGiven({ ...given, [name]: textOf(event).trim() });
  const search = (/** @type {Event} */ event) => {
    event.preventDefault();
    const whole = Object.entries(given).filter(([, text]) => text);
    setFilter(Object.fromEntries(whole.map(([name, text]) => [name, name === 'from' || name === 'until' ? new Date(text).toISOString() : text])));
  };
  const input = (/** @type {string} */ name, /** @type {string} */ label, /** @type {Record<string, string>} */ more = {}) =>
    h(Field, { label, input: (id) => html`<input id=${id} data-test=${`audit-${name}`} ...${more} value=${given[name] ?? ''} onInput=${put(name)} />` });
  const choice = (/** @type {string} */ name, /** @type {string} */ label, /** @type {[string, string][]} */ texts) =>
    h(Field, {
      label,
      input: (id) => html`<select id=${id} data-test=${`audit-${name}`} value=${given[name] ?? ''} onChange=${put(name)}>
        <option value="">${t('dead.any')}</option>${texts.map(([value, text]) => html`<option value=${value}>${text}</option>`)}
      </select>`,
    });
  return html`<div class="page">
    <h1>${t('audit.title')}</h1>
    <${AccountTabs} />
    <form class="filters many" role="search" onSubmit=${search}>
      ${input('actor', t('audit.actor'), { placeholder: 'mina@example.org' })}
      ${input('action', t('audit.action'), { placeholder: 'key.*' })}
      ${choice('outcome', t('audit.outcome'), Object.entries(outcomes()))}
      ${choice('door', t('audit.door'), DOORS.map((door) => [door, door.toUpperCase()]))}
      ${input('from', t('audit.from'), { type: 'datetime-local' })}
      ${input('until', t('audit.until'), { type: 'datetime-local' })}
      <button type="submit" data-test="audit-search">${t('dead.search')}</button>
      <a class="button" download href=${api.auditCsv(filter)} data-test="audit-csv">CSV</a>
    </form>
    <${Entries} key=${JSON.stringify(filter)} filter=${filter} />
  </div>`;
}

/** @param {{ filter: api.AuditFilter }} props */
function Entries({ filter }) {
  const { items, next, error, busy, more, again } = usePages((page) => api.audit(filter, page), 50);
  if (!items) return error ? html`<${Failed} error=${error} retry=${again} />` : html`<${Loading} />`;
  if (items.length === 0) return html`<${Empty} title=${t('dead.none-match')} />`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${t('audit.title')}>
      <table data-test="audit-list">
        <thead><tr><th>${t('audit.time')}</th><th>${t('audit.actor')}</th><th>${t('audit.door')}</th><th>${t('audit.action')}</th><th>${t('audit.outcome')}</th></tr></thead>
        <tbody>${items.map(
          (entry) => html`<tr key=${entry.id} data-outcome=${entry.outcome}>
            <td><${Time} at=${entry.time} /></td>
            <td><span class="mono small">${entry.subject}</span></td>
            <td>${entry.door.toUpperCase()}</td>
            <td><code>${entry.action}</code><span class="faint small block">${entry.resource}${entry.detail && ` · ${entry.detail}`}</span></td>
            <td><span class=${entry.outcome === 'denied' ? 'badge failed' : 'badge'}>${outcomes()[entry.outcome]}</span></td>
          </tr>`,
        )}</tbody>
      </table>
    </div>
    ${next && html`<p><button type="button" disabled=${busy} onClick=${more}>${t('action.more')}</button></p>`}`;
}

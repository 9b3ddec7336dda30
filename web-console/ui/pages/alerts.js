import { html, useEffect, useState } from 'preact';
import * as api from '../api.js';
import { catalog, labelOf, numbersOf, unitOf } from '../catalog.js';
import { t } from '../i18n.js';
import { Dialog } from '../parts/dialog.js';
import { Field, textOf } from '../parts/form.js';
import { measured, Time } from '../parts/format.js';
import { useLoad } from '../parts/load.js';
import { complain, Empty, Failed, Loading } from '../parts/notices.js';
import { sentence } from './rule-sentence.js';

/** @typedef {api.Alert} Alert */

/** @returns {Record<api.AlertState, string>} */
const states = () => ({ open: t('alerts.open'), acknowledged: t('alerts.acknowledged'), cleared: t('alerts.cleared') });

export function Alerts() {
  const [state, setState] = useState('');
  return html`<label class="inline above"><span>${t('alerts.state')}</span>
      <select data-test="alerts-state" value=${state} onChange=${(/** @type {Event} */ event) => setState(textOf(event))}>
        <option value="">${t('dead.any')}</option>
        ${Object.entries(states()).map(([value, text]) => html`<option value=${value}>${text}</option>`)}
      </select>
    </label>
    <${List} key=${state} state=${state} />`;
}

/** @param {{ state: string }} props */
function List({ state }) {
  const [count, setCount] = useState(50);
  const [fresh, setFresh] = useState(0);
  const { data, error, again } = useLoad(() => api.all((page) => api.alerts({ state: state || undefined, ...page }), count), [count]);
  void catalog.value;
  useEffect(() => api.events('alerts', { onEvent: () => setFresh((before) => before + 1) }), []);
  const refresh = async () => {
    setFresh(0);
    await again();
  };
  if (!data) return error ? html`<${Failed} error=${error} retry=${again} />` : html`<${Loading} />`;
  return html`${error && html`<${Failed} error=${error} retry=${again} />`}
    ${fresh > 0 && html`<p><button type="button" onClick=${refresh} data-test="alerts-fresh">${t('alerts.fresh', { count: fresh })}</button></p>`}
    ${data.length === 0 ? fresh === 0 && html`<${Empty} title=${t('alerts.none')} text=${t('alerts.none-text')} />` : html`<${AlertTable} items=${data} again=${again} />`}
    ${data.length >= count && html`<p><button type="button" onClick=${() => setCount(count + 200)}>${t('action.more')}</button></p>`}`;
}

/** @param {{ items: Alert[], again: () => Promise<void>, brief?: boolean }} props */
export function AlertTable({ items, again, brief = false }) {
  const [shown, setShown] = useState(/** @type {string | null} */ (null));
  const act = async (/** @type {Alert} */ alert, /** @type {'acknowledge' | 'clear'} */ deed) => {
    await api.doAlert(alert.id, deed).catch(complain);
    await again();
  };
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${t('alerts.title')}>
      <table data-test="alerts-list">
        <thead><tr><th>${t('alerts.raised')}</th><th>${t('alerts.rule')}</th>${!brief && html`<th>${t('alerts.device')}</th><th>${t('alerts.values')}</th><th>${t('alerts.time')}</th>`}<th>${t('alerts.state')}</th><th class="hide-text">${t('action.title')}</th></tr></thead>
        <tbody>
          ${items.map(
            (alert) => html`<tr key=${alert.id} data-state=${alert.state}>
              <td><${Time} at=${alert.raised} form="ago" /></td>
              <td><button type="button" class="linkish" data-test="alert-why" onClick=${() => setShown(alert.id)}>${alert.rule_name}</button></td>
              ${!brief &&
              html`<td><a href=${`#/device/${encodeURIComponent(alert.device)}`}>${alert.device}</a></td>
                <td><${Values} sensor=${alert.sensor} values=${alert.values} /></td>
                <td><${Time} at=${alert.time} /></td>`}
              <td><span class=${`badge ${alert.state}`}>${states()[alert.state]}</span>${alert.escalated && html` <span class="badge failed">${t('alerts.escalated')}</span>`}</td>
              <td class="actions">
                ${alert.state === 'open' && html`<button type="button" data-test="alert-acknowledge" onClick=${() => act(alert, 'acknowledge')}>${t('alerts.acknowledge')}</button>`}
                ${alert.state === 'acknowledged' && html`<button type="button" data-test="alert-clear" onClick=${() => act(alert, 'clear')}>${t('alerts.clear')}</button>`}
              </td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
    ${shown && html`<${Why} id=${shown} onClose=${() => setShown(null)} again=${again} />`}`;
}

/** @param {{ sensor: string, values: api.Values }} props */
export function Values({ sensor, values }) {
  return html`<ul class="values">${numbersOf(sensor, values).map(([name, value]) => html`<li><span>${labelOf(sensor, name)}</span> <b>${measured(value, unitOf(sensor, name))}</b></li>`)}</ul>`;
}

/** Why an alert was raised. @param {{ id: string, onClose: () => void, again: () => Promise<void> }} props */
function Why({ id, onClose, again }) {
  const { data, error, again: look } = useLoad(() => api.alert(id), [id]);
  const [note, setNote] = useState(/** @type {string | null} */ (null));
  const act = async (/** @type {'acknowledge' | 'clear'} */ deed) => {
    try {
      await api.doAlert(id, deed, note);
      await look();
      await again();
    } catch (problem) {
      complain(problem);
    }
  };
  const who = (/** @type {string} */ text, /** @type {api.Done | null | undefined} */ done) => done && html`<dt>${text}</dt><dd>${done.by} · <${Time} at=${done.time} form="full" /></dd>`;
  return html`<${Dialog} title=${t('alerts.why')} wide=${true} test="why-dialog" onClose=${onClose}>
    ${error && html`<${Failed} error=${error} retry=${look} />`}
    ${!data && !error && html`<${Loading} />`}
    ${data &&
    html`<p><b>${data.device}</b> · <a href=${`#/rules/${encodeURIComponent(data.rule)}`}>${data.rule_name}</a>${data.why && html` <span class="faint">${t('alerts.version', { version: data.why.version })}</span>`}</p>
      ${data.rule_text && html`<p class="faint">${sentence(data.rule_text)}</p>`}
      <ul class="reasons" data-test="why-reasons">${data.why?.conditions.map((saw) => html`<li><${Reason} sensor=${data.sensor} saw=${saw} /></li>`)}</ul>
      ${data.why && data.why.since !== data.time && html`<p>${t('alerts.since')} <${Time} at=${data.why.since} form="full" /></p>`}
      <dl class="facts">${who(t('alerts.acknowledged'), data.acknowledged)}${who(t('alerts.cleared'), data.cleared)}</dl>
      <${Readings} alert=${data} />
      <${Field} label=${t('alerts.note')} input=${(/** @type {string} */ field) => html`<input id=${field} maxlength="1000" data-test="alert-note" value=${note ?? data.note ?? ''} onInput=${(/** @type {Event} */ event) => setNote(textOf(event))} />`} />
      <footer>
        ${data.state === 'open' && html`<button type="button" onClick=${() => act('acknowledge')}>${t('alerts.acknowledge')}</button>`}
        ${data.state !== 'cleared' && html`<button type="button" class="primary" onClick=${() => act('clear')}>${t('alerts.clear')}</button>`}
        ${data.state === 'cleared' && note !== null && html`<button type="button" onClick=${() => act('clear')}>${t('action.save')}</button>`}
      </footer>`}
  <//>`;
}

/** @param {{ sensor: string, saw: api.Saw }} props */
function Reason({ sensor, saw }) {
  const text = (/** @type {number} */ value) => measured(value, unitOf(sensor, saw.value));
  return html`${labelOf(sensor, saw.value)}: <b>${text(saw.observed)}</b>
    ${saw.other !== null && html` ${t('alerts.against', { value: text(saw.other) })}`}
    ${saw.then && html` ${t('alerts.after', { value: text(saw.then.observed) })} <${Time} at=${saw.then.time} form="full" />`}
    ${saw.held && html` ${t('alerts.held')}`}`;
}

/** @param {{ alert: api.AlertDetail }} props */
function Readings({ alert }) {
  if (alert.readings.length === 0) return null;
  const names = numbersOf(alert.sensor, alert.values).map(([name]) => name);
  return html`<div class="scroll short" tabindex="0" role="region" aria-label=${t('overview.readings')}>
    <table class="dense" data-test="why-readings">
      <thead><tr><th>${t('alerts.time')}</th>${names.map((name) => html`<th class="num">${labelOf(alert.sensor, name)}</th>`)}</tr></thead>
      <tbody>${[...alert.readings].reverse().map((reading) => html`<tr><td><${Time} at=${reading.time} form="full" /></td>${names.map((name) => html`<td class="num">${typeof reading.values[name] === 'number' ? measured(reading.values[name], unitOf(alert.sensor, name)) : '–'}</td>`)}</tr>`)}</tbody>
    </table>
  </div>`;
}

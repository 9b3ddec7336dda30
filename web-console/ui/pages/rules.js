import { html, useEffect, useState } from 'preact';
import * as api from '../api.js';
import { catalog, fetchCatalog, labelOf, numbersOf, unitOf } from '../catalog.js';
import { t } from '../i18n.js';
import { Confirm } from '../parts/dialog.js';
import { measured, Time } from '../parts/format.js';
import { Icon } from '../parts/icons.js';
import { useLoad, usePages } from '../parts/load.js';
import { complain, Empty, Failed, Loading, toast } from '../parts/notices.js';
import { Tabs } from '../parts/tabs.js';
import { go, route } from '../router.js';
import { Endpoints, useEndpointNames } from './endpoints.js';
import { Messages } from './messages.js';
import { RuleForm } from './rule-form.js';
import { sentence } from './rule-sentence.js';

/** @typedef {api.Rule} Rule */

export default function RulesPage() {
  useEffect(() => void fetchCatalog().catch(complain), []);
  const part = route.value.parts[1] ?? '';
  if (!['', 'alerts', 'messages', 'endpoints'].includes(part)) return html`<${RuleForm} key=${part} id=${part === 'new' ? null : part} />`;
  return html`<div class="page">
    <header class="head">
      <h1>${t('nav.rules')}</h1>
      <a class="button primary" href="#/rules/new" data-test="rule-new"><${Icon} name="plus" />${t('rules.new')}</a>
    </header>
    <${Tabs} label=${t('nav.rules')} tabs=${[
      { path: '/rules', text: t('nav.rules'), test: 'tab-rules' },
      { path: '/rules/alerts', text: t('alerts.title'), test: 'tab-alerts' },
      { path: '/rules/messages', text: t('messages.title'), test: 'tab-messages' },
      { path: '/rules/endpoints', text: t('endpoints.title'), test: 'tab-endpoints' },
    ]} />
    ${part === '' && html`<${RuleList} />`}
    ${part === 'alerts' && html`<${Alerts} />`}
    ${part === 'messages' && html`<${Messages} />`}
    ${part === 'endpoints' && html`<${Endpoints} />`}
  </div>`;
}

function RuleList() {
  const { data, error, again } = useLoad(() => api.all(api.rules), []);
  const nameOf = useEndpointNames();
  const [removing, setRemoving] = useState(/** @type {Rule | null} */ (null));
  void catalog.value;
  if (!data) return error ? html`<${Failed} error=${error} retry=${again} />` : html`<${Loading} />`;
  if (data.length === 0) {
    return html`<${Empty} title=${t('rules.none')} text=${t('rules.none-text')}><a class="button primary" href="#/rules/new">${t('rules.new')}</a><//>`;
  }
  const enable = async (/** @type {Rule} */ rule) => {
    try {
      await api.changeRule(rule.id, { enabled: !rule.enabled });
      toast(rule.enabled ? t('rules.is-off', { name: rule.name }) : t('rules.is-on', { name: rule.name }));
    } catch (problem) {
      complain(problem);
    }
    await again();
  };
  return html`<ul class="cards" data-test="rules-list">
    ${data.map(
      (rule) => html`<li key=${rule.id} class=${rule.enabled ? '' : 'off'} data-test=${`rule-item-${rule.name}`}>
        <button type="button" role="switch" class="switch" aria-checked=${rule.enabled} aria-label=${t('rules.enabled', { name: rule.name })} onClick=${() => enable(rule)}></button>
        <div class="text">
          <h2><a href=${`#/rules/${encodeURIComponent(rule.id)}`}>${rule.name}</a></h2>
          <p>${sentence(rule, nameOf)}</p>
        </div>
        <div class="row">
          <a class="icon" role="button" href=${`#/rules/${encodeURIComponent(rule.id)}`} aria-label=${t('rules.edit', { name: rule.name })} title=${t('action.edit')}><${Icon} name="edit" /></a>
          <button type="button" class="icon" aria-label=${t('rules.delete', { name: rule.name })} title=${t('action.delete')} data-test="rule-delete" onClick=${() => setRemoving(rule)}><${Icon} name="trash" /></button>
        </div>
      </li>`,
    )}
  </ul>
  ${removing &&
  html`<${Confirm}
    title=${t('rules.delete', { name: removing.name })}
    text=${t('rules.delete-text')}
    action=${t('action.delete')}
    onClose=${() => setRemoving(null)}
    run=${async () => {
      await api.deleteRule(removing.id);
      toast(t('rules.deleted', { name: removing.name }));
      await again();
    }} />`}`;
}

function Alerts() {
  const { items, next, error, busy, more, again } = usePages(api.alerts, 50);
  const [fresh, setFresh] = useState(0);
  void catalog.value;
  useEffect(() => api.events('alerts', { onEvent: () => setFresh((count) => count + 1) }), []);
  const refresh = () => {
    setFresh(0);
    again();
  };
  if (!items) return error ? html`<${Failed} error=${error} retry=${again} />` : html`<${Loading} />`;
  if (items.length === 0 && fresh === 0) return html`<${Empty} title=${t('alerts.none')} text=${t('alerts.none-text')} />`;
  return html`${error && html`<${Failed} error=${error} retry=${again} />`}
    ${fresh > 0 && html`<p><button type="button" onClick=${refresh} data-test="alerts-fresh">${t('alerts.fresh', { count: fresh })}</button></p>`}
    <div class="scroll" tabindex="0" role="region" aria-label=${t('alerts.title')}>
      <table data-test="alerts-list">
        <thead><tr><th>${t('alerts.raised')}</th><th>${t('alerts.rule')}</th><th>${t('alerts.device')}</th><th>${t('alerts.values')}</th><th>${t('alerts.time')}</th></tr></thead>
        <tbody>
          ${items.map(
            (alert) => html`<tr key=${alert.id}>
              <td><${Time} at=${alert.raised} form="ago" /></td>
              <td><a href=${`#/rules/${encodeURIComponent(alert.rule)}`}>${alert.rule_name}</a></td>
              <td><a href=${`#/map?device=${encodeURIComponent(alert.device)}`}>${alert.device}</a></td>
              <td><${Values} sensor=${alert.sensor} values=${alert.values} /></td>
              <td><${Time} at=${alert.time} /></td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
    ${next && html`<p><button type="button" disabled=${busy} onClick=${more}>${t('action.more')}</button></p>`}`;
}

/** @param {{ sensor: string, values: api.Values }} props */
export function Values({ sensor, values }) {
  return html`<ul class="values">${numbersOf(sensor, values).map(([name, value]) => html`<li><span>${labelOf(sensor, name)}</span> <b>${measured(value, unitOf(sensor, name))}</b></li>`)}</ul>`;
}

/** Back to the list, from the form. */
export const leaveForm = () => go('/rules');

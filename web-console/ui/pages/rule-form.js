import { h, html, useEffect, useMemo, useState } from 'preact';
import { account } from '../account.js';
import * as api from '../api.js';
import { catalog, labelOf, unitOf } from '../catalog.js';
import { t } from '../i18n.js';
import { beat, fetchDevices, newestOf } from '../live.js';
import { Bars } from '../parts/chart.js';
import { checkedOf, Field, Form, optionalNumber, textOf } from '../parts/form.js';
import { measured, moment, number, Time } from '../parts/format.js';
import { Icon } from '../parts/icons.js';
import { useLoad } from '../parts/load.js';
import { Empty, Failed, Loading, reason, toast } from '../parts/notices.js';
import { go, route } from '../router.js';
import { sentence } from './rule-sentence.js';

/** @typedef {{ min: string, max: string }} RangeDraft */
/** @typedef {{ value: string, ranges: RangeDraft[] }} ConditionDraft */
/** @typedef {{ name: string, sensor: string, device: string, enabled: boolean, conditions: ConditionDraft[], window: { on: boolean, from: string, to: string, zone: string }, cooldown: string, email: string, endpoints: string[] }} Draft */

const zoneHere = Intl.DateTimeFormat().resolvedOptions().timeZone || 'UTC';
const zones = Intl.supportedValuesOf('timeZone');
const COOLDOWNS = [0, 60, 180, 600, 1800, 3600, 21600, 86400];

/** @param {URLSearchParams} query @returns {Draft} */
function blank(query) {
  return {
    name: '',
    sensor: query.get('sensor') ?? '',
    device: query.get('device') ?? '',
    enabled: true,
    conditions: [{ value: query.get('value') ?? '', ranges: [{ min: '', max: '' }] }],
    window: { on: false, from: '22:00', to: '06:00', zone: zoneHere },
    cooldown: '180',
    email: account.peek()?.email ?? '',
    endpoints: [],
  };
}

/** @param {api.Rule} rule @returns {Draft} */
function draftOf(rule) {
  return {
    name: rule.name,
    sensor: rule.sensor,
    device: rule.device ?? '',
    enabled: rule.enabled,
    conditions: rule.conditions.map(({ value, ranges }) => ({
      value,
      ranges: ranges.map(({ min, max }) => ({ min: min === null || min === undefined ? '' : String(min), max: max === null || max === undefined ? '' : String(max) })),
    })),
    window: rule.window ? { on: true, ...rule.window } : { on: false, from: '22:00', to: '06:00', zone: zoneHere },
    cooldown: String(rule.cooldown_seconds),
    email: rule.actions.flatMap((action) => (action.type === 'email' ? [action.to] : [])).join(', '),
    endpoints: rule.actions.flatMap((action) => (action.type === 'endpoint' ? [action.endpoint] : [])),
  };
}

/** @param {Draft} draft @returns {api.RuleBody} */
function bodyOf(draft) {
  return {
    name: draft.name.trim(),
    sensor: draft.sensor,
    device: draft.device || null,
    enabled: draft.enabled,
    conditions: draft.conditions.map(({ value, ranges }) => ({
      value,
      ranges: ranges.map(({ min, max }) => ({ min: optionalNumber(min), max: optionalNumber(max) })),
    })),
    window: draft.window.on ? { from: draft.window.from, to: draft.window.to, zone: draft.window.zone } : null,
    cooldown_seconds: Math.max(0, Math.round(Number(draft.cooldown) || 0)),
    actions: [
      ...draft.email
        .split(/[,;\s]+/)
        .filter(Boolean)
        .map((to) => /** @type {api.Action} */ ({ type: 'email', to })),
      ...draft.endpoints.map((endpoint) => /** @type {api.Action} */ ({ type: 'endpoint', endpoint })),
    ],
  };
}

/** What keeps the draft from being a rule. @param {Draft} draft */
function lacking(draft) {
  if (!draft.sensor) return t('rule.lacks-sensor');
  for (const condition of draft.conditions) {
    if (!condition.value) return t('rule.lacks-value');
    for (const { min, max } of condition.ranges) {
      const [low, high] = [optionalNumber(min), optionalNumber(max)];
      if (low === null && high === null) return t('rule.lacks-range', { value: labelOf(draft.sensor, condition.value) });
      if (low !== null && high !== null && low >= high) return t('rule.bad-range', { value: labelOf(draft.sensor, condition.value) });
    }
  }
  return null;
}

/** @param {{ id: string | null }} props */
export function RuleForm({ id }) {
  const loaded = useLoad(async () => (id === null ? blank(route.peek().query) : draftOf(await api.rule(id))), [id]);
  if (loaded.error) return html`<div class="page"><${Failed} error=${loaded.error} retry=${loaded.again} /></div>`;
  if (!loaded.data || !catalog.value) return html`<div class="page"><${Loading} /></div>`;
  if (catalog.value.length === 0) {
    return html`<div class="page"><${Empty} title=${t('rule.no-sensors')} text=${t('rule.no-sensors-text')}><a class="button" href="#/devices">${t('nav.devices')}</a><//></div>`;
  }
  return h(Editor, { id, first: loaded.data });
}

/** @param {{ id: string | null, first: Draft }} props */
function Editor({ id, first }) {
  const [draft, setDraft] = useState(() => complete(first));
  const change = (/** @type {Partial<Draft>} */ part) => setDraft((before) => ({ ...before, ...part }));
  const devices = useLoad(fetchDevices, []);
  const problem = lacking(draft);
  const body = bodyOf(draft);
  const save = async () => {
    if (problem) throw new Error(problem);
    if (body.actions.length === 0) throw new Error(t('rule.lacks-email'));
    if (id === null) await api.createRule(body);
    else await api.changeRule(id, body);
    toast(t('rule.saved', { name: body.name }));
    go('/rules');
  };
  return html`<div class="page rule">
    <header class="head">
      <a class="icon" href="#/rules" aria-label=${t('rule.back')}><${Icon} name="back" /></a>
      <h1>${id === null ? t('rules.new') : draft.name}</h1>
    </header>
    <div class="columns">
      <div class="card form">
        ${h(Form, {
          send: save,
          action: id === null ? t('rule.create') : t('action.save'),
          onCancel: () => go('/rules'),
          test: 'rule-save',
          errorTest: 'rule-error',
          children: html`<${What} draft=${draft} change=${change} devices=${devices.data ?? []} /><${When} draft=${draft} change=${change} /><${Then} draft=${draft} change=${change} />`,
        })}
      </div>
      <div class="stack">
        <section class="card sentence" aria-live="polite">
          <header><h2>${t('rule.in-words')}</h2></header>
          <p data-test="rule-sentence">${problem ?? sentence(body)}</p>
        </section>
        <${DryRun} body=${body} problem=${problem} />
      </div>
    </div>
  </div>`;
}

/** Fills in what there is only one choice for. @param {Draft} draft @returns {Draft} */
function complete(draft) {
  const sensors = catalog.peek() ?? [];
  const sensor = sensors.some((one) => one.name === draft.sensor) ? draft.sensor : (sensors[0]?.name ?? '');
  const values = sensors.find((one) => one.name === sensor)?.values ?? [];
  const conditions = draft.conditions.map((condition) => ({ ...condition, value: condition.value || (values[0]?.name ?? '') }));
  return { ...draft, sensor, conditions };
}

/** @typedef {{ draft: Draft, change: (part: Partial<Draft>) => void }} PartProps */

/** @param {PartProps & { devices: api.Device[] }} props */
function What({ draft, change, devices }) {
  const sensors = catalog.value ?? [];
  const chooseSensor = (/** @type {string} */ sensor) => {
    const value = sensors.find((one) => one.name === sensor)?.values[0]?.name ?? '';
    change({ sensor, conditions: [{ value, ranges: [{ min: '', max: '' }] }] });
  };
  return html`<fieldset>
    <legend>${t('rule.what')}</legend>
    ${h(Field, {
      label: t('rule.name'),
      input: (id) => html`<input id=${id} required maxlength="120" data-test="rule-name" placeholder=${t('rule.name-example')} value=${draft.name} onInput=${(/** @type {Event} */ event) => change({ name: textOf(event) })} />`,
    })}
    <div class="pair">
      ${h(Field, {
        label: t('rule.sensor'),
        input: (id) => html`<select id=${id} data-test="rule-sensor" value=${draft.sensor} onChange=${(/** @type {Event} */ event) => chooseSensor(textOf(event))}>
          ${sensors.map((sensor) => html`<option value=${sensor.name}>${sensor.name}</option>`)}
        </select>`,
      })}
      ${h(Field, {
        label: t('rule.device'),
        input: (id) => html`<select id=${id} data-test="rule-device" value=${draft.device} onChange=${(/** @type {Event} */ event) => change({ device: textOf(event) })}>
          <option value="">${t('rule.all-devices')}</option>
          ${devices.filter((device) => device.sensors.includes(draft.sensor) || device.name === draft.device).map((device) => html`<option value=${device.name}>${device.label ? `${device.name} · ${device.label}` : device.name}</option>`)}
        </select>`,
      })}
    </div>
  </fieldset>
  <fieldset>
    <legend>${t('rule.condition')}</legend>
    ${draft.conditions.map((condition, i) => html`<${ConditionRow} key=${i} draft=${draft} change=${change} place=${i} condition=${condition} />`)}
    <button type="button" class="quiet" data-test="rule-and" onClick=${() => change({ conditions: [...draft.conditions, { value: sensors.find((one) => one.name === draft.sensor)?.values[0]?.name ?? '', ranges: [{ min: '', max: '' }] }] })}><${Icon} name="plus" />${t('rule.and')}</button>
  </fieldset>`;
}

/** @param {PartProps & { place: number, condition: ConditionDraft }} props */
function ConditionRow({ draft, change, place, condition }) {
  const values = catalog.value?.find((one) => one.name === draft.sensor)?.values ?? [];
  const unit = unitOf(draft.sensor, condition.value);
  const put = (/** @type {ConditionDraft} */ next) => change({ conditions: draft.conditions.map((one, i) => (i === place ? next : one)) });
  const putRange = (/** @type {number} */ at, /** @type {Partial<RangeDraft>} */ part) => put({ ...condition, ranges: condition.ranges.map((range, i) => (i === at ? { ...range, ...part } : range)) });
  const only = place === 0;
  return html`<div class="condition">
    ${!only && html`<p class="joint">${t('rule.and-joint')}</p>`}
    <div class="line">
      <select aria-label=${t('rule.value')} data-test=${only ? 'rule-value' : `rule-value-${place}`} value=${condition.value} onChange=${(/** @type {Event} */ event) => put({ ...condition, value: textOf(event) })}>
        ${values.map((value) => html`<option value=${value.name}>${value.label ? `${value.label} (${value.name})` : value.name}</option>`)}
      </select>
      ${!only && html`<button type="button" class="icon" aria-label=${t('rule.remove-condition')} onClick=${() => change({ conditions: draft.conditions.filter((_, i) => i !== place) })}><${Icon} name="trash" /></button>`}
    </div>
    ${condition.ranges.map((range, i) => {
      const main = only && i === 0;
      return html`<div class="line range" key=${i}>
        <span class="word">${i === 0 ? t('rule.is') : t('rule.or-is')}</span>
        <label><span>${t('rule.min')}</span><input inputmode="decimal" type="number" step="any" data-test=${main ? 'rule-min' : `rule-min-${place}-${i}`} value=${range.min} onInput=${(/** @type {Event} */ event) => putRange(i, { min: textOf(event) })} /></label>
        <label><span>${t('rule.max')}</span><input inputmode="decimal" type="number" step="any" data-test=${main ? 'rule-max' : `rule-max-${place}-${i}`} value=${range.max} onInput=${(/** @type {Event} */ event) => putRange(i, { max: textOf(event) })} /></label>
        <span class="faint unit">${unit}</span>
        ${condition.ranges.length > 1 && html`<button type="button" class="icon" aria-label=${t('rule.remove-range')} onClick=${() => put({ ...condition, ranges: condition.ranges.filter((_, at) => at !== i) })}><${Icon} name="close" /></button>`}
      </div>`;
    })}
    <div class="line">
      <button type="button" class="quiet" onClick=${() => put({ ...condition, ranges: [...condition.ranges, { min: '', max: '' }] })}><${Icon} name="plus" />${t('rule.or')}</button>
      <${Now} sensor=${draft.sensor} value=${condition.value} />
    </div>
  </div>`;
}

/** What the value is at the moment, for a feeling of what to write. @param {{ sensor: string, value: string }} props */
function Now({ sensor, value }) {
  void beat.value;
  const { data } = useLoad(fetchDevices, []);
  const texts = (data ?? []).slice(0, 4).flatMap((device) => {
    const number = newestOf(device.name).get(sensor)?.values[value];
    return number === null || number === undefined ? [] : [`${device.name} ${measured(number, unitOf(sensor, value))}`];
  });
  if (texts.length === 0) return null;
  return html`<span class="faint small now">${t('rule.now', { values: texts.join(' · ') })}</span>`;
}

/** @param {PartProps} props */
function When({ draft, change }) {
  const { window } = draft;
  const put = (/** @type {Partial<Draft['window']>} */ part) => change({ window: { ...window, ...part } });
  return html`<fieldset>
    <legend>${t('rule.when')}</legend>
    <label class="check"><input type="checkbox" data-test="rule-window" checked=${window.on} onChange=${(/** @type {Event} */ event) => put({ on: checkedOf(event) })} />${t('rule.window')}</label>
    ${window.on &&
    html`<div class="triple">
      ${h(Field, { label: t('rule.from'), input: (id) => html`<input id=${id} type="time" required data-test="rule-from" value=${window.from} onInput=${(/** @type {Event} */ event) => put({ from: textOf(event) })} />` })}
      ${h(Field, { label: t('rule.to'), input: (id) => html`<input id=${id} type="time" required data-test="rule-to" value=${window.to} onInput=${(/** @type {Event} */ event) => put({ to: textOf(event) })} />` })}
      ${h(Field, {
        label: t('rule.zone'),
        input: (id) => html`<input id=${id} list="zones" required data-test="rule-zone" value=${window.zone} onInput=${(/** @type {Event} */ event) => put({ zone: textOf(event) })} />
          <datalist id="zones">${zones.map((zone) => html`<option value=${zone} />`)}</datalist>`,
      })}
    </div>
    ${window.from > window.to && html`<p class="hint">${t('rule.midnight')}</p>`}`}
  </fieldset>`;
}

/** @param {PartProps} props */
function Then({ draft, change }) {
  const endpoints = useLoad(() => api.all(api.endpoints), []).data ?? [];
  /** @type {Record<number, string>} */
  const texts = {
    0: t('cooldown.0'),
    60: t('cooldown.60'),
    180: t('cooldown.180'),
    600: t('cooldown.600'),
    1800: t('cooldown.1800'),
    3600: t('cooldown.3600'),
    21600: t('cooldown.21600'),
    86400: t('cooldown.86400'),
  };
  const known = COOLDOWNS.includes(Number(draft.cooldown));
  return html`<fieldset>
    <legend>${t('rule.then')}</legend>
    ${h(Field, {
      label: t('rule.email'),
      hint: t('rule.email-hint'),
      input: (id, note) => html`<input id=${id} aria-describedby=${note} type="email" multiple required=${draft.endpoints.length === 0} data-test="rule-email" value=${draft.email} onInput=${(/** @type {Event} */ event) => change({ email: textOf(event) })} />`,
    })}
    ${endpoints.length > 0 &&
    html`<div class="field" role="group" aria-label=${t('rule.endpoints')}>
      <span class="label">${t('rule.endpoints')}</span>
      ${endpoints.map((endpoint) => html`<label class="check"><input type="checkbox" data-test=${`rule-endpoint-${endpoint.name}`} checked=${draft.endpoints.includes(endpoint.id)} onChange=${(/** @type {Event} */ event) => change({ endpoints: checkedOf(event) ? [...draft.endpoints, endpoint.id] : draft.endpoints.filter((id) => id !== endpoint.id) })} />${endpoint.name}</label>`)}
    </div>`}
    ${h(Field, {
      label: t('rule.cooldown'),
      hint: t('rule.cooldown-hint'),
      input: (id, note) => html`<select id=${id} aria-describedby=${note} data-test="rule-cooldown" value=${draft.cooldown} onChange=${(/** @type {Event} */ event) => change({ cooldown: textOf(event) })}>
        ${COOLDOWNS.map((seconds) => html`<option value=${String(seconds)}>${texts[seconds]}</option>`)}
        ${!known && html`<option value=${draft.cooldown}>${t('cooldown.other', { seconds: draft.cooldown })}</option>`}
      </select>`,
    })}
  </fieldset>`;
}

const DAY_MS = 86400000;

/** @param {{ body: api.RuleBody, problem: string | null }} props */
function DryRun({ body, problem }) {
  const [days, setDays] = useState('30');
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(/** @type {unknown} */ (null));
  const [result, setResult] = useState(/** @type {{ run: api.DryRun, from: number, to: number, of: string } | null} */ (null));
  const key = useMemo(() => JSON.stringify({ ...body, name: '', actions: [] }), [body]);
  useEffect(() => setError(null), [key]);
  const run = async () => {
    setBusy(true);
    setError(null);
    try {
      const to = Math.max(Date.now(), newestTime()) + 1;
      const from = to - Number(days) * DAY_MS;
      // A draft has neither name nor receiver yet, and neither matters here.
      const rule = { ...body, name: body.name || t('rules.new') };
      const answer = await api.dryRun({ rule, from: new Date(from).toISOString(), to: new Date(to).toISOString() });
      setResult({ run: answer, from, to, of: key });
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  };
  return html`<section class="card dry-run" aria-labelledby="dry-run">
    <header><h2 id="dry-run">${t('dry-run.title')}</h2></header>
    <p class="faint small">${t('dry-run.text')}</p>
    <div class="line">
      <select aria-label=${t('dry-run.span')} data-test="dry-run-span" value=${days} onChange=${(/** @type {Event} */ event) => setDays(textOf(event))}>
        <option value="1">${t('dry-run.1')}</option>
        <option value="7">${t('dry-run.7')}</option>
        <option value="30">${t('dry-run.30')}</option>
        <option value="366">${t('dry-run.366')}</option>
      </select>
      <button type="button" disabled=${busy || problem !== null} data-test="rule-dry-run" onClick=${run}><${Icon} name="play" />${busy ? t('state.working') : t('dry-run.run')}</button>
    </div>
    ${problem && html`<p class="hint">${problem}</p>`}
    ${error && html`<div class="notice bad" role="alert" data-test="dry-run-error"><p>${reason(error)}</p></div>`}
    ${result && html`<${DryRunResult} ...${result} stale=${result.of !== key} sensor=${body.sensor} values=${body.conditions.map((one) => one.value)} />`}
  </section>`;
}

/** The replay of a sample may be ahead of the clock. */
function newestTime() {
  let newest = 0;
  for (const device of deviceNames()) for (const reading of newestOf(device).values()) newest = Math.max(newest, moment(reading.time) || 0);
  return newest;
}

const deviceNames = () => [...document.querySelectorAll('[data-test="rule-device"] option')].map((option) => /** @type {HTMLOptionElement} */ (option).value).filter(Boolean);

const LIST_MAX = 100;

/** @param {{ run: api.DryRun, from: number, to: number, stale: boolean, sensor: string, values: string[] }} props */
function DryRunResult({ run, from, to, stale, sensor, values }) {
  const times = run.alerts.map((alert) => moment(alert.time));
  const count = run.truncated ? t('dry-run.over', { count: number(run.alerts.length) }) : number(run.alerts.length);
  return html`<div class=${stale ? 'result stale' : 'result'} role="status">
    <p class="figure" data-test="dry-run-alerts" data-count=${run.alerts.length}><strong>${count}</strong> ${t('dry-run.alerts')}</p>
    <p class="faint small" data-test="dry-run-facts" data-readings=${run.readings} data-matches=${run.matches}>${t('dry-run.facts', { readings: number(run.readings), matches: number(run.matches) })}</p>
    ${stale && html`<p class="hint">${t('dry-run.stale')}</p>`}
    ${times.length > 0 && html`<${Bars} times=${times} from=${from} to=${to} label=${t('dry-run.chart', { count: times.length })} />`}
    ${run.alerts.length > 0 &&
    html`<div class="scroll short" tabindex="0" role="region" aria-label=${t('dry-run.list')}>
      <table class="dense">
        <thead><tr><th>${t('alerts.time')}</th><th>${t('alerts.device')}</th>${values.map((value) => html`<th class="num">${labelOf(sensor, value)}</th>`)}</tr></thead>
        <tbody>
          ${run.alerts.slice(0, LIST_MAX).map(
            (alert) => html`<tr><td><${Time} at=${alert.time} /></td><td>${alert.device}</td>${values.map((value) => html`<td class="num">${typeof alert.values[value] === 'number' ? measured(alert.values[value], unitOf(sensor, value)) : '–'}</td>`)}</tr>`,
          )}
        </tbody>
      </table>
    </div>
    ${run.alerts.length > LIST_MAX && html`<p class="faint small">${t('dry-run.first', { count: LIST_MAX })}</p>`}`}
  </div>`;
}

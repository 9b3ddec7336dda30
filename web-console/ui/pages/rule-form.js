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
import { CommandPick } from './device-deeds.js';
import { comparisons, DAYS, dayText, deedText, directions, sentence } from './rule-sentence.js';

/** @typedef {{ min: string, max: string }} RangeDraft */
/** @typedef {'range' | 'compare' | 'change'} Kind */
/** @typedef {{ value: string, kind: Kind, ranges: RangeDraft[], hold: RangeDraft | null, compare: { is: string, value: string, plus: string }, change: { by: string, minutes: string, direction: string } }} ConditionDraft */
/** @typedef {{ on: boolean, outside: boolean, latitude: string, longitude: string, metres: string, other: api.Area | null }} AreaDraft `other`: of a shape that this form cannot draw */
/** @typedef {{ name: string, sensor: string, device: string, tags: string, groups: string, area: AreaDraft, enabled: boolean, conditions: ConditionDraft[], window: { on: boolean, from: string, to: string, zone: string, days: string[] }, minutes: string, once: boolean, cooldown: string, email: string, endpoints: string[], deeds: Deeds, escalate: string, escalateTo: string, escalateMore: api.Action[] }} Draft */
/** @typedef {Extract<api.Action, { type: 'actuator' }>[]} Deeds */

const zoneHere = Intl.DateTimeFormat().resolvedOptions().timeZone || 'UTC';
const zones = Intl.supportedValuesOf('timeZone');
const COOLDOWNS = [0, 60, 180, 600, 1800, 3600, 21600, 86400];

const WINDOW = { on: false, from: '22:00', to: '06:00', zone: zoneHere, days: /** @type {string[]} */ ([]) };
/** @type {AreaDraft} */
const NOWHERE = { on: false, outside: false, latitude: '', longitude: '', metres: '1000', other: null };

/** @param {string} value @returns {ConditionDraft} */
const condition = (value) => ({ value, kind: 'range', ranges: [{ min: '', max: '' }], hold: null, compare: { is: 'above', value: '', plus: '0' }, change: { by: '', minutes: '10', direction: 'either' } });

/** @param {URLSearchParams} query @returns {Draft} */
function blank(query) {
  return {
    name: '',
    sensor: query.get('sensor') ?? '',
    device: query.get('device') ?? '',
    tags: '',
    groups: '',
    area: NOWHERE,
    enabled: true,
    conditions: [condition(query.get('value') ?? '')],
    window: WINDOW,
    minutes: '0',
    once: false,
    cooldown: '180',
    email: account.peek()?.email ?? '',
    endpoints: [],
    deeds: [],
    escalate: '',
    escalateTo: '',
    escalateMore: [],
  };
}

/** @param {api.Range} range @returns {RangeDraft} */
const rangeDraft = ({ min, max }) => ({ min: String(min ?? ''), max: String(max ?? '') });

/** @param {api.Condition} from @returns {ConditionDraft} */
function conditionDraft({ value, ranges, hold, compare, change }) {
  const draft = condition(value);
  if (compare) return { ...draft, kind: 'compare', compare: { ...compare, plus: String(compare.plus) } };
  if (change) return { ...draft, kind: 'change', change: { by: String(change.by), minutes: String(change.within_seconds / 60), direction: change.direction } };
  return { ...draft, ranges: ranges.map(rangeDraft), hold: hold && rangeDraft(hold) };
}

/** @param {api.Area | null} area @returns {AreaDraft} */
function areaDraft(area) {
  if (!area) return NOWHERE;
  const { type, latitude, longitude, metres } = area.shape;
  if (type !== 'circle') return { ...NOWHERE, on: true, outside: area.outside, other: area };
  return { on: true, outside: area.outside, latitude: String(latitude), longitude: String(longitude), metres: String(metres), other: null };
}

/** @param {api.RuleBody} rule @returns {Draft} */
function draftOf(rule) {
  return {
    name: rule.name,
    sensor: rule.sensor,
    device: rule.device ?? '',
    tags: rule.tags.join(', '),
    groups: rule.groups.join(', '),
    area: areaDraft(rule.area),
    enabled: rule.enabled,
    conditions: rule.conditions.map(conditionDraft),
    window: rule.window ? { on: true, ...rule.window } : WINDOW,
    minutes: String(rule.for_seconds / 60),
    once: rule.once,
    cooldown: String(rule.cooldown_seconds),
    email: rule.actions.flatMap((action) => (action.type === 'email' ? [action.to] : [])).join(', '),
    endpoints: rule.actions.flatMap((action) => (action.type === 'endpoint' ? [action.endpoint] : [])),
    deeds: rule.actions.filter((action) => action.type === 'actuator'),
    escalate: rule.escalation ? String(rule.escalation.after_seconds / 60) : '',
    escalateTo: (rule.escalation?.actions ?? []).flatMap((action) => (action.type === 'email' ? [action.to] : [])).join(', '),
    escalateMore: (rule.escalation?.actions ?? []).filter((action) => action.type !== 'email'),
  };
}

/** @param {string} minutes */
const secondsOf = (minutes) => Math.max(0, Math.round((Number(minutes) || 0) * 60));

/** @param {string} text */
const listOf = (text) => text.split(',').map((one) => one.trim()).filter(Boolean);

/** @param {ConditionDraft} draft @returns {api.Condition} */
function conditionOf({ value, kind, ranges, hold, compare, change }) {
  const range = (/** @type {RangeDraft} */ { min, max }) => ({ min: optionalNumber(min), max: optionalNumber(max) });
  return {
    value,
    ranges: kind === 'range' ? ranges.map(range) : [],
    hold: kind === 'range' && hold ? range(hold) : null,
    compare: kind === 'compare' ? { ...compare, plus: optionalNumber(compare.plus) ?? 0 } : null,
    change: kind === 'change' ? { by: optionalNumber(change.by) ?? 0, within_seconds: secondsOf(change.minutes), direction: change.direction } : null,
  };
}

/** @param {AreaDraft} draft @returns {api.Area | null} */
function areaOf({ on, outside, latitude, longitude, metres, other }) {
  if (!on) return null;
  if (other) return { ...other, outside };
  return { outside, shape: { type: 'circle', latitude: optionalNumber(latitude) ?? 0, longitude: optionalNumber(longitude) ?? 0, metres: optionalNumber(metres) ?? 0 } };
}

/** @param {string} text @returns {api.Action[]} */
const mailsOf = (text) =>
  text
    .split(/[,;\s]+/)
    .filter(Boolean)
    .map((to) => ({ type: 'email', to }));

/** @param {Draft} draft @returns {api.RuleBody} */
function bodyOf(draft) {
  const { from, to, zone, days } = draft.window;
  return {
    name: draft.name.trim(),
    sensor: draft.sensor,
    device: draft.device || null,
    tags: listOf(draft.tags),
    groups: listOf(draft.groups),
    area: areaOf(draft.area),
    enabled: draft.enabled,
    conditions: draft.conditions.map(conditionOf),
    window: draft.window.on ? { from, to, zone, days } : null,
    for_seconds: secondsOf(draft.minutes),
    once: draft.once,
    cooldown_seconds: Math.max(0, Math.round(Number(draft.cooldown) || 0)),
    actions: [...mailsOf(draft.email), ...draft.endpoints.map((endpoint) => /** @type {api.Action} */ ({ type: 'endpoint', endpoint })), ...draft.deeds],
    escalation: secondsOf(draft.escalate) > 0 ? { after_seconds: secondsOf(draft.escalate), actions: [...mailsOf(draft.escalateTo), ...draft.escalateMore] } : null,
  };
}

/** What keeps the draft from being a rule. @param {Draft} draft */
function lacking(draft) {
  if (!draft.sensor) return t('rule.lacks-sensor');
  for (const condition of draft.conditions) {
    if (!condition.value) return t('rule.lacks-value');
    if (condition.kind === 'compare' && !condition.compare.value) return t('rule.lacks-other');
    if (condition.kind === 'change' && !(Number(condition.change.by) > 0 && Number(condition.change.minutes) > 0)) return t('rule.lacks-change');
    for (const { min, max } of condition.kind === 'range' ? [...condition.ranges, ...(condition.hold ? [condition.hold] : [])] : []) {
      const [low, high] = [optionalNumber(min), optionalNumber(max)];
      if (low === null && high === null) return t('rule.lacks-range', { value: labelOf(draft.sensor, condition.value) });
      if (low !== null && high !== null && low >= high) return t('rule.bad-range', { value: labelOf(draft.sensor, condition.value) });
    }
  }
  if (draft.area.on && !draft.area.other && (draft.area.latitude === '' || draft.area.longitude === '' || !(Number(draft.area.metres) > 0))) return t('rule.lacks-area');
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
        ${id !== null && h(Versions, { id, use: (text) => setDraft(draftOf(text)) })}
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
    change({ sensor, conditions: [condition(value)] });
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
    <${Which} draft=${draft} change=${change} devices=${devices} />
  </fieldset>
  <fieldset>
    <legend>${t('rule.condition')}</legend>
    ${draft.conditions.map((condition, i) => html`<${ConditionRow} key=${i} draft=${draft} change=${change} place=${i} condition=${condition} />`)}
    <button type="button" class="quiet" data-test="rule-and" onClick=${() => change({ conditions: [...draft.conditions, condition(sensors.find((one) => one.name === draft.sensor)?.values[0]?.name ?? '')] })}><${Icon} name="plus" />${t('rule.and')}</button>
    <label class="line"><span>${t('rule.lasting')}</span><input class="narrow" type="number" min="0" step="any" data-test="rule-minutes" value=${draft.minutes} onInput=${(/** @type {Event} */ event) => change({ minutes: textOf(event) })} /><span class="faint">${t('rule.minutes')}</span></label>
  </fieldset>`;
}

/** Which devices, by what people said of them. @param {PartProps & { devices: api.Device[] }} props */
function Which({ draft, change, devices }) {
  const { area } = draft;
  const put = (/** @type {Partial<AreaDraft>} */ part) => change({ area: { ...area, ...part } });
  const known = (/** @type {string[]} */ names) => [...new Set(names)].sort().map((name) => html`<option value=${name} />`);
  const place = (/** @type {'latitude' | 'longitude' | 'metres'} */ name, /** @type {string} */ label) =>
    h(Field, { label, input: (id) => html`<input id=${id} type="number" step="any" data-test=${`rule-${name}`} value=${area[name]} onInput=${(/** @type {Event} */ event) => put({ [name]: textOf(event) })} />` });
  const centre = () => {
    const at = devices.find((device) => device.latitude !== null && (!draft.device || device.name === draft.device));
    return { latitude: area.latitude || String(at?.latitude ?? ''), longitude: area.longitude || String(at?.longitude ?? '') };
  };
  return html`<details open=${draft.tags !== '' || draft.groups !== '' || area.on}><summary data-test="rule-which">${t('rule.which')}</summary>
    <div class="stack">
      <div class="pair">
        ${h(Field, { label: t('devices.tags'), hint: t('rule.any-of'), input: (id, note) => html`<input id=${id} aria-describedby=${note} list="tags" data-test="rule-tags" value=${draft.tags} onInput=${(/** @type {Event} */ event) => change({ tags: textOf(event) })} /><datalist id="tags">${known(devices.flatMap((device) => device.tags ?? []))}</datalist>` })}
        ${h(Field, { label: t('devices.group'), hint: t('rule.any-of'), input: (id, note) => html`<input id=${id} aria-describedby=${note} list="groups" data-test="rule-groups" value=${draft.groups} onInput=${(/** @type {Event} */ event) => change({ groups: textOf(event) })} /><datalist id="groups">${known(devices.flatMap((device) => device.group ?? []))}</datalist>` })}
      </div>
      <div class="line">
        <label class="check"><input type="checkbox" data-test="rule-area" checked=${area.on} onChange=${(/** @type {Event} */ event) => put({ on: checkedOf(event), ...centre() })} />${t('rule.area')}</label>
        ${area.on &&
        html`<select aria-label=${t('rule.area')} value=${String(area.outside)} data-test="rule-outside" onChange=${(/** @type {Event} */ event) => put({ outside: textOf(event) === 'true' })}>
          <option value="false">${t('rule.inside')}</option><option value="true">${t('rule.outside')}</option>
        </select>`}
      </div>
      ${area.on && (area.other ? html`<p class="hint">${t('rule.area-other', { shape: area.other.shape.type })}</p>` : html`<div class="triple">${place('latitude', t('devices.latitude'))}${place('longitude', t('devices.longitude'))}${place('metres', t('rule.metres'))}</div><p class="hint">${t('rule.area-hint')}</p>`)}
    </div>
  </details>`;
}

/** @param {PartProps & { place: number, condition: ConditionDraft }} props */
function ConditionRow({ draft, change, place, condition }) {
  const values = catalog.value?.find((one) => one.name === draft.sensor)?.values ?? [];
  const unit = unitOf(draft.sensor, condition.value);
  const put = (/** @type {ConditionDraft} */ next) => change({ conditions: draft.conditions.map((one, i) => (i === place ? next : one)) });
  const only = place === 0;
  const kinds = { range: t('rule.kind-range'), compare: t('rule.kind-compare'), change: t('rule.kind-change') };
  return html`<div class="condition">
    ${!only && html`<p class="joint">${t('rule.and-joint')}</p>`}
    <div class="line">
      <select aria-label=${t('rule.value')} data-test=${only ? 'rule-value' : `rule-value-${place}`} value=${condition.value} onChange=${(/** @type {Event} */ event) => put({ ...condition, value: textOf(event) })}>
        ${values.map((value) => html`<option value=${value.name}>${value.label ? `${value.label} (${value.name})` : value.name}</option>`)}
      </select>
      ${!only && html`<button type="button" class="icon" aria-label=${t('rule.remove-condition')} onClick=${() => change({ conditions: draft.conditions.filter((_, i) => i !== place) })}><${Icon} name="trash" /></button>`}
    </div>
    <div class="segments" role="group" aria-label=${t('rule.condition')}>
      ${Object.entries(kinds).map(([kind, text]) => html`<button type="button" aria-pressed=${condition.kind === kind} data-test=${`rule-kind-${kind}${only ? '' : `-${place}`}`} onClick=${() => put({ ...condition, kind: /** @type {Kind} */ (kind) })}>${text}</button>`)}
    </div>
    ${condition.kind === 'range' && html`<${Ranges} only=${only} place=${place} condition=${condition} put=${put} unit=${unit} />`}
    ${condition.kind === 'compare' && html`<${Compare} values=${values} condition=${condition} put=${put} unit=${unit} />`}
    ${condition.kind === 'change' && html`<${Change} condition=${condition} put=${put} unit=${unit} />`}
    <div class="line">
      ${condition.kind === 'range' && html`<button type="button" class="quiet" onClick=${() => put({ ...condition, ranges: [...condition.ranges, { min: '', max: '' }] })}><${Icon} name="plus" />${t('rule.or')}</button>`}
      <${Now} sensor=${draft.sensor} value=${condition.value} />
    </div>
  </div>`;
}

/** @typedef {{ condition: ConditionDraft, put: (next: ConditionDraft) => void, unit: string | null }} OneProps */

/** @param {OneProps & { only: boolean, place: number }} props */
function Ranges({ only, place, condition, put, unit }) {
  const { ranges, hold } = condition;
  const putRange = (/** @type {number} */ at, /** @type {Partial<RangeDraft>} */ part) => put({ ...condition, ranges: ranges.map((range, i) => (i === at ? { ...range, ...part } : range)) });
  const row = (/** @type {RangeDraft} */ range, /** @type {string} */ word, /** @type {string} */ end, /** @type {(part: Partial<RangeDraft>) => void} */ set, /** @type {unknown} */ more) => html`<div class="line range">
    <span class="word">${word}</span>
    <label><span>${t('rule.min')}</span><input inputmode="decimal" type="number" step="any" data-test=${`rule-min${end}`} value=${range.min} onInput=${(/** @type {Event} */ event) => set({ min: textOf(event) })} /></label>
    <label><span>${t('rule.max')}</span><input inputmode="decimal" type="number" step="any" data-test=${`rule-max${end}`} value=${range.max} onInput=${(/** @type {Event} */ event) => set({ max: textOf(event) })} /></label>
    <span class="faint unit">${unit}</span>
    ${more}
  </div>`;
  return html`${ranges.map((range, i) =>
      row(range, i === 0 ? t('rule.is') : t('rule.or-is'), only && i === 0 ? '' : `-${place}-${i}`, (part) => putRange(i, part), ranges.length > 1 && html`<button type="button" class="icon" aria-label=${t('rule.remove-range')} onClick=${() => put({ ...condition, ranges: ranges.filter((_, at) => at !== i) })}><${Icon} name="close" /></button>`),
    )}
    <label class="check"><input type="checkbox" data-test=${only ? 'rule-hold' : `rule-hold-${place}`} checked=${hold !== null} onChange=${(/** @type {Event} */ event) => put({ ...condition, hold: checkedOf(event) ? { ...ranges[0] } : null })} />${t('rule.hold')}</label>
    ${hold && row(hold, t('rule.is'), only ? '-hold' : `-hold-${place}`, (part) => put({ ...condition, hold: { ...hold, ...part } }), null)}`;
}

/** @param {OneProps & { values: api.SensorValue[] }} props */
function Compare({ values, condition, put, unit }) {
  const { compare } = condition;
  const set = (/** @type {Partial<ConditionDraft['compare']>} */ part) => put({ ...condition, compare: { ...compare, ...part } });
  return html`<div class="line range">
    <select aria-label=${t('rule.is')} data-test="rule-compare" value=${compare.is} onChange=${(/** @type {Event} */ event) => set({ is: textOf(event) })}>
      ${Object.entries(comparisons()).map(([is, text]) => html`<option value=${is}>${text}</option>`)}
    </select>
    <select aria-label=${t('rule.other')} data-test="rule-other" value=${compare.value} onChange=${(/** @type {Event} */ event) => set({ value: textOf(event) })}>
      <option value="">…</option>
      ${values.filter((value) => value.name !== condition.value).map((value) => html`<option value=${value.name}>${value.label || value.name}</option>`)}
    </select>
    <label><span>+</span><input class="narrow" type="number" step="any" data-test="rule-plus" value=${compare.plus} onInput=${(/** @type {Event} */ event) => set({ plus: textOf(event) })} /></label>
    <span class="faint unit">${unit}</span>
  </div>`;
}

/** @param {OneProps} props */
function Change({ condition, put, unit }) {
  const { change } = condition;
  const set = (/** @type {Partial<ConditionDraft['change']>} */ part) => put({ ...condition, change: { ...change, ...part } });
  return html`<div class="line range">
    <select aria-label=${t('rule.change')} data-test="rule-direction" value=${change.direction} onChange=${(/** @type {Event} */ event) => set({ direction: textOf(event) })}>
      ${Object.entries(directions()).map(([direction, text]) => html`<option value=${direction}>${text}</option>`)}
    </select>
    <label><span>${t('rule.by')}</span><input class="narrow" type="number" min="0" step="any" data-test="rule-by" value=${change.by} onInput=${(/** @type {Event} */ event) => set({ by: textOf(event) })} /></label>
    <span class="faint unit">${unit}</span>
    <label><span>${t('rule.within')}</span><input class="narrow" type="number" min="0" step="any" data-test="rule-within" value=${change.minutes} onInput=${(/** @type {Event} */ event) => set({ minutes: textOf(event) })} /></label>
    <span class="faint unit">${t('rule.minutes')}</span>
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

/** Every day is none of them in particular. @param {string[]} days @param {string} day */
function toggled(days, day) {
  const before = days.length === 0 ? DAYS : days;
  const next = DAYS.filter((one) => (one === day) !== before.includes(one));
  return next.length === DAYS.length ? [] : next;
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
    <div class="checks" role="group" aria-label=${t('rule.days')}>
      ${DAYS.map((day, i) => html`<label class="check"><input type="checkbox" data-test=${`rule-day-${day}`} checked=${window.days.length === 0 || window.days.includes(day)} onChange=${() => put({ days: toggled(window.days, day) })} />${dayText(i)}</label>`)}
    </div>
    ${window.from >= window.to && html`<p class="hint">${t('rule.midnight')}</p>`}`}
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
      input: (id, note) => html`<input id=${id} aria-describedby=${note} type="email" multiple required=${draft.endpoints.length + draft.deeds.length === 0} data-test="rule-email" value=${draft.email} onInput=${(/** @type {Event} */ event) => change({ email: textOf(event) })} />`,
    })}
    ${endpoints.length > 0 &&
    html`<div class="field" role="group" aria-label=${t('rule.endpoints')}>
      <span class="label">${t('rule.endpoints')}</span>
      ${endpoints.map((endpoint) => html`<label class="check"><input type="checkbox" data-test=${`rule-endpoint-${endpoint.name}`} checked=${draft.endpoints.includes(endpoint.id)} onChange=${(/** @type {Event} */ event) => change({ endpoints: checkedOf(event) ? [...draft.endpoints, endpoint.id] : draft.endpoints.filter((id) => id !== endpoint.id) })} />${endpoint.name}</label>`)}
    </div>`}
    <${Deed} draft=${draft} change=${change} />
    <div class="pair">
      ${h(Field, { label: t('rule.escalate'), input: (id) => html`<input id=${id} type="number" min="0" step="any" data-test="rule-escalate" value=${draft.escalate} onInput=${(/** @type {Event} */ event) => change({ escalate: textOf(event) })} />` })}
      ${h(Field, { label: t('rule.escalate-email'), input: (id) => html`<input id=${id} type="email" multiple required=${secondsOf(draft.escalate) > 0 && draft.escalateMore.length === 0} data-test="rule-escalate-email" value=${draft.escalateTo} onInput=${(/** @type {Event} */ event) => change({ escalateTo: textOf(event) })} />` })}
    </div>
    <label class="check"><input type="checkbox" data-test="rule-once" checked=${draft.once} onChange=${(/** @type {Event} */ event) => change({ once: checkedOf(event) })} />${t('rule.once')}</label>
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

/** Chains of commands are written by the API and kept. @param {PartProps} props */
function Deed({ draft, change }) {
  const { data } = useLoad(() => api.all(api.actuators), []);
  const [deed, ...more] = draft.deeds;
  const isPlain = !deed || (deed.steps.length === 1 && deed.device === null && more.length === 0);
  if (!data || data.length === 0 || !isPlain) return draft.deeds.length > 0 ? html`<p class="hint">${deedText(draft.deeds)}</p>` : null;
  const picked = deed ? { actuator: deed.actuator, command: deed.steps[0].command, values: deed.steps[0].values ?? {} } : null;
  return h(CommandPick, {
    actuators: data,
    picked,
    none: '–',
    test: 'rule-actuator',
    change: (next) => change({ deeds: next ? [{ type: 'actuator', device: null, actuator: next.actuator, steps: [{ command: next.command, values: next.values }], timeout_seconds: deed?.timeout_seconds ?? 30 }] : [] }),
  });
}

/** What the rule said before. @param {{ id: string, use: (text: api.RuleBody) => void }} props */
function Versions({ id, use }) {
  const { data, error, again } = useLoad(() => api.ruleVersions(id, { limit: 20 }), [id]);
  return html`<section class="card">
    <header><h2>${t('rule.versions')}</h2></header>
    ${error && html`<${Failed} error=${error} retry=${again} />`}
    <ul class="lines" data-test="rule-versions">${data?.items.map((one, i) => html`<li key=${one.version}>
      <span title=${sentence(one.rule)}><b>${one.version}</b> · ${one.author} <span class="faint small"><${Time} at=${one.time} form="ago" /></span></span>
      ${i > 0 && html`<button type="button" class="linkish" data-test="rule-version" onClick=${() => use(one.rule)}>${t('rule.use-version')}</button>`}
    </li>`)}</ul>
  </section>`;
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

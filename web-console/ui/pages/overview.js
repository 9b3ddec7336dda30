import { html, useEffect, useRef, useState } from 'preact';
import { alerts, events, overview } from '../api.js';
import { catalog, fetchCatalog, labelOf, numbersOf, unitOf } from '../catalog.js';
import { rich, t } from '../i18n.js';
import { kept } from '../kept.js';
import { beat, fetchDevices, liveState, newcomer, newestOf, rate } from '../live.js';
import { Spark } from '../parts/chart.js';
import { compact, measured, number, roughly, Time, useEvery } from '../parts/format.js';
import { Icon } from '../parts/icons.js';
import { useLoad } from '../parts/load.js';
import { Empty, Failed, Loading } from '../parts/notices.js';

const STATIONS_MAX = 12;
const ALERTS_MAX = 6;
const RATES_MAX = 60;

export default function OverviewPage() {
  const counts = useLoad(overview, []);
  const devices = useLoad(fetchDevices, [newcomer.value]);
  const newest = useLoad(() => alerts({ limit: ALERTS_MAX }), []);
  useEvery(() => void counts.again(), 5, [counts.again]);
  useEffect(() => {
    fetchCatalog().catch(() => {
      // Units are a courtesy here; the devices below say what is wrong.
    });
    return events('alerts', {
      onEvent: () => {
        newest.again();
        counts.again();
      },
    });
  }, []);
  const data = counts.data;
  if (!data) return html`<div class="page"><h1>${t('nav.overview')}</h1>${counts.error ? html`<${Failed} error=${counts.error} retry=${counts.again} />` : html`<${Loading} />`}</div>`;
  return html`<div class="page overview">
    <header class="head">
      <h1>${t('nav.overview')}</h1>
      <p class="faint small">${t('overview.running', { version: data.version, uptime: roughly(data.uptime_seconds) })}</p>
    </header>
    ${counts.error && html`<${Failed} error=${counts.error} retry=${counts.again} />`}
    ${data.messages_held > 0 && html`<${HeldNotice} count=${data.messages_held} />`}
    <${Counts} data=${data} />
    <div class="columns">
      <section class="card wide" aria-labelledby="stations">
        <header><h2 id="stations">${t('overview.stations')}</h2><a href="#/map">${t('overview.to-map')}</a></header>
        <${Stations} devices=${devices.data} error=${devices.error} retry=${devices.again} />
      </section>
      <div class="stack">
        <${Checklist} data=${data} />
        <section class="card" aria-labelledby="alerts">
          <header><h2 id="alerts">${t('overview.alerts')}</h2><a href="#/rules/alerts">${t('overview.all-alerts')}</a></header>
          <${NewestAlerts} items=${newest.data?.items} error=${newest.error} retry=${newest.again} />
        </section>
      </div>
    </div>
  </div>`;
}

/** @param {{ count: number }} props */
function HeldNotice({ count }) {
  return html`<div class="notice warn" data-test="held-notice">
    <${Icon} name="mail" />
    <p>${rich('overview.held', { count: number(count), key: html`<code>[delivery.smtp] url</code>`, file: html`<code>madang.toml</code>` })} <a href="#/rules/messages">${t('overview.read-held')}</a></p>
  </div>`;
}

/** @param {{ data: import('../api.js').Overview }} props */
function Counts({ data }) {
  const rates = useRates();
  const perSecond = liveState.value === 'live' ? rate.value : data.readings_per_second;
  return html`<dl class="counts">
    <div class="rate"><dt>${t('overview.rate')}</dt><dd data-test="count-rate">${number(perSecond, 1)}</dd><${Spark} values=${rates} label=${t('overview.rate-spark')} /></div>
    <div><dt>${t('overview.readings')}</dt><dd data-test="count-readings" title=${number(data.readings_total)}>${compact(data.readings_total)}</dd></div>
    <div><dt>${t('nav.devices')}</dt><dd data-test="count-devices"><a href="#/devices">${compact(data.devices)}</a></dd></div>
    <div><dt>${t('nav.rules')}</dt><dd data-test="count-rules"><a href="#/rules">${compact(data.rules)}</a></dd></div>
    <div><dt>${t('overview.alerts-today')}</dt><dd data-test="count-alerts"><a href="#/rules/alerts">${compact(data.alerts_today)}</a></dd></div>
    <div><dt>${t('overview.messages-held')}</dt><dd data-test="count-held"><a href="#/rules/messages">${compact(data.messages_held)}</a></dd></div>
    ${data.dead_letters > 0 && html`<div class="bad"><dt>${t('overview.dead-letters')}</dt><dd data-test="count-dead-letters"><a href="#/dead-letters">${compact(data.dead_letters)}</a></dd></div>`}
  </dl>`;
}

/** The rates of the last minute. */
function useRates() {
  const [rates, setRates] = useState(/** @type {number[]} */ ([]));
  useEvery(() => setRates((before) => [...before, rate.peek()].slice(-RATES_MAX)), 1, []);
  return rates;
}

/** @param {{ devices: import('../api.js').Device[] | undefined, error: unknown, retry: () => void }} props */
function Stations({ devices, error, retry }) {
  void beat.value;
  void catalog.value;
  if (error && !devices) return html`<${Failed} error=${error} retry=${retry} />`;
  if (!devices) return html`<${Loading} />`;
  if (devices.length === 0) {
    return html`<${Empty} title=${t('devices.none')} text=${t('devices.none-text')}><a class="button" href="#/devices">${t('devices.add')}</a><//>`;
  }
  return html`<ul class="stations">
    ${devices.slice(0, STATIONS_MAX).map((device) => html`<${Station} key=${device.name} device=${device} />`)}
    ${devices.length > STATIONS_MAX && html`<li class="more"><a href="#/devices">${t('overview.more-stations', { count: number(devices.length - STATIONS_MAX) })}</a></li>`}
  </ul>`;
}

/** @param {{ device: import('../api.js').Device }} props */
function Station({ device }) {
  const readings = [...newestOf(device.name).values()];
  const row = useRef(/** @type {HTMLElement | null} */ (null));
  const stamp = readings.map((reading) => reading.time).join();
  useEffect(() => flash(row.current), [stamp]);
  return html`<li ref=${row} data-test=${`station-${device.name}`}>
    <div class="name">
      <a href=${`#/map?device=${encodeURIComponent(device.name)}`}>${device.name}</a>
      ${device.label && html`<span class="faint small">${device.label}</span>`}
    </div>
    ${readings.length === 0 && html`<p class="faint small">${t('devices.silent')}</p>`}
    ${readings.map(
      (reading) => html`<div class="reading" key=${reading.sensor}>
        <ul class="values">
          ${numbersOf(reading.sensor, reading.values).map(([name, value]) => html`<li><span>${labelOf(reading.sensor, name)}</span> <b>${measured(value, unitOf(reading.sensor, name))}</b></li>`)}
        </ul>
        <span class="faint small when"><${Time} at=${reading.time} /></span>
      </div>`,
    )}
  </li>`;
}

/** @param {HTMLElement | null} element */
function flash(element) {
  element?.animate?.([{ backgroundColor: 'var(--accent-soft)' }, { backgroundColor: 'transparent' }], {
    duration: matchMedia('(prefers-reduced-motion: reduce)').matches ? 0 : 900,
    easing: 'ease-out',
  });
}

/** @param {{ items: import('../api.js').Alert[] | undefined, error: unknown, retry: () => void }} props */
function NewestAlerts({ items, error, retry }) {
  if (error && !items) return html`<${Failed} error=${error} retry=${retry} />`;
  if (!items) return html`<${Loading} />`;
  if (items.length === 0) return html`<p class="faint pad">${t('alerts.none-text')}</p>`;
  return html`<ul class="lines">
    ${items.map(
      (alert) => html`<li key=${alert.id}>
        <span><b>${alert.device}</b> · ${alert.rule_name}</span>
        <span class="faint small"><${Time} at=${alert.raised} form="ago" /></span>
      </li>`,
    )}
  </ul>`;
}

/** @param {{ data: import('../api.js').Overview }} props */
function Checklist({ data }) {
  const steps = [
    { done: data.readings_total > 0, text: t('start.reading'), href: '#/devices' },
    { done: kept('seen-map') !== null, text: t('start.map'), href: '#/map' },
    { done: kept('asked-sql') !== null, text: t('start.sql'), href: '#/sql' },
    { done: data.rules > 0, text: t('start.rule'), href: '#/rules/new' },
    { done: data.alerts_total > 0, text: t('start.alert'), href: '#/rules/alerts' },
  ];
  const done = steps.filter((step) => step.done).length;
  if (done === steps.length) return null;
  return html`<section class="card" aria-labelledby="start">
    <header><h2 id="start">${t('start.title')}</h2><span class="faint small">${done} / ${steps.length}</span></header>
    <ol class="steps">
      ${steps.map(
        (step) => html`<li class=${step.done ? 'done' : ''}>
          <span class="tick" aria-hidden="true">${step.done && html`<${Icon} name="check" />`}</span>
          <a href=${step.href}>${step.text}</a>
          ${step.done && html`<span class="hidden">${t('start.done')}</span>`}
        </li>`,
      )}
    </ol>
  </section>`;
}

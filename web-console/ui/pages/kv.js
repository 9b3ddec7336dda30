import { html, useEffect, useRef, useState } from 'preact';
import * as api from '../api.js';
import { t } from '../i18n.js';
import { Spark } from '../parts/chart.js';
import { Dialog } from '../parts/dialog.js';
import { Field, textOf } from '../parts/form.js';
import { compact, number, roughly, Time, useEvery } from '../parts/format.js';
import { useLoad, usePages } from '../parts/load.js';
import { Empty, Failed, Loading } from '../parts/notices.js';

const PAGE_ITEMS = 50;
const PACE_SECONDS = 2;
const RATES_MAX = 60;
const DATABASES = 16;

/** @param {number} value */
function bytes(value) {
  const units = ['B', 'KiB', 'MiB', 'GiB'];
  let step = 0;
  for (; value >= 1024 && step < 3; step += 1) value /= 1024;
  return `${number(value, step && 1)} ${units[step]}`;
}

export default function KvPage() {
  const [db, setDb] = useState(0);
  const [text, setText] = useState('');
  const [prefix, setPrefix] = useState('');
  const { data, error, again } = useLoad(() => api.kv(db), [db]);
  const slow = useLoad(api.kvSlow, []);
  useEvery(() => void again(), PACE_SECONDS, [again]);
  const search = (/** @type {Event} */ event) => {
    event.preventDefault();
    setPrefix(text);
  };
  return html`<div class="page">
    <header class="head"><h1>${t('kv.title')}</h1></header>
    ${error && html`<${Failed} error=${error} retry=${again} />`}
    ${!data && !error && html`<${Loading} />`}
    ${data && !data.embedded && html`<${Empty} title=${t('kv.elsewhere')} text=${t('kv.elsewhere-text')} />`}
    ${data?.embedded &&
    html`<${Counts} data=${data} />
      <form class="filters" role="search" onSubmit=${search}>
        <${Field} label=${t('kv.prefix')} input=${(/** @type {string} */ id) => html`<input id=${id} type="search" data-test="kv-prefix" value=${text} onInput=${(/** @type {Event} */ event) => setText(textOf(event))} />`} />
        <${Field} label=${t('kv.db')} input=${(/** @type {string} */ id) => html`<select id=${id} data-test="kv-db" value=${db} onChange=${(/** @type {Event} */ event) => setDb(Number(textOf(event)))}>
          ${Array.from({ length: DATABASES }, (_, at) => html`<option value=${at}>${at}</option>`)}
        </select>`} />
        <button type="submit" data-test="kv-search">${t('dead.search')}</button>
      </form>
      <${Keys} key=${`${db} ${prefix}`} db=${db} prefix=${prefix} />
      ${slow.data && slow.data.items.length > 0 && html`<h2>${t('kv.slow')}</h2><${Slow} items=${slow.data.items} />`}`}
  </div>`;
}

/** @param {{ data: api.Kv }} props */
function Counts({ data }) {
  const seen = useRef(/** @type {{ at: number, commands: number } | null} */ (null));
  const [rates, setRates] = useState(/** @type {number[]} */ ([]));
  useEffect(() => {
    const [now, before] = [{ at: performance.now(), commands: data.commands }, seen.current];
    seen.current = now;
    if (!before) return;
    const rate = Math.max(0, ((now.commands - before.commands) * 1000) / Math.max(1, now.at - before.at));
    setRates((known) => [...known, rate].slice(-RATES_MAX));
  }, [data]);
  const looks = data.hits + data.misses;
  return html`<dl class="counts">
    <div class="rate"><dt>${t('kv.rate')}</dt><dd data-test="kv-rate">${number(rates.at(-1) ?? 0, 0)}</dd><${Spark} values=${rates} label=${t('kv.rate')} /></div>
    <div><dt>${t('kv.keys')}</dt><dd data-test="kv-count" title=${t('kv.expiring', { count: data.expiring })}>${compact(data.keys)}</dd></div>
    <div><dt>${t('kv.memory')}</dt><dd data-test="kv-memory" title=${data.memory_bytes_max ? `/ ${bytes(data.memory_bytes_max)}` : ''}>${bytes(data.memory_bytes)}</dd></div>
    <div><dt>${t('kv.clients')}</dt><dd>${compact(data.clients)}</dd></div>
    <div><dt>${t('kv.hits')}</dt><dd>${looks ? `${number((data.hits * 100) / looks, 0)} %` : '–'}</dd></div>
    <div><dt>${t('kv.gone')}</dt><dd>${compact(data.expired)} / ${compact(data.evicted)}</dd></div>
  </dl>`;
}

/** @param {number | null} ms */
const ttl = (ms) => (ms === null ? '–' : roughly(ms / 1000));

/** @param {{ db: number, prefix: string }} props */
function Keys({ db, prefix }) {
  const { items, next, error, busy, more, again } = usePages((page) => api.kvKeys({ db, prefix, ...page }), PAGE_ITEMS);
  const [open, setOpen] = useState('');
  if (!items) return error ? html`<${Failed} error=${error} retry=${again} />` : html`<${Loading} />`;
  return html`${error && html`<${Failed} error=${error} retry=${again} />`}
    ${items.length === 0 && !next && html`<${Empty} title=${prefix ? t('dead.none-match') : t('kv.none')} text=${prefix ? '' : t('kv.none-text')} />`}
    ${items.length > 0 &&
    html`<div class="scroll" tabindex="0" role="region" aria-label=${t('kv.keys')}>
      <table data-test="kv-list">
        <thead><tr><th>${t('kv.name')}</th><th>${t('kv.type')}</th><th>${t('kv.ttl')}</th><th>${t('kv.memory')}</th></tr></thead>
        <tbody>
          ${items.map(
            (one) => html`<tr key=${one.id}>
              <td><button type="button" class="linkish mono" data-test="kv-show" onClick=${() => setOpen(one.id)}>${one.name}</button></td>
              <td><span class="badge">${one.type}</span></td>
              <td>${ttl(one.ttl_ms)}</td>
              <td>${bytes(one.memory_bytes)}</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>`}
    ${next && html`<p><button type="button" data-test="kv-more" disabled=${busy} onClick=${more}>${t('action.more')}</button></p>`}
    ${open && html`<${Value} id=${open} db=${db} onClose=${() => setOpen('')} />`}`;
}

/** @param {{ id: string, db: number, onClose: () => void }} props */
function Value({ id, db, onClose }) {
  const { data, error, again } = useLoad(() => api.kvKey(id, db), [id, db]);
  return html`<${Dialog} title=${data?.key.name ?? ''} wide=${true} test="kv-dialog" onClose=${onClose}>
    ${error && html`<${Failed} error=${error} retry=${again} />`}
    ${!data && !error && html`<${Loading} />`}
    ${data &&
    html`<dl class="facts">
        <dt>${t('kv.type')}</dt><dd data-test="kv-type">${data.key.type} · ${number(data.length)}</dd>
        <dt>${t('kv.ttl')}</dt><dd>${ttl(data.key.ttl_ms)}</dd>
        <dt>${t('kv.memory')}</dt><dd>${bytes(data.key.memory_bytes)}</dd>
      </dl>
      <div class="scroll" tabindex="0" role="region" aria-label=${t('kv.value')}>
        <table class="letters" data-test="kv-value"><tbody>${data.elements.map((parts) => html`<tr>${parts.map((part) => html`<td><code class="payload">${part}</code></td>`)}</tr>`)}</tbody></table>
      </div>
      ${data.truncated && html`<p class="faint small">${t('kv.more')}</p>`}`}
  <//>`;
}

/** @param {{ items: api.KvSlow[] }} props */
function Slow({ items }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${t('kv.slow')}>
    <table class="letters" data-test="kv-slow">
      <thead><tr><th>${t('kv.took')}</th><th>${t('kv.command')}</th><th>${t('dead.time')}</th></tr></thead>
      <tbody>${items.map((one) => html`<tr key=${one.id}><td>${number(one.micros / 1000, 1)} ms</td><td><code class="payload">${one.command}</code><span class="faint small mono">${one.client}</span></td><td><${Time} at=${one.at} form="ago" /></td></tr>`)}</tbody>
    </table>
  </div>`;
}

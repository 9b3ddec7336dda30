import { html, useEffect, useRef, useState } from 'preact';
import { sql, sqlCsv } from '../api.js';
import { t } from '../i18n.js';
import { keep, kept } from '../kept.js';
import { Chart } from '../parts/chart.js';
import { dateText, moment, number } from '../parts/format.js';
import { textOf } from '../parts/form.js';
import { Icon } from '../parts/icons.js';
import { complain, reason } from '../parts/notices.js';

/** @typedef {import('../api.js').Answer} Answer */

const SHOWN_ROWS_MAX = 1000;
const HISTORY_MAX = 20;

const FIRST = 'SELECT * FROM readings\nORDER BY time DESC\nLIMIT 20';

/** @returns {{ title: string, sql: string }[]} */
const examples = () => [
  { title: t('example.newest'), sql: FIRST },
  {
    title: t('example.count'),
    sql: 'SELECT device, sensor, name, count(*) AS readings,\n       min(time) AS first, max(time) AS last\nFROM readings\nGROUP BY device, sensor, name\nORDER BY device, name',
  },
  {
    title: t('example.day'),
    sql: "SELECT date_trunc('day', time) AS day, device,\n       min(value) AS low, round(avg(value), 1) AS mean, max(value) AS high\nFROM readings\nWHERE name = 'temp'\nGROUP BY 1, 2\nORDER BY day DESC, device\nLIMIT 60",
  },
  {
    title: t('example.hour'),
    sql: "SELECT date_part('hour', time) AS hour_utc, round(avg(value), 1) AS mean\nFROM readings\nWHERE name = 'temp'\nGROUP BY 1\nORDER BY 1",
  },
  {
    title: t('example.together'),
    sql: "SELECT a.time, a.device, a.value AS temp, b.value AS humid\nFROM readings a\nJOIN readings b ON a.device = b.device AND a.time = b.time\nWHERE a.name = 'temp' AND b.name = 'humid' AND a.value > 80\nORDER BY a.time DESC\nLIMIT 100",
  },
];

const COLUMNS = [
  ['device', 'text'],
  ['sensor', 'text'],
  ['time', 'timestamp, UTC'],
  ['name', 'text'],
  ['value', 'double'],
];

/** @returns {string[]} */
function keptHistory() {
  try {
    const list = JSON.parse(kept('sql-history') ?? '[]');
    return Array.isArray(list) ? list.filter((one) => typeof one === 'string') : [];
  } catch {
    return [];
  }
}

export default function SqlPage() {
  const [text, setText] = useState(() => kept('sql') ?? FIRST);
  const [past, setPast] = useState(keptHistory);
  const [state, setState] = useState(/** @type {{ answer: Answer | null, error: unknown, ms: number, of: string }} */ ({ answer: null, error: null, ms: 0, of: '' }));
  const [busy, setBusy] = useState(false);
  const abort = useRef(/** @type {AbortController | null} */ (null));
  const editor = useRef(/** @type {HTMLTextAreaElement | null} */ (null));
  useEffect(() => () => abort.current?.abort(), []);

  const change = (/** @type {string} */ next) => {
    setText(next);
    keep('sql', next);
  };
  const run = async () => {
    const asked = text.trim();
    if (!asked || busy) return;
    const controller = new AbortController();
    abort.current = controller;
    setBusy(true);
    keep('asked-sql', 'yes');
    const start = performance.now();
    try {
      const answer = await sql(asked, controller.signal);
      setState({ answer, error: null, ms: performance.now() - start, of: asked });
      const next = [asked, ...past.filter((one) => one !== asked)].slice(0, HISTORY_MAX);
      setPast(next);
      keep('sql-history', JSON.stringify(next));
    } catch (error) {
      if (!controller.signal.aborted) setState({ answer: null, error, ms: performance.now() - start, of: asked });
    } finally {
      setBusy(false);
    }
  };
  const onKey = (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    run();
  };
  const take = (/** @type {string} */ next) => {
    change(next);
    editor.current?.focus();
  };

  return html`<div class="page sql">
    <header class="head"><h1>${t('nav.sql')}</h1><p class="faint small">${t('sql.text')}</p></header>
    <div class="columns">
      <div class="stack">
        <section class="card editor">
          <label class="hidden" for="sql-editor">${t('sql.editor')}</label>
          <textarea id="sql-editor" ref=${editor} data-test="sql-editor" spellcheck=${false} autocapitalize="off" autocomplete="off" rows=${Math.min(18, Math.max(6, text.split('\n').length + 1))} value=${text} onInput=${(/** @type {Event} */ event) => change(textOf(event))} onKeyDown=${onKey}></textarea>
          <footer>
            <button type="button" class="primary" disabled=${busy} data-test="sql-run" onClick=${run}><${Icon} name="play" />${busy ? t('state.working') : t('sql.run')}</button>
            <kbd>Ctrl</kbd><kbd>Enter</kbd>
            ${busy && html`<button type="button" onClick=${() => abort.current?.abort()}>${t('action.cancel')}</button>`}
          </footer>
        </section>
        ${state.error && html`<div class="notice bad" role="alert"><pre data-test="sql-error">${reason(state.error)}</pre></div>`}
        ${state.answer && html`<${Result} answer=${state.answer} ms=${state.ms} of=${state.of} />`}
      </div>
      <aside class="stack" aria-label=${t('sql.help')}>
        <section class="card">
          <header><h2><code>readings</code></h2></header>
          <dl class="schema">${COLUMNS.map(([name, type]) => html`<dt><code>${name}</code></dt><dd class="faint">${type}</dd>`)}</dl>
          <p class="faint small pad">${t('sql.schema')}</p>
        </section>
        <section class="card">
          <header><h2>${t('sql.examples')}</h2></header>
          <ul class="picks">${examples().map((one) => html`<li><button type="button" class="linkish" onClick=${() => take(one.sql)}>${one.title}</button></li>`)}</ul>
        </section>
        ${past.length > 0 &&
        html`<section class="card">
          <header><h2>${t('sql.history')}</h2><button type="button" class="linkish small" onClick=${() => { setPast([]); keep('sql-history', null); }}>${t('sql.forget')}</button></header>
          <ul class="picks mono">${past.slice(0, 8).map((one) => html`<li><button type="button" class="linkish" title=${one} onClick=${() => take(one)}>${one.replace(/\s+/g, ' ')}</button></li>`)}</ul>
        </section>`}
      </aside>
    </div>
  </div>`;
}

/** @param {string} type */
const isNumber = (type) => /int|float|double|decimal|real/i.test(type);
/** @param {string} type */
const isTime = (type) => /timestamp|date/i.test(type);

/** Arrow's full name of a timestamp is longer than the timestamp. @param {string} type */
const typeText = (type) => (/^timestamp\(/i.test(type) ? (/utc|\+00:00/i.test(type) ? 'Timestamp, UTC' : 'Timestamp') : type);

/** @param {{ answer: Answer, ms: number, of: string }} props */
function Result({ answer, ms, of }) {
  const [view, setView] = useState(/** @type {'table' | 'chart'} */ ('table'));
  const [busy, setBusy] = useState(false);
  const { columns, rows } = answer;
  const points = chartOf(answer);
  const download = async () => {
    setBusy(true);
    try {
      const link = document.createElement('a');
      link.href = URL.createObjectURL(await sqlCsv(of));
      link.download = 'madang.csv';
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    } catch (error) {
      complain(error);
    } finally {
      setBusy(false);
    }
  };
  return html`<section class="card result" aria-label=${t('sql.result')}>
    <header>
      <p role="status"><strong data-test="sql-row-count" data-count=${rows.length}>${t('sql.rows', { count: number(rows.length) })}</strong> <span class="faint">${t('sql.took', { ms: number(ms, 0) })}</span></p>
      <div class="row">
        ${points && html`<div class="segments" role="group" aria-label=${t('sql.view')}>
          <button type="button" aria-pressed=${view === 'table'} onClick=${() => setView('table')}>${t('sql.table')}</button>
          <button type="button" aria-pressed=${view === 'chart'} data-test="sql-chart" onClick=${() => setView('chart')}>${t('sql.chart')}</button>
        </div>`}
        <button type="button" disabled=${busy} data-test="sql-csv" onClick=${download}><${Icon} name="download" />CSV</button>
      </div>
    </header>
    ${view === 'chart' && points
      ? html`<div class="pad"><${Chart} points=${points.points} lines=${[{ label: points.name }]} label=${points.name} /></div>`
      : html`<div class="scroll tall" tabindex="0" role="region" aria-label=${t('sql.result')}>
          <table class="dense grid" data-test="sql-table">
            <thead><tr>${columns.map((column) => html`<th class=${isNumber(column.type) ? 'num' : ''}>${column.name}<small title=${column.type}>${typeText(column.type)}</small></th>`)}</tr></thead>
            <tbody>${rows.slice(0, SHOWN_ROWS_MAX).map((row) => html`<tr>${row.map((cell, i) => html`<${Cell} value=${cell} type=${columns[i].type} />`)}</tr>`)}</tbody>
          </table>
        </div>
        ${rows.length === 0 && html`<p class="faint pad">${t('sql.no-rows')}</p>`}
        ${rows.length > SHOWN_ROWS_MAX && html`<p class="faint small pad">${t('sql.first', { count: number(SHOWN_ROWS_MAX) })}</p>`}`}
  </section>`;
}

/** @param {{ value: unknown, type: string }} props */
function Cell({ value, type }) {
  if (value === null || value === undefined) return html`<td class=${isNumber(type) ? 'num faint' : 'faint'}>null</td>`;
  if (typeof value === 'number' && isNumber(type)) return html`<td class="num">${number(value, 6)}</td>`;
  if (isTime(type)) {
    const ms = moment(value);
    if (!Number.isNaN(ms)) {
      const local = dateText(new Date(ms), { year: 'numeric', month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', second: '2-digit' });
      return html`<td class="mono" title=${local}>${typeof value === 'string' ? value : new Date(ms).toISOString()}</td>`;
    }
  }
  return html`<td>${typeof value === 'object' ? JSON.stringify(value) : String(value)}</td>`;
}

/**
 * A result is a line when its first column is a time that comes once per row and another is a number.
 * @param {Answer} answer
 * @returns {{ name: string, points: import('../parts/chart.js').Points } | null}
 */
function chartOf({ columns, rows }) {
  const value = columns.findIndex((column) => isNumber(column.type));
  if (rows.length < 2 || value < 1 || !isTime(columns[0].type)) return null;
  const pairs = rows.flatMap((row) => (typeof row[value] === 'number' ? [/** @type {[number, number]} */ ([moment(row[0]) / 1000, row[value]])] : []));
  pairs.sort((a, b) => a[0] - b[0]);
  if (pairs.some(([time], i) => Number.isNaN(time) || (i > 0 && pairs[i - 1][0] === time))) return null;
  return { name: columns[value].name, points: [pairs.map((pair) => pair[0]), pairs.map((pair) => pair[1])] };
}

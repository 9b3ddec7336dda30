import { h, html, useEffect, useRef, useState } from 'preact';
import { may } from '../account.js';
import * as api from '../api.js';
import { catalog, fetchCatalog, labelOf, unitOf } from '../catalog.js';
import { useHistory } from '../history.js';
import { t } from '../i18n.js';
import { Chart } from '../parts/chart.js';
import { Confirm, Dialog } from '../parts/dialog.js';
import { Field, Form, textOf } from '../parts/form.js';
import { Time } from '../parts/format.js';
import { Icon } from '../parts/icons.js';
import { useLoad } from '../parts/load.js';
import { complain, Empty, Failed, Loading, reason, toast } from '../parts/notices.js';
import { Span } from '../parts/span.js';
import { Save } from '../parts/transfer.js';
import { go, route } from '../router.js';
import { ChartForm } from './dashboard-chart.js';

/** @typedef {api.BoardDocument} Document */

const WRITE = 'devices.write';

export default function DashboardsPage() {
  useEffect(() => void fetchCatalog().catch(complain), []);
  const name = route.value.parts[1];
  return name === undefined ? html`<${List} />` : html`<${One} key=${name} name=${name} />`;
}

function List() {
  const { data, error, again } = useLoad(() => api.all(api.boards), []);
  const [open, setOpen] = useState(/** @type {{ add: true } | { remove: api.Board } | null} */ (null));
  const close = () => setOpen(null);
  const add = may(WRITE) && html`<button type="button" class="primary" data-test="board-new" onClick=${() => setOpen({ add: true })}><${Icon} name="plus" />${t('boards.add')}</button>`;
  return html`<div class="page">
    <header class="head"><h1>${t('boards.title')}</h1>${data && data.length > 0 && add}</header>
    ${error && html`<${Failed} error=${error} retry=${again} />`}
    ${!data && !error && html`<${Loading} />`}
    ${data?.length === 0 && html`<${Empty} title=${t('boards.none')} text=${t('boards.none-text')}>${add}<//>`}
    <ul class="cards" data-test="boards-list">
      ${data?.map(
        (one) => html`<li key=${one.name} data-test=${`board-${one.name}`}>
          <div class="text">
            <h2><a href=${`#/dashboards/${encodeURIComponent(one.name)}`}>${one.document.title}</a></h2>
            <p class="small">${t('boards.charts', { count: one.document.charts.length })} · ${one.author} · <${Time} at=${one.updated} /></p>
          </div>
          ${may(WRITE) && html`<button type="button" class="icon" aria-label=${t('boards.delete', { title: one.document.title })} title=${t('action.delete')} data-test="board-delete" onClick=${() => setOpen({ remove: one })}><${Icon} name="trash" /></button>`}
        </li>`,
      )}
    </ul>
    ${open && 'add' in open && h(NewBoard, { onClose: close })}
    ${open &&
    'remove' in open &&
    html`<${Confirm} title=${t('boards.delete', { title: open.remove.document.title })} text=${t('boards.delete-text')} action=${t('action.delete')} onClose=${close} run=${async () => {
      await api.deleteBoard(open.remove.name);
      await again();
    }} />`}
  </div>`;
}

/** A name for addresses: what of a title can stand in one. @param {string} title */
const nameOf = (title) =>
  title
    .trim()
    .toLowerCase()
    .replace(/[^\p{Letter}\p{Number}]+/gu, '-')
    .replace(/^-|-$/g, '') || 'dashboard';

/** @param {{ onClose: () => void }} props */
function NewBoard({ onClose }) {
  const [title, setTitle] = useState('');
  const send = async () => {
    const made = await api.writeBoard(nameOf(title), { title: title.trim(), hours: 168, charts: [] }, 0);
    go(`/dashboards/${encodeURIComponent(made.name)}?edit`);
  };
  return h(Dialog, {
    title: t('boards.add'),
    onClose,
    test: 'board-dialog',
    children: h(Form, {
      send,
      action: t('boards.add'),
      onCancel: onClose,
      test: 'board-make',
      errorTest: 'board-make-error',
      children: h(Field, {
        label: t('boards.name'),
        input: (id) => html`<input id=${id} required maxlength="128" autocomplete="off" data-test="board-title" value=${title} onInput=${(/** @type {Event} */ event) => setTitle(textOf(event))} />`,
      }),
    }),
  });
}

/** @param {{ name: string }} props */
function One({ name }) {
  const { data, error, again } = useLoad(() => api.board(name), [name]);
  const [draft, setDraft] = useState(/** @type {Document | null} */ (null));
  const [hours, setHours] = useState(/** @type {number | null | undefined} */ (undefined));
  // A new one is opened for editing, once.
  const opens = useRef(route.value.query.has('edit') && may(WRITE));
  useEffect(() => {
    if (!data || !opens.current) return;
    opens.current = false;
    setDraft(data.document);
  }, [data]);
  void catalog.value;
  if (!data) return html`<div class="page">${error ? html`<${Failed} error=${error} retry=${again} />` : html`<${Loading} />`}</div>`;
  const shown = draft ?? data.document;
  const span = draft || hours === undefined ? shown.hours : hours;
  const leave = () => {
    setDraft(null);
    go(`/dashboards/${encodeURIComponent(name)}`);
  };
  const saved = async () => {
    setHours(undefined);
    await again();
    leave();
    toast(t('boards.saved'));
  };
  return html`<div class="page" data-test="board-page">
    <header class="head">
      <a class="icon" href="#/dashboards" aria-label=${t('boards.title')}><${Icon} name="back" /></a>
      <h1>${shown.title}</h1>
      <div class="row">
        ${!draft && h(Span, { hours: span, set: setHours })}
        ${!draft && h(Save, { name: `${name}.json`, text: 'JSON', load: async () => JSON.stringify(data.document, null, 2), test: 'board-export' })}
        ${!draft && may(WRITE) && html`<button type="button" data-test="board-edit" onClick=${() => setDraft(data.document)}><${Icon} name="edit" />${t('action.edit')}</button>`}
      </div>
    </header>
    ${draft && h(Editor, { board: data, draft, setDraft, onSaved: saved, onCancel: leave })}
    ${shown.charts.length === 0 && !draft && html`<p class="faint">${t('boards.no-charts')}</p>`}
    <div class="board">
      ${shown.charts.map((chart, i) => html`<${OneChart} key=${JSON.stringify(chart) + i} chart=${chart} hours=${span} />`)}
    </div>
  </div>`;
}

/** @param {api.BoardLine} line */
const lineLabel = (line) => line.label || `${line.device} ${labelOf(line.sensor, line.value)}`;

/** @param {api.BoardChart} chart */
const chartTitle = (chart) => chart.title || chart.lines.map(lineLabel).join(', ');

/** @param {{ chart: api.BoardChart, hours: number | null }} props */
function OneChart({ chart, hours }) {
  const { points, error } = useHistory(chart.lines, hours);
  const title = chartTitle(chart);
  const lines = chart.lines.map((line) => ({ label: lineLabel(line), unit: unitOf(line.sensor, line.value) }));
  return html`<section class=${`card ${chart.is_wide ? 'wide' : ''}`} data-test="board-chart">
    <header><h2>${title}</h2></header>
    <div class="pad">
      ${error && html`<${Failed} error=${error} />`}
      ${!points && !error && html`<${Loading} />`}
      ${points && h(Chart, { points, lines, label: title })}
    </div>
  </section>`;
}

/**
 * What the document says, beside the charts that it makes.
 * @param {{ board: api.Board, draft: Document, setDraft: (next: Document) => void, onSaved: () => Promise<void>, onCancel: () => void }} props
 */
function Editor({ board, draft, setDraft, onSaved, onCancel }) {
  const [open, setOpen] = useState(/** @type {number | 'new' | null} */ (null));
  const [error, setError] = useState(/** @type {unknown} */ (null));
  const charts = draft.charts;
  const set = (/** @type {api.BoardChart[]} */ next) => setDraft({ ...draft, charts: next });
  const swap = (/** @type {number} */ i, /** @type {number} */ k) => set(charts.map((chart, at) => (at === i ? charts[k] : at === k ? charts[i] : chart)));
  const save = async () => {
    setError(null);
    try {
      await api.writeBoard(board.name, { ...draft, title: draft.title.trim() }, board.version);
      await onSaved();
    } catch (problem) {
      setError(problem);
    }
  };
  const put = (/** @type {api.BoardChart} */ chart) => {
    set(open === 'new' ? [...charts, chart] : charts.map((one, i) => (i === open ? chart : one)));
    setOpen(null);
  };
  return html`<section class="card form" aria-label=${t('action.edit')} data-test="board-editor">
    <div class="stack">
      ${h(Field, {
        label: t('boards.name'),
        input: (id) => html`<input id=${id} maxlength="128" data-test="board-edit-title" value=${draft.title} onInput=${(/** @type {Event} */ event) => setDraft({ ...draft, title: textOf(event) })} />`,
      })}
      ${h(Span, { hours: draft.hours, set: (hours) => setDraft({ ...draft, hours }), seen: true })}
      <ol class="lines" data-test="board-charts">
        ${charts.map(
          (chart, i) => html`<li key=${i}>
            <span>${chartTitle(chart)}</span>
            <span class="row">
              <button type="button" class="icon" disabled=${i === 0} aria-label=${t('boards.earlier', { title: chartTitle(chart) })} title=${t('boards.move')} data-test="chart-earlier" onClick=${() => swap(i, i - 1)}><${Icon} name="up" /></button>
              <button type="button" class="icon" aria-label=${t('boards.edit-chart', { title: chartTitle(chart) })} title=${t('action.edit')} data-test="chart-edit" onClick=${() => setOpen(i)}><${Icon} name="edit" /></button>
              <button type="button" class="icon" aria-label=${t('boards.remove-chart', { title: chartTitle(chart) })} title=${t('action.delete')} data-test="chart-remove" onClick=${() => set(charts.filter((_, at) => at !== i))}><${Icon} name="trash" /></button>
            </span>
          </li>`,
        )}
      </ol>
      ${error !== null && html`<div class="notice bad" role="alert" data-test="board-error"><p>${reason(error)}</p></div>`}
      <footer class="row">
        <button type="button" data-test="chart-add" onClick=${() => setOpen('new')}><${Icon} name="plus" />${t('boards.add-chart')}</button>
        <button type="button" class="primary" data-test="board-save" onClick=${save}>${t('action.save')}</button>
        <button type="button" data-test="board-cancel" onClick=${onCancel}>${t('action.cancel')}</button>
      </footer>
    </div>
    ${open !== null && h(ChartForm, { chart: open === 'new' ? null : charts[open], onClose: () => setOpen(null), onDone: put })}
  </section>`;
}

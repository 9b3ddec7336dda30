import { html, useState } from 'preact';
import * as api from '../api.js';
import { t } from '../i18n.js';
import { Confirm, Dialog } from '../parts/dialog.js';
import { Copyable, Field, textOf } from '../parts/form.js';
import { Time } from '../parts/format.js';
import { Icon } from '../parts/icons.js';
import { useLoad, usePages } from '../parts/load.js';
import { complain, Empty, Failed, Loading, toast } from '../parts/notices.js';

const PAGE_ITEMS = 50;

/** @returns {Record<api.LetterSource, string>} */
const sources = () => ({
  reading: t('dead.reading'),
  event: t('dead.event'),
  outbox: t('dead.outbox'),
  command: t('dead.command'),
});

export default function DeadLettersPage() {
  const [filter, setFilter] = useState(/** @type {api.LetterFilter} */ ({}));
  const [reason, setReason] = useState('');
  const search = (/** @type {Event} */ event) => {
    event.preventDefault();
    setFilter({ ...filter, reason: reason.trim() || undefined });
  };
  return html`<div class="page">
    <header class="head"><h1>${t('dead.title')}</h1></header>
    <p class="faint">${t('dead.text')}</p>
    <form class="filters" role="search" onSubmit=${search}>
      <${Field} label=${t('dead.source')} input=${(/** @type {string} */ id) => html`<select id=${id} data-test="letters-source" value=${filter.source ?? ''} onChange=${(/** @type {Event} */ event) => setFilter({ ...filter, source: /** @type {api.LetterSource} */ (textOf(event)) || undefined })}>
        <option value="">${t('dead.any')}</option>
        ${Object.entries(sources()).map(([value, text]) => html`<option value=${value}>${text}</option>`)}
      </select>`} />
      <${Field} label=${t('dead.contains')} input=${(/** @type {string} */ id) => html`<input id=${id} type="search" data-test="letters-reason" value=${reason} onInput=${(/** @type {Event} */ event) => setReason(textOf(event))} />`} />
      <button type="submit" data-test="letters-search">${t('dead.search')}</button>
    </form>
    <${Letters} key=${JSON.stringify(filter)} filter=${filter} />
  </div>`;
}

/** @typedef {{ show: api.DeadLetter } | { discard: api.DeadLetter } | { all: 'replay' | 'discard' } | null} Open */

/** @param {{ filter: api.LetterFilter }} props */
function Letters({ filter }) {
  const { items, next, error, busy, more, again } = usePages((page) => api.deadLetters({ ...filter, ...page }), PAGE_ITEMS);
  const [open, setOpen] = useState(/** @type {Open} */ (null));
  const [running, setRunning] = useState('');
  const close = () => setOpen(null);
  const replay = async (/** @type {api.DeadLetter} */ letter) => {
    setRunning(letter.id);
    try {
      const { outcome } = await api.replayDeadLetter(letter.id);
      toast(outcome === 'waiting' ? t('dead.waiting') : t('dead.handled'));
      close();
    } catch (problem) {
      complain(problem);
    }
    setRunning('');
    await again();
  };
  if (!items) return error ? html`<${Failed} error=${error} retry=${again} />` : html`<${Loading} />`;
  const isFiltered = filter.source !== undefined || filter.reason !== undefined;
  return html`${error && html`<${Failed} error=${error} retry=${again} />`}
    ${items.length === 0 && !next && (isFiltered ? html`<${Empty} title=${t('dead.none-match')} />` : html`<${Empty} title=${t('dead.none')} text=${t('dead.none-text')} />`)}
    ${items.length > 0 &&
    html`<div class="above spread">
        <button type="button" data-test="letters-replay-all" onClick=${() => setOpen({ all: 'replay' })}><${Icon} name="replay" />${t('dead.replay-all')}</button>
        <button type="button" class="danger" data-test="letters-discard-all" onClick=${() => setOpen({ all: 'discard' })}><${Icon} name="trash" />${t('dead.discard-all')}</button>
      </div>
      <div class="scroll" tabindex="0" role="region" aria-label=${t('dead.title')}>
        <table class="letters" data-test="letters-list">
          <thead><tr><th>${t('dead.source')}</th><th>${t('dead.reason')}</th><th>${t('dead.time')}</th><th class="hide-text">${t('action.title')}</th></tr></thead>
          <tbody>
            ${items.map(
              (letter) => html`<tr key=${letter.id} data-test=${`letter-${letter.id}`} data-source=${letter.source}>
                <td><span class="badge">${sources()[letter.source]}</span><span class="mono small block">${letter.handler === 'readings' ? letter.topic : letter.handler}</span></td>
                <td><button type="button" class="linkish" data-test="letter-show" onClick=${() => setOpen({ show: letter })}>${letter.reason}</button><code class="payload faint">${letter.payload.slice(0, 120)}</code></td>
                <td><${Time} at=${letter.time} /><span class="faint small block">${t('dead.attempts', { count: letter.attempts })}</span></td>
                <td class="actions">
                  <button type="button" data-test="letter-replay" disabled=${running !== ''} onClick=${() => replay(letter)}><${Icon} name="replay" />${t('dead.replay')}</button>
                  <button type="button" class="icon" data-test="letter-discard" aria-label=${t('dead.discard')} title=${t('dead.discard')} onClick=${() => setOpen({ discard: letter })}><${Icon} name="trash" /></button>
                </td>
              </tr>`,
            )}
          </tbody>
        </table>
      </div>`}
    ${next && html`<p><button type="button" disabled=${busy} onClick=${more}>${t('action.more')}</button></p>`}
    ${open && 'show' in open && html`<${Details} id=${open.show.id} busy=${running !== ''} onClose=${close} onReplay=${() => replay(open.show)} onDiscard=${() => setOpen({ discard: open.show })} />`}
    ${open &&
    'discard' in open &&
    html`<${Confirm} title=${t('dead.discard-title')} text=${t('dead.discard-text')} action=${t('dead.discard')} onClose=${close} run=${async () => {
      await api.discardDeadLetter(open.discard.id);
      toast(t('dead.discarded', { count: 1 }));
      await again();
    }} />`}
    ${open && 'all' in open && html`<${All} what=${open.all} filter=${filter} onClose=${close} onDone=${again} />`}`;
}

/** @param {{ what: 'replay' | 'discard', filter: api.LetterFilter, onClose: () => void, onDone: () => Promise<void> }} props */
function All({ what, filter, onClose, onDone }) {
  const replay = async () => {
    const done = await api.replayDeadLetters(filter);
    toast(t('dead.replayed', { ...done }), done.failed > 0 ? 'bad' : 'good');
    if (done.more) toast(t('dead.more'));
    await onDone();
  };
  const discard = async () => {
    const done = await api.discardDeadLetters(filter);
    toast(t('dead.discarded', { count: done.discarded }));
    if (done.more) toast(t('dead.more'));
    await onDone();
  };
  return what === 'replay'
    ? html`<${Confirm} title=${t('dead.replay-all')} text=${t('dead.replay-all-text')} action=${t('dead.replay')} onClose=${onClose} run=${replay} />`
    : html`<${Confirm} title=${t('dead.discard-all')} text=${t('dead.discard-all-text')} action=${t('dead.discard')} onClose=${onClose} run=${discard} />`;
}

/** @param {{ id: string, busy: boolean, onClose: () => void, onReplay: () => void, onDiscard: () => void }} props */
function Details({ id, busy, onClose, onReplay, onDiscard }) {
  const { data, error, again } = useLoad(() => api.deadLetter(id), [id]);
  return html`<${Dialog} title=${t('dead.one')} wide=${true} test="letter-dialog" onClose=${onClose}>
    ${error && html`<${Failed} error=${error} retry=${again} />`}
    ${!data && !error && html`<${Loading} />`}
    ${data &&
    html`<div class="notice bad" data-test="letter-reason"><p>${data.reason}</p></div>
      <dl class="facts">
        <dt>${t('dead.source')}</dt><dd>${sources()[data.source]}</dd>
        <dt>${t('dead.handler')}</dt><dd><code>${data.handler}</code></dd>
        ${data.topic && html`<dt>${t('dead.topic')}</dt><dd><code>${data.topic}${data.partition === null ? '' : ` · ${data.partition}/${data.offset}`}</code></dd>`}
        ${data.kind && html`<dt>${t('dead.kind')}</dt><dd><code>${data.kind}</code></dd>`}
        ${data.key !== null && html`<dt>${t('dead.key')}</dt><dd><code>${data.key}</code></dd>`}
        ${data.event && html`<dt>${t('dead.id')}</dt><dd><code>${data.event}</code></dd>`}
        ${data.from && html`<dt>${t('dead.from')}</dt><dd>${data.from}</dd>`}
        <dt>${t('dead.time')}</dt><dd><${Time} at=${data.time} /> · ${t('dead.attempts', { count: data.attempts })}</dd>
        ${data.tried && html`<dt>${t('dead.tried')}</dt><dd><${Time} at=${data.tried} /></dd>`}
      </dl>
      <${Copyable} label=${data.encoding === 'base64' ? t('dead.payload-base64') : t('dead.payload')} text=${data.payload} test="letter-payload" />
      ${data.truncated && html`<p class="hint">${t('dead.cut')}</p>`}
      <footer>
        <button type="button" class="danger" onClick=${onDiscard}><${Icon} name="trash" />${t('dead.discard')}</button>
        <button type="button" class="primary" data-test="letter-dialog-replay" disabled=${busy} onClick=${onReplay}><${Icon} name="replay" />${t('dead.replay')}</button>
      </footer>`}
  <//>`;
}

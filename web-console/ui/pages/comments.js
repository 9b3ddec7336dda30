// Comments under the pages of others' sites: which sites, what waits for somebody, how many there are.
import { h, html, useState } from 'preact';
import * as api from '../api.js';
import { t } from '../i18n.js';
import { keep, kept } from '../kept.js';
import { Confirm, Dialog } from '../parts/dialog.js';
import { checkedOf, Copyable, Field, Form, textOf } from '../parts/form.js';
import { compact, Time } from '../parts/format.js';
import { Icon } from '../parts/icons.js';
import { useLoad, usePages } from '../parts/load.js';
import { complain, Empty, Failed, Loading, toast } from '../parts/notices.js';
import { Tabs } from '../parts/tabs.js';
import { go, route } from '../router.js';

const PAGE_ITEMS = 50;

/** @typedef {api.CommentSite} Site */

export default function CommentsPage() {
  const [, id, tab] = route.value.parts;
  return id ? html`<${OneSite} key=${id} id=${id} tab=${tab ?? 'queue'} />` : html`<${Sites} />`;
}

function Sites() {
  const { data, error, again } = useLoad(() => api.all(api.commentSites), []);
  const [adding, setAdding] = useState(false);
  const add = html`<button type="button" class="primary" data-test="site-new" onClick=${() => setAdding(true)}><${Icon} name="plus" />${t('comments.add')}</button>`;
  return html`<div class="page">
    <header class="head"><h1>${t('comments.title')}</h1></header>
    <p class="faint">${t('comments.text')}</p>
    ${error && html`<${Failed} error=${error} retry=${again} />`}
    ${!data && !error && html`<${Loading} />`}
    ${data && data.length === 0 && html`<${Empty} title=${t('comments.none')} text=${t('comments.none-text')}>${add}<//>`}
    ${data &&
    data.length > 0 &&
    html`<div class="above">${add}</div>
      <ul class="cards" data-test="sites-list">
        ${data.map(
          (site) => html`<li key=${site.id} data-test=${`site-${site.name}`}>
            <div class="text"><h2><a href=${`#/comments/${site.id}`}>${site.name}</a></h2><p class="mono small">${site.origins.join(' ')}</p></div>
          </li>`,
        )}
      </ul>`}
    ${adding && h(SiteForm, { onClose: () => setAdding(false), onDone: (site) => go(`/comments/${site.id}/embed`) })}
  </div>`;
}

/** @param {{ id: string, tab: string }} props */
function OneSite({ id, tab }) {
  const { data: site, error, again } = useLoad(() => api.commentSite(id), [id]);
  if (!site) return html`<div class="page">${error ? html`<${Failed} error=${error} retry=${again} />` : html`<${Loading} />`}</div>`;
  const to = (/** @type {string} */ name) => `/comments/${id}${name}`;
  return html`<div class="page">
    <header class="head"><a class="icon" href="#/comments" aria-label=${t('comments.title')} title=${t('comments.title')}><${Icon} name="back" /></a><h1>${site.name}</h1></header>
    <${Tabs} label=${site.name} tabs=${[
      { path: to(''), text: t('comments.queue'), test: 'tab-queue' },
      { path: to('/statistics'), text: t('comments.statistics'), test: 'tab-statistics' },
      { path: to('/embed'), text: t('comments.embed'), test: 'tab-embed' },
    ]} />
    ${tab === 'queue' && html`<${Queue} site=${site} />`}
    ${tab === 'statistics' && html`<${Statistics} site=${site} />`}
    ${tab === 'embed' && html`<${Embed} site=${site} again=${again} />`}
  </div>`;
}

/** @returns {Record<api.CommentState, string>} */
const states = () => ({ shown: t('comments.shown'), held: t('comments.held'), spam: t('comments.spam'), deleted: t('comments.deleted') });

/** @returns {Record<string, string>} */
const reasons = () => ({ word: t('comments.by-word'), links: t('comments.by-links'), first: t('comments.by-first'), all: t('comments.by-all'), reports: t('comments.by-reports') });

/** @param {{ site: Site }} props */
function Queue({ site }) {
  const [filter, setFilter] = useState(/** @type {api.CommentFilter} */ ({ state: 'held' }));
  const [text, setText] = useState('');
  const { data: counts, again: count } = useLoad(() => api.commentStates(site.id), [site.id]);
  const search = (/** @type {Event} */ event) => {
    event.preventDefault();
    setFilter({ ...filter, text: text.trim() || undefined });
  };
  return html`<form class="filters" role="search" onSubmit=${search}>
      <${Field} label=${t('comments.state')} input=${(/** @type {string} */ id) => html`<select id=${id} data-test="queue-state" value=${filter.state ?? ''} onChange=${(/** @type {Event} */ event) => setFilter({ ...filter, state: /** @type {api.CommentState} */ (textOf(event)) || undefined })}>
        <option value="">${t('comments.any')}</option>
        ${Object.entries(states()).map(([value, name]) => html`<option value=${value}>${name}${counts ? ` (${compact(counts[/** @type {api.CommentState} */ (value)])})` : ''}</option>`)}
      </select>`} />
      <${Field} label=${t('comments.contains')} input=${(/** @type {string} */ id) => html`<input id=${id} type="search" data-test="queue-text" value=${text} onInput=${(/** @type {Event} */ event) => setText(textOf(event))} />`} />
      <button type="submit" data-test="queue-search">${t('comments.search')}</button>
    </form>
    <${Entries} key=${JSON.stringify(filter)} site=${site} filter=${filter} onDone=${count} />`;
}

/** @param {{ site: Site, filter: api.CommentFilter, onDone: () => Promise<void> }} props */
function Entries({ site, filter, onDone }) {
  const { items, next, error, busy, more, again } = usePages((page) => api.siteComments(site.id, { ...filter, ...page }), PAGE_ITEMS);
  const [chosen, setChosen] = useState(/** @type {string[]} */ ([]));
  const [answering, setAnswering] = useState(/** @type {api.CommentEntry | null} */ (null));
  const [removing, setRemoving] = useState(/** @type {string[] | null} */ (null));
  if (!items) return error ? html`<${Failed} error=${error} retry=${again} />` : html`<${Loading} />`;
  const act = async (/** @type {string} */ action, /** @type {string[]} */ comments) => {
    try {
      const { changed } = await api.actOnComments(site.id, action, comments);
      toast(t('comments.changed', { count: changed }));
    } catch (problem) {
      complain(problem);
    }
    setChosen([]);
    await Promise.all([again(), onDone()]);
  };
  const button = (/** @type {string} */ action, /** @type {string} */ text, /** @type {string[]} */ comments) =>
    html`<button type="button" data-test=${`act-${action}`} disabled=${comments.length === 0} onClick=${() => (action === 'delete' ? setRemoving(comments) : act(action, comments))}>${text}</button>`;
  const choose = (/** @type {string} */ id, /** @type {boolean} */ is) => setChosen(is ? [...chosen, id] : chosen.filter((one) => one !== id));
  return html`${error && html`<${Failed} error=${error} retry=${again} />`}
    ${items.length === 0 && html`<${Empty} title=${filter.state === 'held' ? t('comments.nothing-held') : t('comments.nothing')} />`}
    ${items.length > 0 &&
    html`<div class="row wrap">
        <label class="check"><input type="checkbox" data-test="choose-all" checked=${chosen.length === items.length} onChange=${(/** @type {Event} */ event) => setChosen(checkedOf(event) ? items.map((one) => one.id) : [])} />${t('comments.chosen', { count: chosen.length })}</label>
        ${button('approve', t('comments.approve'), chosen)} ${button('spam', t('comments.spam'), chosen)} ${button('delete', t('action.delete'), chosen)} ${button('ban', t('comments.ban'), chosen)}
      </div>
      <ul class="cards" data-test="entries-list">
        ${items.map(
          (one) => html`<li key=${one.id} class="entry" data-test=${`entry-${one.id}`} data-state=${one.state}>
            <input type="checkbox" aria-label=${t('comments.choose', { name: one.name })} checked=${chosen.includes(one.id)} onChange=${(/** @type {Event} */ event) => choose(one.id, checkedOf(event))} />
            <div class="text">
              <p><b>${one.name || '–'}</b> <span class="badge">${states()[one.state]}</span>${one.reason && html` <span class="badge">${reasons()[one.reason] ?? one.reason}</span>`}${one.secret && html` <span class="badge">${t('comments.secret')}</span>`}${one.pinned && html` <span class="badge">${t('comments.pinned')}</span>`}${one.reports > 0 && html` <span class="badge bad">${t('comments.reports', { count: one.reports })}</span>`} <span class="faint small"><${Time} at=${one.created} form="ago" /></span></p>
              <p class="said">${one.text}</p>
              <p class="faint small"><a href=${one.url} target="_blank" rel="noopener noreferrer">${one.title || one.url}</a></p>
              ${one.state !== 'deleted' &&
              html`<div class="row wrap">
                ${one.state !== 'shown' && button('approve', t('comments.approve'), [one.id])}
                ${one.state === 'shown' && button('hold', t('comments.hold'), [one.id])}
                ${one.state === 'shown' && button(one.pinned ? 'unpin' : 'pin', one.pinned ? t('comments.unpin') : t('comments.pin'), [one.id])}
                ${one.state === 'shown' && html`<button type="button" data-test="entry-answer" onClick=${() => setAnswering(one)}>${t('comments.answer')}</button>`}
                ${one.state !== 'spam' && button('spam', t('comments.spam'), [one.id])}
                ${button('ban', t('comments.ban'), [one.id])}
                ${button('delete', t('action.delete'), [one.id])}
              </div>`}
            </div>
          </li>`,
        )}
      </ul>`}
    ${next && html`<p><button type="button" disabled=${busy} onClick=${more}>${t('action.more')}</button></p>`}
    ${removing && html`<${Confirm} title=${t('comments.delete-title', { count: removing.length })} text=${t('comments.delete-text')} action=${t('action.delete')} onClose=${() => setRemoving(null)} run=${() => act('delete', removing)} />`}
    ${answering && h(Answer, { site, entry: answering, onClose: () => setAnswering(null), onDone: again })}`;
}

/** @param {{ site: Site, entry: api.CommentEntry, onClose: () => void, onDone: () => Promise<void> }} props */
function Answer({ site, entry, onClose, onDone }) {
  const [name, setName] = useState(kept('comments-name') ?? '');
  const [text, setText] = useState('');
  const send = async () => {
    await api.answerComment(site.id, { parent: entry.id, name, text });
    keep('comments-name', name);
    onClose();
    await onDone();
  };
  return html`<${Dialog} title=${t('comments.answer')} test="answer-dialog" onClose=${onClose}>
    <blockquote class="said faint">${entry.text}</blockquote>
    ${h(Form, {
      send,
      action: t('comments.answer'),
      onCancel: onClose,
      test: 'answer-send',
      errorTest: 'answer-error',
      children: html`
        ${h(Field, { label: t('comments.your-name'), input: (id) => html`<input id=${id} data-test="answer-name" required maxlength="40" value=${name} onInput=${(/** @type {Event} */ event) => setName(textOf(event))} />` })}
        ${h(Field, { label: t('comments.answer-text'), input: (id) => html`<textarea id=${id} data-test="answer-text" required rows="4" value=${text} onInput=${(/** @type {Event} */ event) => setText(textOf(event))}></textarea>` })}`,
    })}
  <//>`;
}

/** @typedef {'hour' | 'day' | 'month'} By */

/** A day of the site's zone, as an input has it. @param {number} ago in days @param {string} zone */
const day = (ago, zone) => new Intl.DateTimeFormat('en-CA', { timeZone: zone, dateStyle: 'short' }).format(Date.now() - ago * 864e5);

/** Days that are shown at first, for each way to count. */
const SPANS = { hour: 1, day: 29, month: 364 };

/** @param {{ site: Site }} props */
function Statistics({ site }) {
  const [by, setBy] = useState(/** @type {By} */ ('day'));
  const [range, setRange] = useState(() => ({ from: day(SPANS.day, site.zone), to: day(0, site.zone) }));
  const { data, error, again } = useLoad(() => api.commentStatistics(site.id, { by, ...range }), [site.id, by, range.from, range.to]);
  const choose = (/** @type {By} */ next) => {
    setBy(next);
    setRange({ from: day(SPANS[next], site.zone), to: day(0, site.zone) });
  };
  const names = { hour: t('comments.hours'), day: t('comments.days'), month: t('comments.months') };
  const date = (/** @type {'from' | 'to'} */ name, /** @type {string} */ label) =>
    h(Field, { label, input: (id) => html`<input id=${id} type="date" data-test=${`statistics-${name}`} value=${range[name]} onChange=${(/** @type {Event} */ event) => textOf(event) && setRange({ ...range, [name]: textOf(event) })} />` });
  return html`<div class="row wrap">
      <div class="segments" role="group" aria-label=${t('comments.statistics')}>
        ${/** @type {By[]} */ (['hour', 'day', 'month']).map((one) => html`<button type="button" data-test=${`by-${one}`} aria-pressed=${by === one} onClick=${() => choose(one)}>${names[one]}</button>`)}
      </div>
      ${date('from', t('comments.from'))} ${date('to', t('comments.to'))}
    </div>
    ${error && html`<${Failed} error=${error} retry=${again} />`}
    ${!data && !error && html`<${Loading} />`}
    ${data &&
    !error &&
    html`<p data-test="statistics-total" data-count=${data.total}>${t('comments.total', { count: data.total })} <span class="faint small">${data.zone}</span></p>
      <${Bars} parts=${data.parts} />`}`;
}

/** One bar for each part; the table beside it says the same to who cannot see them. @param {{ parts: { begins: string, comments: number }[] }} props */
function Bars({ parts }) {
  const most = Math.max(1, ...parts.map((part) => part.comments));
  const width = 100 / parts.length;
  return html`<figure class="card bars">
    <svg viewBox="0 0 100 40" preserveAspectRatio="none" aria-hidden="true">
      ${parts.map((part, index) => html`<rect key=${part.begins} x=${index * width + width * 0.1} width=${width * 0.8} y=${40 - (part.comments / most) * 40} height=${(part.comments / most) * 40}><title>${part.begins}: ${part.comments}</title></rect>`)}
    </svg>
    <figcaption class="row spread faint small"><span>${parts[0]?.begins}</span><span>${t('comments.most', { count: most })}</span><span>${parts.at(-1)?.begins}</span></figcaption>
    <details><summary>${t('comments.table')}</summary>
      <table><thead><tr><th>${t('comments.from')}</th><th class="num">${t('comments.title')}</th></tr></thead>
        <tbody>${parts.filter((part) => part.comments > 0).map((part) => html`<tr key=${part.begins}><td class="mono">${part.begins}</td><td class="num">${part.comments}</td></tr>`)}</tbody></table>
    </details>
  </figure>`;
}

/** What goes into the pages, and what the site is. @param {{ site: Site, again: () => Promise<void> }} props */
function Embed({ site, again }) {
  const [open, setOpen] = useState(/** @type {'edit' | 'rotate' | 'delete' | null} */ (null));
  const close = () => setOpen(null);
  const snippet = `<madang-comments site="${site.key}"></madang-comments>\n<script async src="${location.origin}/comments/widget.js"></script>`;
  return html`<p>${t('comments.snippet-text')}</p>
    <${Copyable} label=${t('comments.snippet')} text=${snippet} test="site-snippet" />
    <p><a class="button" href=${`/comments/demo?site=${site.key}`} target="_blank" rel="noopener" data-test="site-demo">${t('comments.demo')}</a></p>
    <dl class="facts">
      <dt>${t('comments.origins')}</dt><dd>${site.origins.map((origin) => html`<span class="mono block">${origin}</span>`)}</dd>
      <dt>${t('comments.zone')}</dt><dd>${site.zone}</dd>
      <dt>${t('comments.moderation')}</dt><dd>${moderations()[site.moderation]}</dd>
    </dl>
    <div class="row wrap">
      <button type="button" data-test="site-edit" onClick=${() => setOpen('edit')}><${Icon} name="edit" />${t('action.edit')}</button>
      <button type="button" data-test="site-rotate" onClick=${() => setOpen('rotate')}><${Icon} name="key" />${t('comments.rotate')}</button>
      <button type="button" class="danger" data-test="site-delete" onClick=${() => setOpen('delete')}><${Icon} name="trash" />${t('action.delete')}</button>
    </div>
    ${open === 'edit' && h(SiteForm, { site, onClose: close, onDone: () => { close(); again(); } })}
    ${open === 'rotate' && html`<${Confirm} title=${t('comments.rotate')} text=${t('comments.rotate-text')} action=${t('comments.rotate')} onClose=${close} run=${async () => {
      await api.rotateCommentSiteKey(site.id);
      await again();
    }} />`}
    ${open === 'delete' && html`<${Confirm} title=${t('comments.site-delete', { name: site.name })} text=${t('comments.site-delete-text')} action=${t('action.delete')} onClose=${close} run=${async () => {
      await api.deleteCommentSite(site.id);
      go('/comments');
    }} />`}`;
}

/** @returns {Record<string, string>} */
const moderations = () => ({ open: t('comments.moderate-open'), first: t('comments.moderate-first'), all: t('comments.moderate-all') });

/** @param {{ site?: Site, onClose: () => void, onDone: (site: Site) => void }} props */
function SiteForm({ site, onClose, onDone }) {
  const rules = site?.rules ?? { held_words: [], refused_words: [], links_max: 3, reports_hold: 3, guests: true };
  const [draft, setDraft] = useState({
    name: site?.name ?? '',
    origins: site?.origins.join('\n') ?? '',
    zone: site?.zone ?? Intl.DateTimeFormat().resolvedOptions().timeZone,
    moderation: site?.moderation ?? 'open',
    held: rules.held_words.join('\n'),
    refused: rules.refused_words.join('\n'),
    links: String(rules.links_max),
    guests: rules.guests,
  });
  const words = (/** @type {string} */ text) => text.split('\n').map((word) => word.trim()).filter(Boolean);
  const on = (/** @type {keyof typeof draft} */ name) => (/** @type {Event} */ event) => setDraft({ ...draft, [name]: textOf(event) });
  const send = async () => {
    const body = {
      name: draft.name.trim(),
      origins: words(draft.origins),
      zone: draft.zone.trim(),
      moderation: draft.moderation,
      rules: { held_words: words(draft.held), refused_words: words(draft.refused), links_max: Number(draft.links) || 0, reports_hold: rules.reports_hold, guests: draft.guests },
    };
    onDone(site ? await api.changeCommentSite(site.id, body) : await api.createCommentSite(body));
  };
  return html`<${Dialog} title=${site ? site.name : t('comments.add')} test="site-dialog" onClose=${onClose}>
    ${h(Form, {
      send,
      action: t('action.save'),
      onCancel: onClose,
      test: 'site-save',
      errorTest: 'site-error',
      children: html`
        ${h(Field, { label: t('comments.name'), input: (id) => html`<input id=${id} data-test="site-name" required maxlength="40" value=${draft.name} onInput=${on('name')} />` })}
        ${h(Field, { label: t('comments.origins'), hint: t('comments.origins-hint'), input: (id, note) => html`<textarea id=${id} aria-describedby=${note} data-test="site-origins" required rows="2" placeholder="https://blog.example.com" value=${draft.origins} onInput=${on('origins')}></textarea>` })}
        <div class="pair">
          ${h(Field, { label: t('comments.zone'), input: (id) => html`<input id=${id} data-test="site-zone" required value=${draft.zone} onInput=${on('zone')} />` })}
          ${h(Field, { label: t('comments.moderation'), input: (id) => html`<select id=${id} data-test="site-moderation" value=${draft.moderation} onChange=${on('moderation')}>${Object.entries(moderations()).map(([value, name]) => html`<option value=${value}>${name}</option>`)}</select>` })}
        </div>
        ${h(Field, { label: t('comments.held-words'), hint: t('comments.words-hint'), input: (id, note) => html`<textarea id=${id} aria-describedby=${note} rows="2" value=${draft.held} onInput=${on('held')}></textarea>` })}
        ${h(Field, { label: t('comments.refused-words'), input: (id) => html`<textarea id=${id} rows="2" value=${draft.refused} onInput=${on('refused')}></textarea>` })}
        ${h(Field, { label: t('comments.links'), input: (id) => html`<input id=${id} type="number" min="0" max="1000" value=${draft.links} onInput=${on('links')} />` })}
        <label class="check"><input type="checkbox" checked=${draft.guests} onChange=${(/** @type {Event} */ event) => setDraft({ ...draft, guests: checkedOf(event) })} />${t('comments.guests')}</label>`,
    })}
  <//>`;
}

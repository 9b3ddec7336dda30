import { html, useState } from 'preact';
import * as api from '../api.js';
import { t } from '../i18n.js';
import { Field, textOf } from '../parts/form.js';
import { number, Time } from '../parts/format.js';
import { Icon } from '../parts/icons.js';
import { useLoad, usePages } from '../parts/load.js';
import { complain, Empty, Failed, Loading, toast } from '../parts/notices.js';
import { channels } from './endpoints.js';

/** @returns {Record<api.MessageState, string>} */
const states = () => ({
  held: t('messages.held'),
  waiting: t('messages.waiting'),
  sending: t('messages.sending'),
  sent: t('messages.sent'),
  failed: t('messages.failed'),
  discarded: t('messages.discarded'),
});

/** Everything on its way out, on every channel. */
export function Messages() {
  const [filter, setFilter] = useState(/** @type {api.MessageFilter} */ ({}));
  const choose = (/** @type {'state' | 'channel'} */ name, /** @type {Event} */ event) => setFilter({ ...filter, [name]: textOf(event) || undefined });
  const options = (/** @type {Record<string, string>} */ texts) => html`<option value="">${t('dead.any')}</option>${Object.entries(texts).map(([value, text]) => html`<option value=${value}>${text}</option>`)}`;
  return html`<div class="filters">
      <${Field} label=${t('messages.state')} input=${(/** @type {string} */ id) => html`<select id=${id} data-test="messages-state" value=${filter.state ?? ''} onChange=${(/** @type {Event} */ event) => choose('state', event)}>${options(states())}</select>`} />
      <${Field} label=${t('messages.channel')} input=${(/** @type {string} */ id) => html`<select id=${id} data-test="messages-channel" value=${filter.channel ?? ''} onChange=${(/** @type {Event} */ event) => choose('channel', event)}>${options(channels())}</select>`} />
    </div>
    <${List} key=${`${filter.state} ${filter.channel}`} filter=${filter} />`;
}

/** @param {{ filter: api.MessageFilter }} props */
function List({ filter }) {
  const { items, next, error, busy, more, again } = usePages((page) => api.messages({ ...filter, ...page }), 50);
  if (!items) return error ? html`<${Failed} error=${error} retry=${again} />` : html`<${Loading} />`;
  if (items.length === 0) return html`<${Empty} title=${t('messages.none')} text=${t('messages.none-text')} />`;
  return html`${error && html`<${Failed} error=${error} retry=${again} />`}
    ${items.some((message) => message.state === 'held' && message.channel === 'email') && html`<div class="notice warn"><${Icon} name="mail" /><p>${t('messages.held-text')}</p></div>`}
    <ul class="messages" data-test="messages-list">
      ${items.map((message) => html`<${Item} key=${message.id} message=${message} again=${again} />`)}
    </ul>
    ${next && html`<p><button type="button" disabled=${busy} onClick=${more}>${t('action.more')}</button></p>`}`;
}

/** @param {{ message: api.Message, again: () => Promise<void> }} props */
function Item({ message, again }) {
  const [open, setOpen] = useState(false);
  const [busy, setBusy] = useState(false);
  const run = async (/** @type {'release' | 'retry' | 'discard'} */ deed) => {
    setBusy(true);
    try {
      await api.doMessage(message.id, deed);
      toast(t('messages.done'));
      await again();
    } catch (problem) {
      complain(problem);
    }
    setBusy(false);
  };
  const button = (/** @type {'release' | 'retry' | 'discard'} */ deed, /** @type {string} */ text) => html`<button type="button" disabled=${busy} data-test=${`message-${deed}`} onClick=${() => run(deed)}>${text}</button>`;
  return html`<li data-state=${message.state} data-channel=${message.channel}>
    <details onToggle=${(/** @type {Event} */ event) => setOpen(/** @type {HTMLDetailsElement} */ (event.currentTarget).open)}>
      <summary>
        <span class=${`badge ${message.state}`}>${states()[message.state] ?? message.state}</span>
        <span class="subject">${message.subject}</span>
        <span class="faint to">${channels()[message.channel]} · ${message.to}</span>
        <span class="faint small"><${Time} at=${message.sent ?? message.created} form="ago" /></span>
      </summary>
      ${message.last_error && html`<div class="notice bad"><p>${message.last_error}</p></div>`}
      <pre class="mail">${message.body}</pre>
      <p class="faint small">${t('messages.facts', { attempts: message.attempts, id: message.message_id })}</p>
      ${open && html`<${Attempts} key=${`${message.state} ${message.attempts}`} id=${message.id} />`}
      <p class="row">
        ${message.state === 'held' && message.channel === 'email' && button('release', t('messages.release'))}
        ${message.state === 'failed' && button('retry', t('messages.retry'))}
        ${(message.state === 'failed' || message.state === 'held') && button('discard', t('messages.discard'))}
      </p>
    </details>
  </li>`;
}

/** @param {{ id: string }} props */
function Attempts({ id }) {
  const { data, error, again } = useLoad(() => api.message(id), [id]);
  if (!data) return error ? html`<${Failed} error=${error} retry=${again} />` : html`<${Loading} />`;
  if (data.attempts_made.length === 0) return null;
  const outcomes = { unknown: t('attempts.unknown'), sent: t('messages.sent'), retry: t('attempts.retry'), failed: t('messages.failed') };
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${t('attempts.title')}>
    <table class="dense" data-test="attempts-list">
      <thead><tr><th class="num">#</th><th>${t('attempts.began')}</th><th>${t('attempts.outcome')}</th><th>${t('attempts.status')}</th><th class="num">ms</th><th>${t('attempts.answer')}</th></tr></thead>
      <tbody>
        ${data.attempts_made.map(
          (one) => html`<tr key=${one.number} data-outcome=${one.outcome}>
            <td class="num">${one.number}</td>
            <td><${Time} at=${one.began} /></td>
            <td>${outcomes[one.outcome]}</td>
            <td>${one.status ?? '–'}</td>
            <td class="num">${one.took_ms === null ? '–' : number(Math.round(one.took_ms))}</td>
            <td>${one.error ?? one.answer ?? ''}</td>
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

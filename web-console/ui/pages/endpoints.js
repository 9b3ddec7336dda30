import { h, html, useState } from 'preact';
import * as api from '../api.js';
import { t } from '../i18n.js';
import { Confirm, Dialog } from '../parts/dialog.js';
import { Copyable, Field, Form, textOf } from '../parts/form.js';
import { number, Time } from '../parts/format.js';
import { Icon } from '../parts/icons.js';
import { useLoad } from '../parts/load.js';
import { complain, Empty, Failed, Loading } from '../parts/notices.js';

/** @typedef {api.Endpoint} Endpoint */
/** @typedef {{ add: true } | { edit: Endpoint } | { remove: Endpoint } | { rotate: Endpoint } | { secret: string } | { test: Endpoint } | null} Open */

/** @returns {Record<api.Channel, string>} */
export const channels = () => ({ email: t('channel.email'), webhook: 'Webhook', slack: 'Slack' });

/** Names of endpoints by their ids, as far as they are known. */
export function useEndpointNames() {
  const { data } = useLoad(() => api.all(api.endpoints), []);
  return (/** @type {string} */ id) => data?.find((endpoint) => endpoint.id === id)?.name ?? id;
}

/** Webhooks and Slack channels. */
export function Endpoints() {
  const { data, error, again } = useLoad(() => api.all(api.endpoints), []);
  const [open, setOpen] = useState(/** @type {Open} */ (null));
  const close = () => setOpen(null);
  const add = html`<button type="button" class="primary" data-test="endpoint-new" onClick=${() => setOpen({ add: true })}><${Icon} name="plus" />${t('endpoints.add')}</button>`;
  return html`${error && html`<${Failed} error=${error} retry=${again} />`}
    ${!data && !error && html`<${Loading} />`}
    ${data && data.length === 0 && html`<${Empty} title=${t('endpoints.none')} text=${t('endpoints.none-text')}>${add}<//>`}
    ${data && data.length > 0 && html`<div class="above">${add}</div><ul class="cards" data-test="endpoints-list">${data.map((endpoint) => html`<${Card} key=${endpoint.id} endpoint=${endpoint} again=${again} setOpen=${setOpen} />`)}</ul>`}
    ${open && ('add' in open || 'edit' in open) && h(EndpointForm, { endpoint: 'edit' in open ? open.edit : undefined, onClose: close, onDone: (secret) => { setOpen(secret ? { secret } : null); again(); } })}
    ${open && 'secret' in open && html`<${SecretOnce} secret=${open.secret} onClose=${close} />`}
    ${open && 'test' in open && html`<${Tested} endpoint=${open.test} onClose=${close} />`}
    ${open &&
    'rotate' in open &&
    html`<${Confirm} title=${t('endpoints.rotate')} text=${t('endpoints.rotate-text')} action=${t('endpoints.rotate')} onClose=${close} run=${async () => {
      const { secret } = await api.rotateEndpoint(open.rotate.id);
      await again();
      // The confirmation closes itself after this.
      setTimeout(() => setOpen({ secret }));
    }} />`}
    ${open &&
    'remove' in open &&
    html`<${Confirm} title=${t('endpoints.delete', { name: open.remove.name })} text=${t('endpoints.delete-text')} action=${t('action.delete')} onClose=${close} run=${async () => {
      await api.deleteEndpoint(open.remove.id);
      await again();
    }} />`}`;
}

/** @param {{ endpoint: Endpoint, again: () => Promise<void>, setOpen: (open: Open) => void }} props */
function Card({ endpoint, again, setOpen }) {
  const on = endpoint.state === 'active';
  const { name } = endpoint;
  const turn = async () => {
    try {
      await api.changeEndpoint(endpoint.id, { enabled: !on });
    } catch (problem) {
      complain(problem);
    }
    await again();
  };
  return html`<li class=${on ? '' : 'off'} data-test=${`endpoint-${name}`} data-state=${endpoint.state}>
    <button type="button" role="switch" class="switch" aria-checked=${on} aria-label=${t('endpoints.enabled', { name })} data-test="endpoint-switch" onClick=${turn}></button>
    <div class="text">
      <h2>${name} <span class="badge">${channels()[endpoint.channel]}</span></h2>
      <p class="mono small">${endpoint.url}</p>
      ${endpoint.state === 'paused' && html`<p class="bad">${t('endpoints.paused', { reason: endpoint.reason ?? '' })}</p>`}
      ${on && endpoint.failing_since && html`<p class="bad">${t('endpoints.failing', { count: number(endpoint.failures) })} <${Time} at=${endpoint.failing_since} form="ago" /></p>`}
      ${on && !endpoint.failing_since && endpoint.last_success && html`<p class="faint small">${t('endpoints.last')} <${Time} at=${endpoint.last_success} form="ago" /></p>`}
    </div>
    <div class="row">
      <button type="button" data-test="endpoint-test" onClick=${() => setOpen({ test: endpoint })}>${t('endpoints.test')}</button>
      ${endpoint.channel === 'webhook' && html`<button type="button" class="icon" data-test="endpoint-rotate" aria-label=${`${t('endpoints.rotate')}: ${name}`} title=${t('endpoints.rotate')} onClick=${() => setOpen({ rotate: endpoint })}><${Icon} name="key" /></button>`}
      <button type="button" class="icon" aria-label=${`${t('action.edit')}: ${name}`} title=${t('action.edit')} onClick=${() => setOpen({ edit: endpoint })}><${Icon} name="edit" /></button>
      <button type="button" class="icon" data-test="endpoint-delete" aria-label=${t('endpoints.delete', { name })} title=${t('action.delete')} onClick=${() => setOpen({ remove: endpoint })}><${Icon} name="trash" /></button>
    </div>
  </li>`;
}

/** @param {{ endpoint?: Endpoint, onClose: () => void, onDone: (secret: string | null) => void }} props */
function EndpointForm({ endpoint, onClose, onDone }) {
  const [draft, setDraft] = useState({
    channel: /** @type {api.Channel} */ (endpoint?.channel ?? 'webhook'),
    name: endpoint?.name ?? '',
    url: '',
    types: endpoint?.event_types.join(', ') ?? '',
    contact: endpoint?.contact ?? '',
  });
  const input = (/** @type {'name' | 'url' | 'types' | 'contact'} */ name, /** @type {Record<string, unknown>} */ more) => (/** @type {string} */ id, /** @type {string | undefined} */ note) =>
    html`<input id=${id} aria-describedby=${note} data-test=${`endpoint-${name}-input`} value=${draft[name]} onInput=${(/** @type {Event} */ event) => setDraft({ ...draft, [name]: textOf(event) })} ...${more} />`;
  const send = async () => {
    const body = { name: draft.name.trim(), event_types: draft.types.split(/[,\s]+/).filter(Boolean), contact: draft.contact.trim() || null };
    const url = draft.url.trim();
    if (!endpoint) return onDone((await api.createEndpoint({ channel: draft.channel, url, ...body })).secret);
    await api.changeEndpoint(endpoint.id, url ? { ...body, url } : body);
    return onDone(null);
  };
  return html`<${Dialog} title=${endpoint ? endpoint.name : t('endpoints.add')} test="endpoint-dialog" onClose=${onClose}>
    ${h(Form, {
      send,
      action: t('action.save'),
      onCancel: onClose,
      test: 'endpoint-save',
      errorTest: 'endpoint-error',
      children: html`
        ${!endpoint &&
        h(Field, {
          label: t('messages.channel'),
          input: (id) => html`<select id=${id} data-test="endpoint-channel" value=${draft.channel} onChange=${(/** @type {Event} */ event) => setDraft({ ...draft, channel: /** @type {api.Channel} */ (textOf(event)) })}>
            <option value="webhook">Webhook</option>
            <option value="slack">Slack</option>
          </select>`,
        })}
        ${h(Field, { label: t('endpoints.name'), input: input('name', { required: true, maxlength: 120 }) })}
        ${h(Field, { label: 'URL', hint: endpoint ? t('endpoints.url-keep', { url: endpoint.url }) : t('endpoints.url-hint'), input: input('url', { type: 'url', required: !endpoint, autocomplete: 'off', placeholder: 'https://' }) })}
        ${h(Field, { label: t('endpoints.types'), hint: t('endpoints.types-hint'), input: input('types', { placeholder: 'alert.raised' }) })}
        ${h(Field, { label: t('endpoints.contact'), hint: t('endpoints.contact-hint'), input: input('contact', { type: 'email' }) })}`,
    })}
  <//>`;
}

/** @param {{ secret: string, onClose: () => void }} props */
function SecretOnce({ secret, onClose }) {
  return html`<${Dialog} title=${t('endpoints.secret')} test="secret-once" onClose=${onClose}>
    <p>${t('endpoints.secret-text')}</p>
    <${Copyable} label=${t('endpoints.secret')} text=${secret} test="endpoint-secret" />
    <footer><button type="button" class="primary" data-test="secret-done" onClick=${onClose}>${t('endpoints.secret-done')}</button></footer>
  <//>`;
}

/** @param {{ endpoint: Endpoint, onClose: () => void }} props */
function Tested({ endpoint, onClose }) {
  const { data, error, again } = useLoad(() => api.testEndpoint(endpoint.id), [endpoint.id]);
  return html`<${Dialog} title=${`${t('endpoints.test')}: ${endpoint.name}`} test="test-dialog" onClose=${onClose}>
    ${error && html`<${Failed} error=${error} retry=${again} />`}
    ${!data && !error && html`<${Loading} />`}
    ${data &&
    html`<div class=${data.taken ? 'notice' : 'notice bad'} role="status" data-test="test-result" data-taken=${String(data.taken)}><p>${data.taken ? t('endpoints.taken') : data.error}</p></div>
      <dl class="facts">
        <dt>${t('attempts.status')}</dt><dd>${data.status ?? '–'}</dd>
        <dt>ms</dt><dd>${number(Math.round(data.took_ms))}</dd>
        ${data.answer && html`<dt>${t('attempts.answer')}</dt><dd><code>${data.answer}</code></dd>`}
      </dl>`}
    <footer><button type="button" class="primary" onClick=${onClose}>${t('action.close')}</button></footer>
  <//>`;
}

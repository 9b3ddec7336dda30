// Which tools let people in by this server, and a new one.
import { h, html, useState } from 'preact';
import { createTool, deleteTool, tools } from '../api.js';
import { t } from '../i18n.js';
import { AccountTabs } from '../parts/account-tabs.js';
import { checkedOf, Copyable, Field, Form, textOf } from '../parts/form.js';
import { Time } from '../parts/format.js';
import { usePages } from '../parts/load.js';
import { complain, Empty, Failed, Loading } from '../parts/notices.js';
import { Input } from './sign-in.js';

const lines = (/** @type {string} */ text) => text.split('\n').map((line) => line.trim()).filter(Boolean);

export default function Tools() {
  const list = usePages(tools, 50);
  return html`<div class="page">
    <h1>${t('tools.title')}</h1>
    <${AccountTabs} />
    <section class="card"><h2>${t('tools.add')}</h2><p>${t('tools.text')}</p>${h(Add, { onDone: list.again })}</section>
    ${h(Known, list)}
  </div>`;
}

/** @param {{ onDone: () => Promise<void> }} props */
function Add({ onDone }) {
  const [name, setName] = useState('');
  const [back, setBack] = useState('');
  const [after, setAfter] = useState('');
  const [secret, setSecret] = useState(true);
  const [older, setOlder] = useState(false);
  const [made, setMade] = useState(/** @type {import('../api.js').ToolMade | null} */ (null));
  const send = async () => {
    setMade(await createTool({ name: name.trim(), redirect_uris: lines(back), logout_uris: lines(after), has_secret: secret, id_token_signed_response_alg: older ? 'RS256' : undefined }));
    setName('');
    setBack('');
    setAfter('');
    await onDone();
  };
  const area = (/** @type {string} */ label, /** @type {string} */ value, /** @type {(text: string) => void} */ set, /** @type {string} */ test) =>
    h(Field, { label, hint: t('tools.lines'), input: (id, note) => html`<textarea id=${id} aria-describedby=${note} rows="2" data-test=${test} value=${value} onInput=${(/** @type {Event} */ event) => set(textOf(event))}></textarea>` });
  return html`${h(Form, {
    send,
    action: t('tools.add'),
    test: 'tool-submit',
    errorTest: 'tool-error',
    children: [
      h(Input, { label: t('account.name'), type: 'text', name: 'off', value: name, set: setName, test: 'tool-name' }),
      area(t('tools.back'), back, setBack, 'tool-back'),
      area(t('tools.after'), after, setAfter, 'tool-after'),
      html`<label class="check"><input type="checkbox" checked=${secret} data-test="tool-secret" onChange=${(/** @type {Event} */ event) => setSecret(checkedOf(event))} /> ${t('tools.secret')}</label>`,
      html`<label class="check"><input type="checkbox" checked=${older} data-test="tool-rs256" onChange=${(/** @type {Event} */ event) => setOlder(checkedOf(event))} /> ${t('tools.algorithm')}</label>`,
    ],
  })}
  ${made && html`<p>${t('tools.hand-over')}</p>
    <${Copyable} label="issuer" text=${location.origin} test="tool-made-issuer" />
    <${Copyable} label="client_id" text=${made.tool.id} test="tool-made-id" />
    ${made.secret && html`<${Copyable} label="client_secret" text=${made.secret} test="tool-made-secret" />`}`}`;
}

/** @param {ReturnType<typeof usePages<import('../api.js').Tool>>} props */
function Known({ items, next, error, busy, more, again }) {
  const forget = (/** @type {string} */ id) => deleteTool(id).then(again, complain);
  if (!items) return error ? html`<${Failed} error=${error} retry=${again} />` : html`<${Loading} />`;
  if (items.length === 0) return html`<${Empty} title=${t('tools.none')} />`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${t('tools.title')}>
      <table data-test="tools-list">
        <thead><tr><th>${t('account.name')}</th><th>client_id</th><th>${t('tools.back')}</th><th>${t('tools.since')}</th><th class="hide-text">${t('action.title')}</th></tr></thead>
        <tbody>${items.map(
          (one) => html`<tr key=${one.id}>
            <td>${one.name}</td><td><code>${one.id}</code></td><td>${one.redirect_uris.join(' ')}</td><td><${Time} at=${one.created} /></td>
            <td class="actions"><button type="button" data-test="tool-forget" onClick=${() => forget(one.id)}>${t('tools.forget')}</button></td>
          </tr>`,
        )}</tbody>
      </table>
    </div>
    ${next && html`<p><button type="button" disabled=${busy} onClick=${more}>${t('action.more')}</button></p>`}`;
}

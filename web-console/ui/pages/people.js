// Who is invited into the organisation.
import { h, html, useState } from 'preact';
import * as api from '../api.js';
import { t } from '../i18n.js';
import { AccountTabs } from '../parts/account-tabs.js';
import { Copyable, Field, Form, textOf } from '../parts/form.js';
import { Time } from '../parts/format.js';
import { usePages } from '../parts/load.js';
import { complain, Empty, Failed, Loading, toast } from '../parts/notices.js';
import { Input } from './sign-in.js';

const roles = () => ({ member: t('people.member'), admin: t('people.admin') });

export default function People() {
  const list = usePages(api.invitations, 50);
  return html`<div class="page">
    <h1>${t('people.title')}</h1>
    <${AccountTabs} />
    <section class="card"><h2>${t('people.invite')}</h2>${h(Invite, { onDone: list.again })}</section>
    ${h(Waiting, list)}
  </div>`;
}

/** @param {{ onDone: () => Promise<void> }} props */
function Invite({ onDone }) {
  const [email, setEmail] = useState('');
  const [role, setRole] = useState('member');
  const [link, setLink] = useState('');
  const send = async () => {
    const { token } = await api.invite(email, role);
    setLink(token ? `${location.origin}/#/invitation?token=${token}` : '');
    if (!token) toast(t('people.mailed', { email }));
    setEmail('');
    await onDone();
  };
  return html`${h(Form, {
    send,
    action: t('people.invite'),
    test: 'invite-submit',
    errorTest: 'invite-error',
    children: [
      h(Input, { label: t('account.email'), type: 'email', name: 'off', value: email, set: setEmail, test: 'invite-email' }),
      h(Field, {
        label: t('people.role'),
        input: (id) => html`<select id=${id} data-test="invite-role" value=${role} onChange=${(/** @type {Event} */ event) => setRole(textOf(event))}>
          ${Object.entries(roles()).map(([name, text]) => html`<option value=${name}>${text}</option>`)}
        </select>`,
      }),
    ],
  })}
  ${link && html`<p>${t('people.hand-over')}</p><${Copyable} label=${t('people.link')} text=${link} test="invite-link" />`}`;
}

/** @param {ReturnType<typeof usePages<api.Invitation>>} props */
function Waiting({ items, next, error, busy, more, again }) {
  const withdraw = (/** @type {string} */ id) => api.withdrawInvitation(id).then(again, complain);
  if (!items) return error ? html`<${Failed} error=${error} retry=${again} />` : html`<${Loading} />`;
  if (items.length === 0) return html`<${Empty} title=${t('people.none')} />`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${t('people.waiting')}>
      <table data-test="invitations-list">
        <thead><tr><th>${t('account.email')}</th><th>${t('people.role')}</th><th>${t('people.by')}</th><th>${t('people.until')}</th><th class="hide-text">${t('action.title')}</th></tr></thead>
        <tbody>${items.map(
          (one) => html`<tr key=${one.id}>
            <td>${one.email}</td><td>${roles()[one.role]}</td><td>${one.invited_by}</td><td><${Time} at=${one.expires} /></td>
            <td class="actions"><button type="button" data-test="invitation-withdraw" onClick=${() => withdraw(one.id)}>${t('people.withdraw')}</button></td>
          </tr>`,
        )}</tbody>
      </table>
    </div>
    ${next && html`<p><button type="button" disabled=${busy} onClick=${more}>${t('action.more')}</button></p>`}`;
}

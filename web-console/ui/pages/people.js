// Who belongs to the organisation, with which role; invitations and groups are beside it.
import { h, html, useState } from 'preact';
import { account, may } from '../account.js';
import * as api from '../api.js';
import { t } from '../i18n.js';
import { Confirm } from '../parts/dialog.js';
import { Copyable, Field, Form, textOf } from '../parts/form.js';
import { Time } from '../parts/format.js';
import { Icon } from '../parts/icons.js';
import { usePages } from '../parts/load.js';
import { complain, Empty, Failed, Loading, toast } from '../parts/notices.js';
import { Removal } from '../parts/removal.js';
import { Tabs } from '../parts/tabs.js';
import { route } from '../router.js';
import { Directory, DirectoryNote, Groups, WRITE } from './groups.js';
import { Input } from './sign-in.js';

/** @returns {Record<api.Role, string>} */
const roles = () => ({ admin: t('people.admin'), member: t('people.member'), user: t('people.user') });

const roleOptions = () => Object.entries(roles()).map(([name, text]) => html`<option value=${name}>${text}</option>`);

export default function PeoplePage() {
  const part = route.value.parts[1] ?? '';
  return html`<div class="page">
    <header class="head">
      <h1>${t('people.title')}</h1>
      ${part === '' && may(WRITE) && html`<a class="button primary" href="#/people/invitations" data-test="people-invite"><${Icon} name="plus" />${t('people.invite')}</a>`}
    </header>
    <${Tabs} label=${t('people.title')} tabs=${[
      { path: '/people', text: t('people.title'), test: 'tab-people' },
      ...(may(WRITE) ? [{ path: '/people/invitations', text: t('people.invitations'), test: 'tab-invitations' }] : []),
      { path: '/people/groups', text: t('groups.title'), test: 'tab-groups' },
    ]} />
    ${part === '' && html`<${List} />`}
    ${part === 'invitations' && html`<${Invitations} />`}
    ${part === 'groups' && html`<${Groups} />`}
  </div>`;
}

function List() {
  const [filter, setFilter] = useState({ email: '', state: '' });
  const asked = { email: filter.email.trim() || undefined, state: filter.state || undefined };
  const { items, next, error, busy, more, again, edit } = usePages((page) => api.people(asked, page), 50, [asked.email, asked.state]);
  const [open, setOpen] = useState(/** @type {{ person: api.Person, remove: boolean } | null} */ (null));
  const close = () => setOpen(null);
  const changes = may(WRITE);
  const change = async (/** @type {api.Person} */ { id }, /** @type {Parameters<typeof api.changePerson>[1]} */ body) => {
    const changed = await api.changePerson(id, body);
    edit((all) => all.map((one) => (one.id === id ? changed : one)));
    toast(t('messages.done'));
  };
  const setRole = async (/** @type {api.Person} */ person, /** @type {Event} */ event) => {
    try {
      await change(person, { role: textOf(event) });
    } catch (problem) {
      complain(problem);
      // Drawn again, so that it shows the role that there is.
      edit((all) => [...all]);
    }
  };
  const states = { active: t('people.active'), suspended: t('people.suspended') };
  return html`<div class="above spread">
      <input type="search" class="search" aria-label=${t('people.find')} placeholder=${t('people.find')} data-test="people-search" value=${filter.email} onInput=${(/** @type {Event} */ event) => setFilter({ ...filter, email: textOf(event) })} />
      <label class="inline"><span>${t('alerts.state')}</span>
        <select data-test="people-state" value=${filter.state} onChange=${(/** @type {Event} */ event) => setFilter({ ...filter, state: textOf(event) })}>
          <option value="">${t('dead.any')}</option>
          ${Object.entries(states).map(([state, text]) => html`<option value=${state}>${text}</option>`)}
        </select>
      </label>
    </div>
    ${error && html`<${Failed} error=${error} retry=${again} />`}
    ${!items && !error && html`<${Loading} />`}
    ${items?.length === 0 && html`<p class="faint">${t('people.nobody')}</p>`}
    ${items &&
    items.length > 0 &&
    html`<${DirectoryNote} of=${items} />
      <div class="scroll" tabindex="0" role="region" aria-label=${t('people.title')}>
        <table class="letters" data-test="people-list">
          <thead><tr><th>${t('account.email')}</th><th>${t('people.role')}</th><th>${t('alerts.state')}</th><th>${t('groups.title')}</th><th>${t('people.signed-in')}</th>${changes && html`<th class="hide-text">${t('action.title')}</th>`}</tr></thead>
          <tbody>
            ${items.map((/** @type {api.Person} */ person) => {
              const name = person.email;
              const isOwn = name === account.value?.email;
              const isActive = person.state === 'active';
              const hint = isOwn ? t('people.own') : undefined;
              return html`<tr key=${person.id} data-test=${`person-${name}`} data-state=${person.state}>
                <td><b>${name}</b> ${person.from_directory && html`<${Directory} />`}<span class="faint small block">${[person.name, !person.is_verified && t('people.unverified'), changes && hint].filter(Boolean).join(' · ')}</span></td>
                <td>${changes ? html`<select aria-label=${`${t('people.role')}: ${name}`} title=${hint} disabled=${isOwn} data-test="person-role" value=${person.role} onChange=${(/** @type {Event} */ event) => setRole(person, event)}>${roleOptions()}</select>` : roles()[person.role]}</td>
                <td><span class=${isActive ? 'badge' : 'badge failed'}>${states[person.state]}</span></td>
                <td>${person.groups.map((group) => group.name).join(', ')}</td>
                <td><${Time} at=${person.signed_in} /></td>
                ${changes &&
                html`<td class="actions">
                  <button type="button" disabled=${isOwn} title=${hint} aria-label=${isActive ? t('people.suspend', { name }) : t('people.restore', { name })} data-test=${isActive ? 'person-suspend' : 'person-restore'} onClick=${() => setOpen({ person, remove: false })}>${isActive ? t('people.suspend-short') : t('people.restore-short')}</button>
                  <a class="button icon" href=${api.personExport(person.id)} download title=${t('people.export')} aria-label=${`${t('people.export')}: ${name}`} data-test="person-export"><${Icon} name="download" /></a>
                  <button type="button" class="icon" disabled=${isOwn} title=${hint ?? t('action.delete')} aria-label=${t('people.delete', { name })} data-test="person-remove" onClick=${() => setOpen({ person, remove: true })}><${Icon} name="trash" /></button>
                </td>`}
              </tr>`;
            })}
          </tbody>
        </table>
      </div>
      ${next && html`<p><button type="button" disabled=${busy} onClick=${more}>${t('action.more')}</button></p>`}`}
    ${open?.remove && h(Removal, { ...removing(open.person), onClose: close, run: async (texts) => {
      await api.removePerson(open.person.id, texts);
      edit((all) => all.filter((one) => one.id !== open.person.id));
    } })}
    ${open && !open.remove && h(Confirm, { ...switching(open.person), onClose: close, run: () => change(open.person, { state: open.person.state === 'active' ? 'suspended' : 'active' }) })}`;
}

/** @param {api.Person} person */
const removing = ({ email: name }) => ({ name, title: t('people.delete', { name }) });

/** @param {api.Person} person */
const switching = ({ email: name, state }) =>
  state === 'active'
    ? { title: t('people.suspend', { name }), text: t('people.suspend-text'), action: t('people.suspend-short') }
    : { title: t('people.restore', { name }), text: t('people.restore-text'), action: t('people.restore-short') };

function Invitations() {
  const list = usePages(api.invitations, 50);
  return html`<section class="card"><h2>${t('people.invite')}</h2>${h(Invite, { onDone: list.again })}</section>
    ${h(Waiting, list)}`;
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
        input: (id) => html`<select id=${id} data-test="invite-role" value=${role} onChange=${(/** @type {Event} */ event) => setRole(textOf(event))}>${roleOptions()}</select>`,
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

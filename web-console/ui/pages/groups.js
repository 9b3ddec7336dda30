// Groups give their members rights.
import { h, html, useState } from 'preact';
import { may } from '../account.js';
import * as api from '../api.js';
import { t } from '../i18n.js';
import { Confirm, Dialog } from '../parts/dialog.js';
import { Field, Form, textOf } from '../parts/form.js';
import { blank, Grants } from '../parts/grants.js';
import { Icon } from '../parts/icons.js';
import { useLoad, usePages } from '../parts/load.js';
import { complain, Empty, Failed, Loading, toast } from '../parts/notices.js';

export const WRITE = 'accounts.write';

export const Directory = () => html`<span class="badge">${t('people.directory')}</span>`;

/** @param {{ of: { from_directory: boolean }[] }} props */
export const DirectoryNote = ({ of }) => of.some((one) => one.from_directory) && html`<p class="faint small">${t('people.directory-text')}</p>`;

export function Groups() {
  const { data, error, again } = useLoad(() => api.all(api.groups), []);
  const [open, setOpen] = useState(/** @type {{ edit: api.Group | null } | { remove: api.Group } | { members: api.Group } | null} */ (null));
  const close = () => setOpen(null);
  const changes = may(WRITE);
  const add = changes && html`<button type="button" class="primary" data-test="group-new" onClick=${() => setOpen({ edit: null })}><${Icon} name="plus" />${t('groups.add')}</button>`;
  return html`${error && html`<${Failed} error=${error} retry=${again} />`}
    ${!data && !error && html`<${Loading} />`}
    ${data?.length === 0 && html`<${Empty} title=${t('groups.none')} text=${t('groups.none-text')}>${add}<//>`}
    ${data &&
    data.length > 0 &&
    html`<div class="above">${add}</div>
      <${DirectoryNote} of=${data} />
      <ul class="cards" data-test="groups-list">
        ${data.map(
          (group) => html`<li key=${group.id} data-test=${`group-item-${group.name}`}>
            <div class="text">
              <h2>${group.name} ${group.from_directory && html`<${Directory} />`}</h2>
              <p class="mono small">${group.grants.map((grant) => html`<span class="block">${grant.action} · ${grant.resource}</span>`)}</p>
            </div>
            <div class="row">
              <button type="button" data-test="group-members" onClick=${() => setOpen({ members: group })}>${t('groups.members', { count: group.members })}</button>
              ${changes &&
              html`<button type="button" class="icon" aria-label=${t('groups.edit', { name: group.name })} title=${t('action.edit')} data-test="group-edit" onClick=${() => setOpen({ edit: group })}><${Icon} name="edit" /></button>
                <button type="button" class="icon" aria-label=${t('groups.delete', { name: group.name })} title=${t('action.delete')} data-test="group-delete" onClick=${() => setOpen({ remove: group })}><${Icon} name="trash" /></button>`}
            </div>
          </li>`,
        )}
      </ul>`}
    ${open && 'edit' in open && h(GroupForm, { group: open.edit, onClose: close, onDone: () => { close(); again(); } })}
    ${open && 'members' in open && h(Members, { group: open.members, onClose: close, onChanged: again })}
    ${open &&
    'remove' in open &&
    html`<${Confirm} title=${t('groups.delete', { name: open.remove.name })} text=${t('groups.delete-text')} action=${t('action.delete')} onClose=${close} run=${async () => {
      await api.deleteGroup(open.remove.id);
      await again();
    }} />`}`;
}

/** @param {{ group: api.Group | null, onClose: () => void, onDone: () => void }} props */
function GroupForm({ group, onClose, onDone }) {
  const [name, setName] = useState(group?.name ?? '');
  const [grants, setGrants] = useState(group?.grants ?? [blank()]);
  const send = async () => {
    const body = { name: name.trim(), grants: grants.filter((grant) => grant.action !== '') };
    if (!group) await api.createGroup(body);
    // A directory owns the name of its groups.
    else await api.changeGroup(group.id, group.from_directory ? { grants: body.grants } : body);
    toast(t('groups.saved', { name: body.name }));
    onDone();
  };
  return h(Dialog, {
    title: group ? t('groups.edit', { name: group.name }) : t('groups.add'),
    onClose,
    test: 'group-dialog',
    children: h(Form, {
      send,
      action: group ? t('action.save') : t('groups.add'),
      onCancel: onClose,
      test: 'group-save',
      errorTest: 'group-error',
      children: html`${h(Field, {
        label: t('devices.name'),
        hint: group?.from_directory && t('people.directory-text'),
        input: (id, note) => html`<input id=${id} aria-describedby=${note} required disabled=${group?.from_directory} autocomplete="off" data-test="group-name" value=${name} onInput=${(/** @type {Event} */ event) => setName(textOf(event))} />`,
      })}
      <fieldset class="plain"><legend>${t('keys.grants')}</legend>${h(Grants, { grants, set: setGrants })}</fieldset>`,
    }),
  });
}

/** @param {{ group: api.Group, onClose: () => void, onChanged: () => Promise<void> }} props */
function Members({ group, onClose, onChanged }) {
  const { items, next, error, busy, more, again } = usePages((page) => api.members(group.id, page), 50);
  const [email, setEmail] = useState('');
  const [chosen, setChosen] = useState('');
  const changes = may(WRITE);
  const people = useLoad(async () => (changes ? api.people({ email: email.trim() || undefined }) : null), [email]);
  const others = people.data?.items.filter((person) => person.groups.every(({ id }) => id !== group.id)) ?? [];
  const is = others.some(({ id }) => id === chosen) ? chosen : '';
  const done = async (/** @type {Promise<void>} */ change) => {
    try {
      await change;
      setChosen('');
      await Promise.all([again(), people.again(), onChanged()]);
    } catch (problem) {
      complain(problem);
    }
  };
  return html`<${Dialog} title=${t('groups.members-of', { name: group.name })} onClose=${onClose} test="members-dialog">
    <${DirectoryNote} of=${[group]} />
    ${changes &&
    html`${(people.data?.next || email) && html`<input type="search" aria-label=${t('people.find')} placeholder=${t('people.find')} data-test="member-search" value=${email} onInput=${(/** @type {Event} */ event) => setEmail(textOf(event))} />`}
      <div class="line">
        <select aria-label=${t('groups.choose')} data-test="member-add" value=${is} onChange=${(/** @type {Event} */ event) => setChosen(textOf(event))}>
          <option value="">${t('groups.choose')}</option>
          ${others.map((person) => html`<option key=${person.id} value=${person.id}>${[person.email, person.name].filter(Boolean).join(' · ')}</option>`)}
        </select>
        <button type="button" disabled=${!is} data-test="member-take" onClick=${() => done(api.putMember(group.id, is))}>${t('groups.take')}</button>
      </div>`}
    ${(error || people.error) && html`<${Failed} error=${error || people.error} retry=${() => void Promise.all([again(), people.again()])} />`}
    ${!items && !error && html`<${Loading} />`}
    ${items?.length === 0 && html`<p class="faint">${t('groups.nobody')}</p>`}
    <ul class="sessions" data-test="members-list">
      ${items?.map(
        (person) => html`<li key=${person.id}>
          <span>${person.email}<span class="faint small block">${person.name}</span></span>
          ${changes && html`<button type="button" class="icon" aria-label=${t('groups.leave', { name: person.email })} title=${t('action.delete')} data-test=${`member-remove-${person.email}`} onClick=${() => done(api.removeMember(group.id, person.id))}><${Icon} name="close" /></button>`}
        </li>`,
      )}
    </ul>
    ${next && html`<p><button type="button" disabled=${busy} onClick=${more}>${t('action.more')}</button></p>`}
  <//>`;
}

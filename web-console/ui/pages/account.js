// How one's own account is entered: second factor, passkeys, sessions; and the tools that were let in with it.
import { h, html, useState } from 'preact';
import { account, leave, refreshAccount } from '../account.js';
import * as api from '../api.js';
import { t } from '../i18n.js';
import { AccountTabs } from '../parts/account-tabs.js';
import { Copyable, Form } from '../parts/form.js';
import { Time } from '../parts/format.js';
import { useLoad } from '../parts/load.js';
import { complain, Failed, Loading, toast } from '../parts/notices.js';
import { Removal } from '../parts/removal.js';
import { Input, leaveFor, nameOf } from './sign-in.js';

export default function Account() {
  const session = account.value;
  const remind = () => api.mailVerification().then(() => toast(t('mailed.sent', { email: session?.email ?? '' })), complain);
  return html`<div class="page">
    <h1>${t('account.security')}</h1>
    <${AccountTabs} />
    ${session && !session.is_verified && html`<div class="notice warn"><p>${t('account.unverified')}</p><button type="button" data-test="verify-again" onClick=${remind}>${t('mailed.send')}</button></div>`}
    <section class="card"><h2>${t('second.title')}</h2><${Codes} /></section>
    ${api.knowsPasskeys() && html`<section class="card"><h2>${t('passkeys.title')}</h2><${Passkeys} /></section>`}
    <${Links} />
    <${Given} />
    <section class="card"><h2>${t('sessions.title')}</h2><${Sessions} /></section>
    <section class="card"><h2>${t('own.title')}</h2><${Own} /></section>
  </div>`;
}

/** The password, where there is one to be asked for again. @param {{ value: string, set: (text: string) => void }} props */
function Again({ value, set }) {
  return account.value?.has_password ? h(Input, { label: t('account.current-password'), type: 'password', name: 'current-password', value, set, test: 'again-password' }) : null;
}

/** What is kept about oneself, and the end of it. */
function Own() {
  const [password, setPassword] = useState('');
  const [open, setOpen] = useState(false);
  const name = account.value?.email ?? '';
  const run = async (/** @type {'keep' | 'erase'} */ texts) => {
    await api.removeAccount(account.value?.has_password ? password : undefined, texts);
    leave();
  };
  return html`<p>${t('own.text')}</p>
    <footer class="row"><a class="button" href="/v1/account/export" download data-test="own-export">${t('people.export')}</a><button type="button" class="danger" data-test="own-remove" onClick=${() => setOpen(true)}>${t('own.remove')}</button></footer>
    ${open && h(Removal, { name, title: t('own.remove'), run, onClose: () => setOpen(false), children: h(Again, { value: password, set: setPassword }) })}`;
}

function Codes() {
  const [password, setPassword] = useState('');
  const [code, setCode] = useState('');
  const [made, setMade] = useState(/** @type {{ secret: string, uri: string } | null} */ (null));
  const [codes, setCodes] = useState(/** @type {string[]} */ ([]));
  const begin = async () => setMade(await api.beginTotp(account.value?.has_password ? password : undefined));
  const confirm = async () => {
    setCodes((await api.confirmTotp(code)).recovery_codes);
    setMade(null);
    setCode('');
    await refreshAccount();
  };
  const end = async () => {
    await api.endTotp(code);
    setCode('');
    setCodes([]);
    await refreshAccount();
  };
  const given = h(Input, { label: t('second.code'), type: 'text', name: 'one-time-code', value: code, set: setCode, test: 'totp-code', hint: t('second.hint') });
  if (codes.length > 0) {
    return html`<p>${t('second.recovery')}</p><${Copyable} label=${t('second.recovery-codes')} text=${codes.join('\n')} test="recovery-codes" />
      <footer><button type="button" class="primary" data-test="recovery-kept" onClick=${() => setCodes([])}>${t('keys.kept')}</button></footer>`;
  }
  if (account.value?.has_second_factor) {
    return html`<p>${t('second.on')}</p>${h(Form, { send: end, action: t('second.end'), test: 'totp-end', errorTest: 'totp-error', children: given })}`;
  }
  if (made) {
    return html`<p>${t('second.scan')}</p><${Copyable} label=${t('second.secret')} text=${made.secret} test="totp-secret" /><p class="small"><a href=${made.uri}>${t('second.open')}</a></p>
      ${h(Form, { send: confirm, action: t('second.confirm'), test: 'totp-confirm', errorTest: 'totp-error', children: given })}`;
  }
  return html`<p>${t('second.off')}</p>${h(Form, { send: begin, action: t('second.begin'), test: 'totp-begin', errorTest: 'totp-error', children: h(Again, { value: password, set: setPassword }) })}`;
}

function Passkeys() {
  const [name, setName] = useState('');
  const [password, setPassword] = useState('');
  const { data, error, again } = useLoad(api.passkeys, []);
  const send = async () => {
    await api.addPasskey(name, account.value?.has_password ? password : undefined);
    setName('');
    setPassword('');
    await again();
  };
  const remove = (/** @type {string} */ id) => api.removePasskey(id).then(again, complain);
  if (!data) return error ? html`<${Failed} error=${error} retry=${again} />` : html`<${Loading} />`;
  return html`<p>${t('passkeys.text')}</p>
    <ul data-test="passkeys-list">${data.items.map((passkey) => html`<li key=${passkey.id}>${passkey.name} · <${Time} at=${passkey.used ?? passkey.created} /> <button type="button" class="quiet" data-test="passkey-remove" onClick=${() => remove(passkey.id)}>${t('action.delete')}</button></li>`)}</ul>
    ${h(Form, {
      send,
      action: t('passkeys.add'),
      test: 'passkey-add',
      errorTest: 'passkey-error',
      children: [h(Input, { label: t('passkeys.name'), type: 'text', name: 'off', value: name, set: setName, test: 'passkey-name' }), h(Again, { value: password, set: setPassword })],
    })}`;
}

/** What the account is linked with, where the server knows providers. */
function Links() {
  const [password, setPassword] = useState('');
  const { data, again } = useLoad(async () => ({ all: (await api.providers()).items, linked: (await api.links()).items }), []);
  if (!data || data.all.length + data.linked.length === 0) return null;
  const free = data.all.filter(({ name }) => !data.linked.some((link) => link.provider === name));
  const begin = (/** @type {string} */ name) => leaveFor(api.linkProvider(name, account.value?.has_password ? password : undefined)).catch(complain);
  return html`<section class="card"><h2>${t('links.title')}</h2>
    <ul class="sessions" data-test="links-list">${data.linked.map(
      ({ provider, created }) => html`<li key=${provider}><span>${nameOf(provider)}<span class="faint small block"><${Time} at=${created} /></span></span><button type="button" data-test="unlink" onClick=${() => api.unlinkProvider(provider).then(again, complain)}>${t('links.end')}</button></li>`,
    )}</ul>
    ${free.length > 0 && html`<${Again} value=${password} set=${setPassword} />
      <footer>${free.map(({ name }) => html`<button type="button" data-test=${`link-${name}`} onClick=${() => begin(name)}>${t('links.begin', { name: nameOf(name) })}</button>`)}</footer>`}
  </section>`;
}

/** The tools that this account let in, and what each may know. */
function Given() {
  const { data, again } = useLoad(api.givenTools, []);
  if (!data || data.items.length === 0) return null;
  const told = (/** @type {string} */ scope) => Object.entries({ email: t('given.email'), profile: t('given.profile'), offline: t('given.offline') }).map(([word, text]) => scope.includes(word) && `${text} · `);
  return html`<section class="card"><h2>${t('given.title')}</h2>
    <ul class="sessions" data-test="given-list">${data.items.map(
      ({ id, name, scope, since }) => html`<li key=${id}><span>${name}<span class="faint small block">${told(scope)}<${Time} at=${since} /></span></span><button type="button" data-test="given-leave" onClick=${() => api.leaveTool(id).then(again, complain)}>${t('links.end')}</button></li>`,
    )}</ul>
  </section>`;
}

function Sessions() {
  const { data, error, again } = useLoad(api.sessions, []);
  const end = (/** @type {Promise<void>} */ ended) => ended.then(again, complain);
  if (!data) return error ? html`<${Failed} error=${error} retry=${again} />` : html`<${Loading} />`;
  return html`<ul class="sessions" data-test="sessions-list">${data.items.map(
      (session) => html`<li key=${session.id}>
        <span>${session.agent || session.kind}<span class="faint small block">${session.address} · <${Time} at=${session.seen} /></span></span>
        ${session.is_current ? html`<span class="badge">${t('sessions.this')}</span>` : html`<button type="button" data-test="session-end" onClick=${() => end(api.endSession(session.id))}>${t('sessions.end')}</button>`}
      </li>`,
    )}</ul>
    <footer><button type="button" class="danger" data-test="sessions-end-others" onClick=${() => end(api.endOtherSessions())}>${t('sessions.end-others')}</button></footer>`;
}

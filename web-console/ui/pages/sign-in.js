import { h, html, useEffect, useState } from 'preact';
import { refreshAccount } from '../account.js';
import { redeemLink, signIn, signUp } from '../api.js';
import { rich, t } from '../i18n.js';
import { Field, Form, textOf } from '../parts/form.js';
import { Mark } from '../parts/icons.js';
import { Failed, Loading, Toasts } from '../parts/notices.js';
import { Choices, PasswordForm } from '../parts/shell.js';
import { go, replace, route } from '../router.js';

/** @param {{ link: boolean }} props */
export function SignIn({ link }) {
  const [form, setForm] = useState(/** @type {'in' | 'up'} */ ('in'));
  let body = html`<${SignInForm} onSignUp=${() => setForm('up')} />`;
  if (form === 'up') body = html`<${SignUpForm} onBack=${() => setForm('in')} />`;
  if (link) body = html`<${Link} />`;
  return html`<div class="alone">
    <main>
      <h1 class="brand"><${Mark} /><span>Madang</span></h1>
      <p class="faint">${t('sign-in.tagline')}</p>
      <div class="card">${body}</div>
      <${Choices} />
    </main>
    <${Toasts} />
  </div>`;
}

/** @param {{ label: string, type: string, name: string, value: string, set: (text: string) => void, test: string, hint?: string, required?: boolean }} props */
function Input({ label, type, name, value, set, test, hint, required = true }) {
  return h(Field, {
    label,
    hint,
    input: (id, note) =>
      html`<input id=${id} aria-describedby=${note} type=${type} autocomplete=${name} required=${required} data-test=${test} value=${value} onInput=${(/** @type {Event} */ event) => set(textOf(event))} />`,
  });
}

/** @param {{ onSignUp: () => void }} props */
function SignInForm({ onSignUp }) {
  const [email, setEmail] = useState('');
  const [password, setPassword] = useState('');
  const send = async () => {
    await signIn(email, password);
    await refreshAccount();
  };
  return html`<h2>${t('sign-in.title')}</h2>
    ${h(Form, {
      send,
      action: t('sign-in.title'),
      test: 'sign-in-submit',
      errorTest: 'sign-in-error',
      children: [
        h(Input, { label: t('account.email'), type: 'email', name: 'username', value: email, set: setEmail, test: 'sign-in-email' }),
        h(Input, { label: t('sign-in.password'), type: 'password', name: 'current-password', value: password, set: setPassword, test: 'sign-in-password' }),
      ],
    })}
    <p class="small faint">${rich('sign-in.first', { command: html`<code>madang serve</code>` })}</p>
    <p class="small"><button type="button" class="linkish" data-test="sign-up-open" onClick=${onSignUp}>${t('sign-up.open')}</button></p>`;
}

/** @param {{ onBack: () => void }} props */
function SignUpForm({ onBack }) {
  const [email, setEmail] = useState('');
  const [password, setPassword] = useState('');
  const [organisation, setOrganisation] = useState('');
  const send = async () => {
    const named = organisation.trim() ? { organisation: organisation.trim() } : {};
    await signUp({ email, password, ...named });
    await signIn(email, password);
    await refreshAccount();
  };
  return html`<h2>${t('sign-up.title')}</h2>
    <p class="small faint">${t('sign-up.text')}</p>
    ${h(Form, {
      send,
      action: t('sign-up.title'),
      onCancel: onBack,
      test: 'sign-up-submit',
      errorTest: 'sign-up-error',
      children: [
        h(Input, { label: t('account.email'), type: 'email', name: 'username', value: email, set: setEmail, test: 'sign-up-email' }),
        h(Input, { label: t('sign-in.password'), type: 'password', name: 'new-password', value: password, set: setPassword, test: 'sign-up-password', hint: t('account.password-hint', { count: 10 }) }),
        h(Input, { label: t('sign-up.organisation'), type: 'text', name: 'organization', value: organisation, set: setOrganisation, test: 'sign-up-organisation', required: false }),
      ],
    })}`;
}

/** Redeems the one-time link, once, then offers a password. */
function Link() {
  const [state, setState] = useState(/** @type {{ done: boolean, error: unknown }} */ ({ done: false, error: null }));
  useEffect(() => {
    const token = route.value.query.get('token') ?? '';
    // The token is spent after this, and has no business in the history.
    replace('/link');
    redeemLink(token).then(
      () => setState({ done: true, error: null }),
      (error) => setState({ done: false, error }),
    );
  }, []);
  const enter = async () => {
    go('/');
    await refreshAccount();
  };
  if (state.error) {
    return html`<h2>${t('link.title')}</h2>
      <${Failed} error=${state.error} />
      <p class="small faint">${t('link.spent')}</p>
      <footer><button type="button" onClick=${enter} data-test="link-to-sign-in">${t('sign-in.title')}</button></footer>`;
  }
  if (!state.done) return html`<${Loading} />`;
  return html`<h2>${t('link.welcome')}</h2>
    <p>${t('link.text')}</p>
    ${h(PasswordForm, { onDone: enter, onCancel: enter, cancel: t('link.later') })}`;
}

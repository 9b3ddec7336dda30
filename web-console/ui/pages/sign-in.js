import { h, html, useEffect, useState } from 'preact';
import { account, refreshAccount } from '../account.js';
import { beginProvider, knowsPasskeys, providers, redeemLink, secondFactor, signIn, signInByPasskey, signUp } from '../api.js';
import { rich, t, textsOfPages } from '../i18n.js';
import { Field, Form, textOf } from '../parts/form.js';
import { Mark } from '../parts/icons.js';
import { useLoad } from '../parts/load.js';
import { complain, Failed, Loading, Toasts } from '../parts/notices.js';
import { Choices, PasswordForm } from '../parts/shell.js';
import { go, replace, route } from '../router.js';

/** What a link in a mail leads to, and what is needed seldom. */
const mailed = async () => (await Promise.all([import('./mailed.js'), textsOfPages()]))[0];

/** @typedef {'in' | 'up' | 'mail' | 'link' | 'reset' | 'verify' | 'invitation' | 'second'} Way */

/** @param {{ way: Way }} props */
export function SignIn({ way }) {
  const [form, setForm] = useState(/** @type {Way} */ ('in'));
  const here = way === 'in' ? form : way;
  const back = () => (way === 'in' ? setForm('in') : go('/'));
  let body = html`<${Later} way=${here} onBack=${back} />`;
  if (here === 'in') body = html`<${SignInForm} onSignUp=${() => setForm('up')} onMail=${() => setForm('mail')} />`;
  if (here === 'up') body = html`<${SignUpForm} onBack=${back} />`;
  if (here === 'link') body = html`<${Link} />`;
  if (here === 'second') body = html`<${Second} />`;
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

/** Back from a provider, half of the way. */
function Second() {
  const [challenge] = useState(() => route.value.query.get('token') ?? '');
  useEffect(() => void (challenge && replace('/second')), []);
  const enter = async () => {
    go('/');
    await refreshAccount();
  };
  return h(CodeForm, { challenge, onDone: enter });
}

/** @param {{ way: Way, onBack: () => void }} props */
function Later({ way, onBack }) {
  const [state, setState] = useState(/** @type {{ page: unknown, error: unknown }} */ ({ page: null, error: null }));
  useEffect(() => {
    mailed().then(
      (module) => setState({ page: module.Mailed, error: null }),
      (error) => setState({ page: null, error }),
    );
  }, []);
  if (state.error) return html`<${Failed} error=${state.error} />`;
  return state.page ? html`<${state.page} way=${way} onBack=${onBack} />` : html`<${Loading} />`;
}

/**
 * The second factor, where an account has one.
 * @param {{ challenge: string, onDone: () => Promise<void> }} props
 */
export function CodeForm({ challenge, onDone }) {
  const [code, setCode] = useState('');
  const send = async () => {
    await secondFactor(challenge, code);
    await onDone();
  };
  return html`<h2>${t('second.title')}</h2>
    ${h(Form, {
      send,
      action: t('sign-in.title'),
      test: 'second-submit',
      errorTest: 'second-error',
      children: h(Input, { label: t('second.code'), type: 'text', name: 'one-time-code', value: code, set: setCode, test: 'second-code', hint: t('second.hint') }),
    })}`;
}

/** @param {{ label: string, type: string, name: string, value: string, set: (text: string) => void, test: string, hint?: string, required?: boolean }} props */
export function Input({ label, type, name, value, set, test, hint, required = true }) {
  return h(Field, {
    label,
    hint,
    input: (id, note) =>
      html`<input id=${id} aria-describedby=${note} type=${type} autocomplete=${name} required=${required} data-test=${test} value=${value} onInput=${(/** @type {Event} */ event) => set(textOf(event))} />`,
  });
}

/** As it is written. @param {string} name */
export const nameOf = (name) => ({ github: 'GitHub', google: 'Google', kakao: 'Kakao', naver: 'Naver' })[name] ?? name;

/** Where a provider says who it is. @param {Promise<{ url: string }>} begun */
export const leaveFor = (begun) => begun.then(({ url }) => location.assign(url));

/** @param {{ onSignUp: () => void, onMail: () => void }} props */
function SignInForm({ onSignUp, onMail }) {
  const [challenge, setChallenge] = useState('');
  const [email, setEmail] = useState('');
  const [password, setPassword] = useState('');
  const send = async () => {
    const { second_factor } = await signIn(email, password);
    if (second_factor) setChallenge(second_factor.challenge);
    else await refreshAccount();
  };
  const byPasskey = () => signInByPasskey().then(refreshAccount, complain);
  const { data } = useLoad(providers, []);
  if (challenge) return h(CodeForm, { challenge, onDone: refreshAccount });
  const others = data?.items ?? [];
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
    ${others.length > 0 &&
    html`<div class="others">${others.map(({ name }) => html`<button type="button" data-test=${`provider-${name}`} onClick=${() => leaveFor(beginProvider(name)).catch(complain)}>${t('sign-in.by', { name: nameOf(name) })}</button>`)}</div>`}
    <p class="small faint">${rich('sign-in.first', { command: html`<code>madang serve</code>` })}</p>
    <p class="small">
      <button type="button" class="linkish" data-test="sign-up-open" onClick=${onSignUp}>${t('sign-up.open')}</button> ·
      <button type="button" class="linkish" data-test="sign-in-mail" onClick=${onMail}>${t('sign-in.mail')}</button>
      ${knowsPasskeys() && html` · <button type="button" class="linkish" data-test="sign-in-passkey" onClick=${byPasskey}>${t('sign-in.passkey')}</button>`}
    </p>`;
}

/** @param {{ onBack: () => void }} props */
function SignUpForm({ onBack }) {
  const [email, setEmail] = useState('');
  const [password, setPassword] = useState('');
  const [organisation, setOrganisation] = useState('');
  const send = async () => {
    const named = organisation.trim() ? { organisation: organisation.trim() } : {};
    await signUp({ email, password, ...named });
    const { second_factor } = await signIn(email, password);
    if (!second_factor) await refreshAccount();
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
  const [state, setState] = useState(/** @type {{ done: boolean, challenge?: string, error: unknown }} */ ({ done: false, error: null }));
  useEffect(() => {
    const token = route.value.query.get('token') ?? '';
    // The token is spent after this, and has no business in the history.
    replace('/link');
    redeemLink(token).then(
      async ({ second_factor }) => {
        if (!second_factor) await refreshAccount();
        // Who has a password already wants to come in.
        if (account.value?.has_password) go('/');
        else setState({ done: true, challenge: second_factor?.challenge, error: null });
      },
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
  if (state.challenge) return h(CodeForm, { challenge: state.challenge, onDone: enter });
  return html`<h2>${t('link.welcome')}</h2>
    <p>${t('link.text')}</p>
    ${h(PasswordForm, { onDone: enter, onCancel: enter, cancel: t('link.later') })}`;
}

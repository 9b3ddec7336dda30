// What links in mails lead to, and asking for such a mail.
import { h, html, useEffect, useState } from 'preact';
import { account, refreshAccount } from '../account.js';
import * as api from '../api.js';
import { t } from '../i18n.js';
import { Form } from '../parts/form.js';
import { Failed, Loading } from '../parts/notices.js';
import { go, replace, route } from '../router.js';
import { Input } from './sign-in.js';

/** @typedef {import('./sign-in.js').Way} Way */

/** @param {{ way: Way, onBack: () => void }} props */
export function Mailed({ way, onBack }) {
  const [token] = useState(() => route.value.query.get('token') ?? '');
  // The token has no business in the history.
  useEffect(() => void (token && replace(`/${way}`)), []);
  if (way === 'mail') return h(AskMail, { onBack });
  if (way === 'verify') return h(Verify, { token });
  return h(NewPassword, { token, way });
}

/** @param {{ onBack: () => void }} props */
function AskMail({ onBack }) {
  const [email, setEmail] = useState('');
  const [what, setWhat] = useState('link');
  const [sent, setSent] = useState(false);
  const send = async () => {
    await (what === 'link' ? api.mailLink(email) : api.mailReset(email));
    setSent(true);
  };
  if (sent) {
    return html`<h2>${t('mailed.title')}</h2>
      <p data-test="mailed-sent">${t('mailed.sent', { email })}</p>
      <footer><button type="button" onClick=${onBack}>${t('sign-in.title')}</button></footer>`;
  }
  const choice = (/** @type {string} */ name, /** @type {string} */ text) =>
    html`<label class="check"><input type="radio" name="what" checked=${what === name} onChange=${() => setWhat(name)} />${text}</label>`;
  return html`<h2>${t('mailed.title')}</h2>
    ${h(Form, {
      send,
      action: t('mailed.send'),
      onCancel: onBack,
      test: 'mailed-submit',
      errorTest: 'mailed-error',
      children: [
        h(Input, { label: t('account.email'), type: 'email', name: 'username', value: email, set: setEmail, test: 'mailed-email' }),
        html`<div class="checks column">${choice('link', t('mailed.link'))}${choice('reset', t('mailed.reset'))}</div>`,
      ],
    })}`;
}

/** A password by a link: a new one, or the first one of somebody who was invited. @param {{ token: string, way: Way }} props */
function NewPassword({ token, way }) {
  const [password, setPassword] = useState('');
  const [done, setDone] = useState(false);
  const send = async () => {
    if (way === 'reset') {
      await api.finishReset(token, password);
      setDone(true);
      return;
    }
    await api.acceptInvitation(token, password);
    go('/');
    await refreshAccount();
  };
  const enter = () => {
    go('/');
    refreshAccount();
  };
  if (done) {
    return html`<h2>${t('mailed.reset-title')}</h2>
      <p>${t('mailed.reset-done')}</p>
      <footer><button type="button" class="primary" data-test="reset-done" onClick=${enter}>${t('sign-in.title')}</button></footer>`;
  }
  const title = way === 'reset' ? t('mailed.reset-title') : t('mailed.invited');
  return html`<h2>${title}</h2>
    ${h(Form, {
      send,
      action: t('account.set-password'),
      test: 'new-password-submit',
      errorTest: 'new-password-error',
      children: h(Input, { label: t('account.new-password'), type: 'password', name: 'new-password', value: password, set: setPassword, test: 'new-password', hint: t('account.password-hint', { count: 10 }) }),
    })}`;
}

/** @param {{ token: string }} props */
function Verify({ token }) {
  const [password, setPassword] = useState('');
  const [state, setState] = useState(/** @type {{ done: boolean, error: unknown }} */ ({ done: false, error: null }));
  const somebody = account.value;
  useEffect(() => {
    if (!somebody) return;
    api.verifyEmail(token).then(
      () => refreshAccount().then(() => setState({ done: true, error: null })),
      (error) => setState({ done: false, error }),
    );
  }, [Boolean(somebody)]);
  const send = async () => {
    await api.verifyEmail(token, password);
    setState({ done: true, error: null });
  };
  if (state.done) {
    return html`<h2>${t('mailed.verify-title')}</h2>
      <p>${t('mailed.verified')}</p>
      <footer><button type="button" class="primary" data-test="verified" onClick=${() => go('/')}>${t('nav.overview')}</button></footer>`;
  }
  if (state.error) return html`<h2>${t('mailed.verify-title')}</h2><${Failed} error=${state.error} />`;
  if (somebody !== null) return html`<${Loading} />`;
  return html`<h2>${t('mailed.verify-title')}</h2>
    ${h(Form, {
      send,
      action: t('mailed.verify'),
      test: 'verify-submit',
      errorTest: 'verify-error',
      children: h(Input, { label: t('sign-in.password'), type: 'password', name: 'current-password', value: password, set: setPassword, test: 'verify-password' }),
    })}`;
}

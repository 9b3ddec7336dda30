import { h, html, useEffect, useRef, useState } from 'preact';
import { account, may, signOut } from '../account.js';
import { setPassword } from '../api.js';
import { language, setLanguage, t } from '../i18n.js';
import { liveState } from '../live.js';
import { go, route } from '../router.js';
import { setTheme, theme } from '../theme.js';
import { Dialog } from './dialog.js';
import { Field, Form, textOf } from './form.js';
import { Icon, Mark } from './icons.js';
import { complain, toast, Toasts } from './notices.js';

/** @typedef {{ path: string, icon: string, text: string, key: string, test: string, of: string }} Place `of`: what one must be granted to see anything there */

/** @returns {Place[]} */
const places = () =>
  [
    { path: '/', icon: 'overview', text: t('nav.overview'), key: 'o', test: 'nav-overview', of: 'devices.read' },
    { path: '/map', icon: 'map', text: t('nav.map'), key: 'm', test: 'nav-map', of: 'devices.read' },
    { path: '/dashboards', icon: 'chart', text: t('boards.title'), key: 'b', test: 'nav-dashboards', of: 'devices.read' },
    { path: '/rules', icon: 'rules', text: t('nav.rules'), key: 'r', test: 'nav-rules', of: 'rules.read' },
    { path: '/sql', icon: 'sql', text: t('nav.sql'), key: 's', test: 'nav-sql', of: 'lake.query' },
    { path: '/devices', icon: 'devices', text: t('nav.devices'), key: 'd', test: 'nav-devices', of: 'devices.read' },
    { path: '/comments', icon: 'comments', text: t('nav.comments'), key: 'c', test: 'nav-comments', of: 'comments.read' },
    { path: '/jobs', icon: 'jobs', text: t('nav.jobs'), key: 'j', test: 'nav-jobs', of: 'jobs.read' },
    { path: '/dead-letters', icon: 'letters', text: t('nav.dead'), key: 'l', test: 'nav-dead-letters', of: 'dead-letters.read' },
    { path: '/sockets', icon: 'live', text: t('nav.sockets'), key: 'v', test: 'nav-sockets', of: 'sockets.read' },
    { path: '/kv', icon: 'key', text: t('nav.kv'), key: 'k', test: 'nav-kv', of: 'kv.read' },
    { path: '/people', icon: 'people', text: t('people.title'), key: 'p', test: 'nav-people', of: 'accounts.read' },
  ].filter((place) => may(place.of));

/** @param {string} path */
const isHere = (path) => (path === '/' ? route.value.path === '/' : `${route.value.path}/`.startsWith(`${path}/`));

export function LiveState() {
  const texts = { live: t('live.live'), connecting: t('live.connecting'), reconnecting: t('live.reconnecting') };
  const state = liveState.value;
  return html`<span class=${`live ${state}`} role="status" data-test="live-state" data-state=${state}><i aria-hidden="true"></i>${texts[state]}</span>`;
}

/** @param {{ children?: unknown }} props */
export function Shell({ children }) {
  const [open, setOpen] = useState(/** @type {null | 'help' | 'account'} */ (null));
  const main = useRef(/** @type {HTMLElement | null} */ (null));
  useShortcuts(() => setOpen('help'));
  const skip = (/** @type {Event} */ event) => {
    event.preventDefault();
    main.current?.focus();
  };
  return html`<div class="shell">
    <a class="skip" href="#main" onClick=${skip}>${t('shell.skip')}</a>
    <header class="bar">
      <a class="brand" href="#/" aria-label="Madang"><${Mark} /><span>Madang</span></a>
      <nav aria-label=${t('shell.pages')}>
        ${places().map(
          (place) => html`<a key=${place.path} href=${`#${place.path}`} data-test=${place.test} aria-current=${isHere(place.path) ? 'page' : undefined}>
            <${Icon} name=${place.icon} /><span>${place.text}</span><kbd aria-hidden="true">g ${place.key}</kbd>
          </a>`,
        )}
      </nav>
      <div class="side">
        <${LiveState} />
        <button type="button" class="quiet" data-test="help" aria-label=${t('help.title')} title=${`${t('help.title')} (?)`} onClick=${() => setOpen('help')}><${Icon} name="help" /></button>
        <button type="button" class="quiet who" data-test="account" title=${t('account.title')} onClick=${() => setOpen('account')}>
          <${Icon} name="account" /><span>${account.value?.name || account.value?.email}</span>
        </button>
      </div>
    </header>
    <main id="main" tabindex="-1" ref=${main}>${children}</main>
    <${Toasts} />
    ${open === 'help' && html`<${Help} onClose=${() => setOpen(null)} />`}
    ${open === 'account' && html`<${Account} onClose=${() => setOpen(null)} />`}
  </div>`;
}

/** @param {() => void} help */
function useShortcuts(help) {
  useEffect(() => {
    let waiting = 0;
    const onKey = (/** @type {KeyboardEvent} */ event) => {
      const target = /** @type {HTMLElement} */ (event.target);
      if (event.ctrlKey || event.metaKey || event.altKey || target.closest('input, textarea, select, [contenteditable]')) return;
      if (document.querySelector('dialog[open]')) return;
      if (event.key === '?') {
        event.preventDefault();
        help();
        return;
      }
      if (event.key === 'g') {
        waiting = event.timeStamp;
        return;
      }
      const place = event.timeStamp - waiting < 1200 && places().find((one) => one.key === event.key);
      waiting = 0;
      if (place) {
        event.preventDefault();
        go(place.path);
      }
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, []);
}

/** @param {{ onClose: () => void }} props */
function Help({ onClose }) {
  return html`<${Dialog} title=${t('help.title')} onClose=${onClose} test="help-dialog">
    <dl class="keys">
      ${places().map((place) => html`<dt><kbd>g</kbd> <kbd>${place.key}</kbd></dt><dd>${t('help.go', { page: place.text })}</dd>`)}
      <dt><kbd>Ctrl</kbd> <kbd>Enter</kbd></dt><dd>${t('help.run')}</dd>
      <dt><kbd>Esc</kbd></dt><dd>${t('help.escape')}</dd>
      <dt><kbd>?</kbd></dt><dd>${t('help.help')}</dd>
    </dl>
    <p class="faint small">${t('help.times')}</p>
  <//>`;
}

export function Choices() {
  const themes = /** @type {const} */ ([
    ['auto', t('theme.auto')],
    ['light', t('theme.light')],
    ['dark', t('theme.dark')],
  ]);
  const languages = /** @type {const} */ ([
    ['en', 'English'],
    ['ko', '한국어'],
  ]);
  return html`<div class="choices">
    <div class="segments" role="group" aria-label=${t('shell.language')}>
      ${languages.map(([name, text]) => html`<button type="button" lang=${name} aria-pressed=${language.value === name} data-test=${`language-${name}`} onClick=${() => setLanguage(name).catch(complain)}>${text}</button>`)}
    </div>
    <div class="segments" role="group" aria-label=${t('theme.title')}>
      ${themes.map(([name, text]) => html`<button type="button" aria-pressed=${theme.value === name} data-test=${`theme-${name}`} onClick=${() => setTheme(name)}>${text}</button>`)}
    </div>
  </div>`;
}

/** @param {{ onClose: () => void }} props */
function Account({ onClose }) {
  const [changing, setChanging] = useState(false);
  const leave = async () => {
    try {
      await signOut();
    } catch (error) {
      complain(error);
    }
  };
  const session = account.value;
  return html`<${Dialog} title=${t('account.title')} onClose=${onClose} test="account-dialog">
    <dl class="facts">
      <dt>${t('account.name')}</dt><dd>${session?.name || '–'}</dd>
      <dt>${t('account.email')}</dt><dd>${session?.email || '–'}</dd>
      <dt>${t('account.organisation')}</dt><dd><code>${session?.organisation}</code></dd>
    </dl>
    <${Choices} />
    ${changing
      ? h(PasswordForm, { onDone: () => setChanging(false), onCancel: () => setChanging(false) })
      : html`<footer>
          <a class="button" href="#/account" data-test="account-security" onClick=${onClose}>${t('account.security')}</a>
          <button type="button" data-test="change-password" onClick=${() => setChanging(true)}>${t('account.change-password')}</button>
          <button type="button" class="danger" data-test="sign-out" onClick=${leave}>${t('account.sign-out')}</button>
        </footer>`}
  <//>`;
}

const PASSWORD_MIN = 10;

/** @param {{ onDone: () => void, onCancel: () => void, cancel?: string }} props */
export function PasswordForm({ onDone, onCancel, cancel }) {
  const [password, setText] = useState('');
  const [current, setCurrent] = useState('');
  const asks = account.value?.has_password;
  const send = async () => {
    await setPassword(password, asks ? current : undefined);
    toast(t('account.password-set'));
    onDone();
  };
  return h(Form, {
    send,
    action: t('account.set-password'),
    onCancel,
    cancel,
    cancelTest: 'set-password-skip',
    test: 'set-password-submit',
    errorTest: 'set-password-error',
    children: [
      asks &&
        h(Field, {
          label: t('account.current-password'),
          input: (id) => html`<input id=${id} type="password" autocomplete="current-password" required data-test="current-password" value=${current} onInput=${(/** @type {Event} */ event) => setCurrent(textOf(event))} />`,
        }),
      h(Field, {
        label: t('account.new-password'),
        hint: t('account.password-hint', { count: PASSWORD_MIN }),
        input: (id, note) =>
          html`<input id=${id} aria-describedby=${note} type="password" autocomplete="new-password" minlength=${PASSWORD_MIN} required data-test="set-password" value=${password} onInput=${(/** @type {Event} */ event) => setText(textOf(event))} />`,
      }),
    ],
  });
}

// Routes to pages. A page's module is fetched when it is first opened.
import { effect, html, render, useEffect, useState } from 'preact';
import { account, accountError, leave, refreshAccount } from './account.js';
import { onSignedOut } from './api.js';
import { t, textsOfPages } from './i18n.js';
import { SignIn } from './pages/sign-in.js';
import { Empty, Failed, Loading } from './parts/notices.js';
import { Shell } from './parts/shell.js';
import { route } from './router.js';

/** @type {Record<string, () => Promise<{ default: () => unknown }>>} */
const pages = {
  '': () => import('./pages/overview.js'),
  map: () => import('./pages/map.js'),
  dashboards: () => import('./pages/dashboards.js'),
  rules: () => import('./pages/rules.js'),
  sql: () => import('./pages/sql.js'),
  devices: () => import('./pages/devices.js'),
  device: () => import('./pages/device.js'),
  comments: () => import('./pages/comments.js'),
  jobs: () => import('./pages/jobs.js'),
  'dead-letters': () => import('./pages/dead-letters.js'),
  sockets: () => import('./pages/sockets.js'),
  kv: () => import('./pages/kv.js'),
  account: () => import('./pages/account.js'),
  people: () => import('./pages/people.js'),
  tools: () => import('./pages/tools.js'),
  audit: () => import('./pages/audit.js'),
};

/** @param {string} name */
const titleOf = (name) =>
  ({ '': t('nav.overview'), map: t('nav.map'), dashboards: t('boards.title'), rules: t('nav.rules'), sql: t('nav.sql'), devices: t('nav.devices'), device: t('nav.devices'), comments: t('comments.title'), jobs: t('nav.jobs'), 'dead-letters': t('dead.title'), sockets: t('sockets.title'), kv: t('kv.title'), account: t('account.title'), people: t('people.title'), tools: t('tools.title'), audit: t('audit.title') })[name] ?? t('missing.title');

function Page() {
  const name = route.value.parts[0] ?? '';
  const [state, setState] = useState(/** @type {{ name: string, page: (() => unknown) | null, error: unknown }} */ ({ name: '', page: null, error: null }));
  useEffect(() => {
    let gone = false;
    if (!pages[name]) return () => {};
    Promise.all([pages[name](), name === '' ? null : textsOfPages()]).then(
      ([module]) => gone || setState({ name, page: module.default, error: null }),
      (error) => gone || setState({ name, page: null, error }),
    );
    return () => void (gone = true);
  }, [name]);
  if (!pages[name]) {
    return html`<div class="page"><${Empty} title=${t('missing.title')} text=${t('missing.text')}><a class="button" href="#/">${t('nav.overview')}</a><//></div>`;
  }
  if (state.error && state.name === name) return html`<div class="page"><${Failed} error=${state.error} retry=${() => location.reload()} /></div>`;
  if (!state.page || state.name !== name) return html`<div class="page"><${Loading} /></div>`;
  return html`<${state.page} key=${name} />`;
}

/** Where links in mails lead. @param {string} name */
const isMailed = (name) => ['link', 'reset', 'verify', 'invitation', 'second'].includes(name);

function App() {
  const parts = route.value.parts;
  if (isMailed(parts[0])) return html`<${SignIn} key=${parts[0]} way=${parts[0]} />`;
  if (account.value === null) return html`<${SignIn} key="in" way="in" />`;
  if (account.value === undefined) {
    return accountError.value ? html`<div class="alone"><${Failed} error=${accountError.value} retry=${refreshAccount} /></div>` : null;
  }
  return html`<${Shell}><${Page} /><//>`;
}

// A page moved to by keyboard or link is read from its heading on.
let before = route.value.parts[0];
effect(() => {
  const name = route.value.parts[0] ?? '';
  document.title = account.value ? `${titleOf(name)} · Madang` : 'Madang';
  if (name === before) return;
  before = name;
  requestAnimationFrame(() => {
    document.getElementById('main')?.focus({ preventScroll: true });
    scrollTo(0, 0);
  });
});

// Leaflet probes the browser with this one piece of markup; nothing else may become markup from text.
const guard = /** @type {{ trustedTypes?: { createPolicy(name: string, rules: object): void } }} */ (window).trustedTypes;
guard?.createPolicy('default', { createHTML: (/** @type {string} */ text) => (text === '<svg/>' || text === '' ? text : null) });

onSignedOut(leave);
render(html`<${App} />`, /** @type {Element} */ (document.getElementById('app')));
if (!['link', 'reset', 'invitation', 'second'].includes(route.value.parts[0])) refreshAccount();

import { html } from 'preact';
import { route } from '../router.js';

/** @param {{ label: string, tabs: { path: string, text: string, test: string }[] }} props */
export function Tabs({ label, tabs }) {
  return html`<nav class="tabs" aria-label=${label}>
    ${tabs.map((tab) => html`<a key=${tab.path} href=${`#${tab.path}`} data-test=${tab.test} aria-current=${route.value.path === tab.path ? 'page' : undefined}>${tab.text}</a>`)}
  </nav>`;
}

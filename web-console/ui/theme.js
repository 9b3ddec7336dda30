import { signal } from 'preact';
import { keep, kept } from './kept.js';

/** @typedef {'auto' | 'light' | 'dark'} Theme */

const first = kept('theme');

/** @type {import('preact').Signal<Theme>} */
export const theme = signal(first === 'light' || first === 'dark' ? first : 'auto');

const system = matchMedia('(prefers-color-scheme: dark)');

/** Moves whenever colours change, for canvases that must be drawn again. */
export const palette = signal(0);
system.addEventListener('change', () => (palette.value += 1));

/** @param {Theme} next */
export function setTheme(next) {
  keep('theme', next === 'auto' ? null : next);
  if (next === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  theme.value = next;
  palette.value += 1;
}

/** @type {HTMLElement | undefined} */
let probe;

/**
 * The colour of a token, e.g. `--accent`, as the browser computes it now.
 * @param {string} token
 */
export function colour(token) {
  if (!probe) {
    probe = document.createElement('i');
    probe.hidden = true;
    document.body.append(probe);
  }
  probe.style.color = `var(${token})`;
  return getComputedStyle(probe).color;
}

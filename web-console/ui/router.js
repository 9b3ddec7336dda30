import { signal } from 'preact';

/** @typedef {{ path: string, parts: string[], query: URLSearchParams }} Route */

/** @returns {Route} */
function read() {
  const [path, query] = (location.hash.replace(/^#/, '') || '/').split('?');
  const parts = path.split('/').filter(Boolean).map(decode);
  return { path, parts, query: new URLSearchParams(query ?? '') };
}

/** @param {string} part */
function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** @type {import('preact').Signal<Route>} */
export const route = signal(read());

addEventListener('hashchange', () => (route.value = read()));

/** @param {string} path */
export function go(path) {
  if (location.hash === `#${path}`) route.value = read();
  else location.hash = path;
}

/**
 * Changes the address without a new entry in the history.
 * @param {string} path
 */
export function replace(path) {
  history.replaceState(null, '', `#${path}`);
  route.value = read();
}

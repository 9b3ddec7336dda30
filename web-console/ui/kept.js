// What this browser remembers. A browser that refuses storage forgets, and nothing else breaks.

/** @param {string} name */
export function kept(name) {
  try {
    return localStorage.getItem(`madang.${name}`);
  } catch {
    return null;
  }
}

/**
 * @param {string} name
 * @param {string | null} value
 */
export function keep(name, value) {
  try {
    if (value === null) localStorage.removeItem(`madang.${name}`);
    else localStorage.setItem(`madang.${name}`, value);
  } catch {
    // Private windows may refuse; the choice then lasts as long as the page.
  }
}

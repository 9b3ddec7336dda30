import { signal } from 'preact';
import { keep } from './kept.js';

/** @typedef {typeof import('./i18n/en.js').default & typeof import('./i18n/en-pages.js').default} Texts */
/** @typedef {keyof Texts} Key */
/** @typedef {'en' | 'ko'} Language */

// What signing in and the overview say comes first, what the other pages say with the first of them.
const files = {
  en: { first: () => import('./i18n/en.js'), pages: () => import('./i18n/en-pages.js') },
  ko: { first: () => import('./i18n/ko.js'), pages: () => import('./i18n/ko-pages.js') },
};
let withPages = false;

/** @type {import('preact').Signal<Language>} */
export const language = signal(document.documentElement.lang === 'ko' ? 'ko' : 'en');

// Every page needs its texts, so nothing is drawn before they are here.
let texts = await load(language.value);

/** @param {Language} of @returns {Promise<Texts>} */
async function load(of) {
  const { first, pages } = files[of];
  const [some, more] = await Promise.all([first(), withPages ? pages() : null]);
  return /** @type {Texts} */ ({ ...some.default, ...more?.default });
}

/** To be waited for before any page but the overview is drawn. */
export async function textsOfPages() {
  withPages = true;
  const of = language.value;
  const loaded = await load(of);
  // The language may have been changed meanwhile.
  if (of === language.value) texts = loaded;
  else texts = await load(language.value);
}

/** @param {Language} next */
export async function setLanguage(next) {
  const had = withPages;
  texts = await load(next);
  if (had !== withPages) texts = await load(next);
  keep('language', next);
  document.documentElement.lang = next;
  language.value = next;
}

/** Reading the signal draws a page again when the language changes. @param {Key} key */
const textOf = (key) => (language.value ? texts[key] : key);

/**
 * The text of a key in the chosen language, with its {placeholders} filled. `one | many` is chosen by {count}.
 * @param {Key} key
 * @param {Record<string, string | number>} [values]
 */
export function t(key, values = {}) {
  const forms = textOf(key).split(' | ');
  const form = String(values.count) === '1' ? forms[0] : forms[forms.length - 1];
  return form.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

/**
 * Like `t`, but a placeholder may be an element.
 * @param {Key} key
 * @param {Record<string, unknown>} values
 */
export function rich(key, values) {
  return textOf(key).split(/\{(\w+)\}/).map((part, i) => (i % 2 === 0 ? part : values[part]));
}

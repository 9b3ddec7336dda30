import { signal } from 'preact';
import { keep } from './kept.js';

/** @typedef {typeof import('./i18n/en.js').default} Texts */
/** @typedef {keyof Texts} Key */
/** @typedef {'en' | 'ko'} Language */

/** @type {Record<Language, () => Promise<{ default: Texts }>>} */
const files = { en: () => import('./i18n/en.js'), ko: () => import('./i18n/ko.js') };

/** @type {import('preact').Signal<Language>} */
export const language = signal(document.documentElement.lang === 'ko' ? 'ko' : 'en');

// Every page needs its texts, so nothing is drawn before they are here.
let texts = (await files[language.value]()).default;

/** @param {Language} next */
export async function setLanguage(next) {
  texts = (await files[next]()).default;
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

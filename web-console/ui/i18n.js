import { signal } from 'preact';
import en from './i18n/en.js';
import ko from './i18n/ko.js';
import { keep } from './kept.js';

/** @typedef {keyof typeof en} Key */
/** @typedef {'en' | 'ko'} Language */

/** @type {Record<Language, Record<Key, string>>} */
const texts = { en, ko };

const first = document.documentElement.lang;

/** @type {import('preact').Signal<Language>} */
export const language = signal(first === 'ko' ? 'ko' : 'en');

/** @param {Language} next */
export function setLanguage(next) {
  keep('language', next);
  document.documentElement.lang = next;
  language.value = next;
}

/**
 * The text of a key in the chosen language, with its {placeholders} filled. `one | many` is chosen by {count}.
 * @param {Key} key
 * @param {Record<string, string | number>} [values]
 */
export function t(key, values = {}) {
  const forms = texts[language.value][key].split(' | ');
  const form = String(values.count) === '1' ? forms[0] : forms[forms.length - 1];
  return form.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

/**
 * Like `t`, but a placeholder may be an element.
 * @param {Key} key
 * @param {Record<string, unknown>} values
 */
export function rich(key, values) {
  return texts[language.value][key].split(/\{(\w+)\}/).map((part, i) => (i % 2 === 0 ? part : values[part]));
}

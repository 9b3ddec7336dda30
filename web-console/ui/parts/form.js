import { html, useId, useState } from 'preact';
import { t } from '../i18n.js';
import { Icon } from './icons.js';
import { reason } from './notices.js';

/**
 * A labelled place for one input; `input` gets the id that ties them together.
 * @param {{ label: string, hint?: unknown, error?: string, input: (id: string, hintId: string | undefined) => unknown }} props
 */
export function Field({ label, hint, error, input }) {
  const id = useId();
  const note = hint || error ? `${id}-note` : undefined;
  return html`<div class="field">
    <label for=${id}>${label}</label>
    ${input(id, note)}
    ${(hint || error) && html`<p id=${note} class=${error ? 'hint bad' : 'hint'}>${error || hint}</p>`}
  </div>`;
}

/**
 * A form that sends once, says that it is busy, and shows what the server refused.
 * @param {{ send: () => Promise<void>, children: unknown, action: string, onCancel?: () => void, cancel?: string, cancelTest?: string, test?: string, errorTest?: string }} props
 */
export function Form({ send, children, action, onCancel, cancel, cancelTest, test, errorTest }) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(/** @type {unknown} */ (null));
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      await send();
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  };
  return html`<form onSubmit=${submit}>
    ${children}
    ${error !== null && html`<div class="notice bad" role="alert" data-test=${errorTest}><p>${reason(error)}</p></div>`}
    <footer>
      ${onCancel && html`<button type="button" data-test=${cancelTest} onClick=${onCancel}>${cancel ?? t('action.cancel')}</button>`}
      <button type="submit" class="primary" disabled=${busy} data-test=${test}>${busy ? t('state.working') : action}</button>
    </footer>
  </form>`;
}

/** @param {Event} event */
export const textOf = (event) => /** @type {HTMLInputElement} */ (event.currentTarget).value;

/** @param {Event} event */
export const checkedOf = (event) => /** @type {HTMLInputElement} */ (event.currentTarget).checked;

/**
 * A number that may be left out.
 * @param {string} text
 * @returns {number | null}
 */
export function optionalNumber(text) {
  const trimmed = text.trim();
  return trimmed === '' || Number.isNaN(Number(trimmed)) ? null : Number(trimmed);
}

/** @param {{ text: string, label: string, test?: string }} props */
export function Copyable({ text, label, test }) {
  const [done, setDone] = useState(false);
  const id = useId();
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Plain HTTP on another machine has no clipboard: select the text, so that Ctrl+C copies it.
      const range = document.createRange();
      range.selectNodeContents(/** @type {Node} */ (document.getElementById(id)));
      getSelection()?.removeAllRanges();
      getSelection()?.addRange(range);
      return;
    }
    setDone(true);
    setTimeout(() => setDone(false), 2000);
  };
  return html`<div class="copyable">
    <span class="label">${label}</span>
    <pre tabindex="0" aria-label=${label}><code id=${id} data-test=${test}>${text}</code></pre>
    <button type="button" onClick=${copy}><${Icon} name=${done ? 'check' : 'copy'} />${done ? t('action.copied') : t('action.copy')}</button>
  </div>`;
}

// Removing an account for good: not before its address was typed, and with what it wrote, or without.
import { h, html, useState } from 'preact';
import { t } from '../i18n.js';
import { Confirm } from './dialog.js';
import { Field, textOf } from './form.js';

/** @param {{ name: string, title: string, run: (texts: 'keep' | 'erase') => Promise<void>, onClose: () => void, children?: unknown }} props */
export function Removal({ name, title, run, onClose, children }) {
  const [typed, setTyped] = useState('');
  const [erases, setErases] = useState(false);
  return h(Confirm, {
    title,
    text: t('people.delete-text'),
    action: t('action.delete'),
    off: typed.trim() !== name,
    onClose,
    run: () => run(erases ? 'erase' : 'keep'),
    children: [
      html`<label class="check"><input type="checkbox" data-test="remove-texts" checked=${erases} onChange=${() => setErases(!erases)} /><span>${t('people.texts')}</span></label>`,
      children,
      h(Field, {
        label: t('people.type', { name }),
        input: (field) => html`<input id=${field} autocomplete="off" spellcheck=${false} data-test="remove-typed" value=${typed} onInput=${(/** @type {Event} */ event) => setTyped(textOf(event))} />`,
      }),
    ],
  });
}

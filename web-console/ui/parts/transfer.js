import { html } from 'preact';
import { t } from '../i18n.js';
import { Icon } from './icons.js';
import { complain, toast } from './notices.js';

/** @param {{ name: string, text: string, load: () => Promise<string>, test: string }} props */
export function Save({ name, text, load, test }) {
  const save = async () => {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([await load()]));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  return html`<button type="button" class="quiet" data-test=${test} onClick=${() => save().catch(complain)}><${Icon} name="download" />${text}</button>`;
}

/** Reads a file; what `take` gives is said. @param {{ accept: string, text?: string, take: (text: string, name: string) => Promise<string>, again: () => Promise<void>, test: string }} props */
export function Take({ accept, text = t('rules.import'), take, again, test }) {
  const picked = async (/** @type {Event} */ event) => {
    const input = /** @type {HTMLInputElement} */ (event.target);
    const file = input.files?.[0];
    try {
      if (file) toast(await take(await file.text(), file.name));
      await again();
    } catch (problem) {
      complain(problem);
    }
    input.value = '';
  };
  return html`<label class="button quiet"><${Icon} name="plus" />${text}<input type="file" accept=${accept} class="hidden" data-test=${test} onChange=${picked} /></label>`;
}

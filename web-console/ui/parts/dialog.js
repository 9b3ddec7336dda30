import { html, useEffect, useRef, useState } from 'preact';
import { t } from '../i18n.js';
import { Icon } from './icons.js';
import { complain } from './notices.js';

/**
 * A modal dialog; it is open as long as it is drawn.
 * @param {{ title: string, onClose: () => void, children?: unknown, wide?: boolean, test?: string }} props
 */
export function Dialog({ title, onClose, children, wide = false, test }) {
  const ref = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => {
    const before = document.activeElement;
    ref.current?.showModal();
    return () => {
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  const onCancel = (/** @type {Event} */ event) => {
    event.preventDefault();
    onClose();
  };
  const onBackdrop = (/** @type {MouseEvent} */ event) => {
    if (event.target === ref.current) onClose();
  };
  return html`<dialog ref=${ref} class=${wide ? 'wide' : ''} aria-label=${title} data-test=${test} onCancel=${onCancel} onMouseDown=${onBackdrop}>
    <div class="dialog">
      <header>
        <h2>${title}</h2>
        <button type="button" class="icon" aria-label=${t('action.close')} onClick=${onClose}><${Icon} name="close" /></button>
      </header>
      ${children}
    </div>
  </dialog>`;
}

/**
 * Asks before something is lost.
 * @param {{ title: string, text: string, action: string, run: () => Promise<void>, onClose: () => void, off?: boolean, children?: unknown }} props `off`: not yet
 */
export function Confirm({ title, text, action, run, onClose, off = false, children }) {
  const [busy, setBusy] = useState(false);
  const go = async () => {
    setBusy(true);
    try {
      await run();
      onClose();
    } catch (error) {
      complain(error);
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${title} onClose=${onClose} test="confirm">
    <p>${text}</p>
    ${children}
    <footer>
      <button type="button" onClick=${onClose} autofocus>${t('action.cancel')}</button>
      <button type="button" class="danger" disabled=${busy || off} data-test="confirm-yes" onClick=${go}>${action}</button>
    </footer>
  <//>`;
}

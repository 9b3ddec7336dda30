import { signal } from 'preact';
import * as api from './api.js';
import { setSignedIn } from './live.js';

/**
 * Who is signed in: `undefined` until the server has said so, `null` when nobody is.
 * @type {import('preact').Signal<api.Session | null | undefined>}
 */
export const account = signal(/** @type {api.Session | null | undefined} */ (undefined));

/** Why the server could not say, if it could not. @type {import('preact').Signal<Error | null>} */
export const accountError = signal(/** @type {Error | null} */ (null));

/** Whether the account was granted an action such as `devices.write`, on some resource at least. @param {string} action */
export const may = (action) => account.value?.actions.some((own) => own === '*' || own === action || (own.endsWith('.*') && action.startsWith(own.slice(0, -1)))) ?? false;

export async function refreshAccount() {
  try {
    account.value = await api.session();
    accountError.value = null;
    setSignedIn(true);
  } catch (error) {
    if (error instanceof api.Problem && error.status === 401) {
      leave();
      return;
    }
    accountError.value = /** @type {Error} */ (error);
  }
}

export function leave() {
  accountError.value = null;
  account.value = null;
  setSignedIn(false);
}

export async function signOut() {
  await api.signOut();
  leave();
}

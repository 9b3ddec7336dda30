import { useCallback, useEffect, useRef, useState } from 'preact';

/**
 * What an operation gives, and a way to ask again. The old answer stays until the new one is there.
 * @template T
 * @param {() => Promise<T>} ask
 * @param {readonly unknown[]} inputs
 * @returns {{ data: T | undefined, error: unknown, again: () => Promise<void> }}
 */
export function useLoad(ask, inputs) {
  const [state, setState] = useState(/** @type {{ data: T | undefined, error: unknown }} */ ({ data: undefined, error: null }));
  const turn = useRef(0);
  const again = useCallback(async () => {
    const mine = (turn.current += 1);
    try {
      const data = await ask();
      if (mine === turn.current) setState({ data, error: null });
    } catch (error) {
      if (mine === turn.current) setState((before) => ({ data: before.data, error }));
    }
  }, inputs);
  useEffect(() => {
    again();
    return () => void (turn.current += 1);
  }, [again]);
  return { ...state, again };
}

/**
 * A list that grows by cursor, and begins anew when an input changes. The old items stay until the new ones are there.
 * @template T
 * @param {(page: { limit: number, after: string | null }) => Promise<{ items: T[], next: string | null }>} list
 * @param {number} limit
 * @param {readonly unknown[]} [inputs]
 */
export function usePages(list, limit, inputs = []) {
  const [state, setState] = useState(
    /** @type {{ items: T[] | null, next: string | null, error: unknown, busy: boolean }} */ ({ items: null, next: null, error: null, busy: false }),
  );
  const turn = useRef(0);
  const load = async (/** @type {string | null} */ after) => {
    const mine = (turn.current += 1);
    setState((before) => ({ ...before, busy: true, error: null }));
    try {
      const page = await list({ limit, after });
      if (mine !== turn.current) return;
      setState((before) => ({
        items: after === null ? page.items : [...(before.items ?? []), ...page.items],
        next: page.next,
        error: null,
        busy: false,
      }));
    } catch (error) {
      if (mine === turn.current) setState((before) => ({ ...before, error, busy: false }));
    }
  };
  useEffect(() => void load(null), inputs);
  const edit = (/** @type {(items: T[]) => T[]} */ how) => setState((before) => ({ ...before, items: before.items && how(before.items) }));
  return { ...state, more: () => load(state.next), again: () => load(null), edit };
}

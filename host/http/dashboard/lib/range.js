// The history of a window, asked for again as time goes on.

import { useEffect, useState } from './html.js';
import { get, hostNow, query } from './api.js';
import { whenShown } from './polled.js';
import { windowQuery } from './time.js';

/** A window that moves is asked for again after this part of its length, within these bounds. */
const PART = 1 / 600;
const LEAST_MS = 1000;
const MOST_MS = 60_000;

/** After an error, it is asked for again even if nothing new comes. */
const AFTER_ERROR_MS = 5000;

/** Points of a chart: about one for two pixels of a wide screen. */
export const POINTS = 600;

/** Returns the address of a window's history. `of`: further parameters. */
export const rangeUrl = (path, shown, of = {}) => path + query({ ...windowQuery(shown), points: POINTS, ...of });

/** Returns addresses without their parameters. */
const pathsOf = (key) => key.replace(/\?.*/g, '');

/**
 * Gets the histories at some addresses, and again while the window moves.
 *
 * `news(on)` calls `on(isReset)` when there are new samples, and returns how to end that. Returns
 * `{data, error, range}`: one answer for each address, and the window in seconds at that time.
 */
export function useRanges(urls, shown, news) {
  const key = urls.join('\n');
  const [known, setKnown] = useState({ key });
  useEffect(() => {
    const controller = new AbortController();
    const { signal } = controller;
    const pause = Math.min(MOST_MS, Math.max(LEAST_MS, shown.seconds * 1000 * PART));
    let timer;
    let last = 0;
    let isAsking = false;
    const ask = async () => {
      clearTimeout(timer);
      timer = undefined;
      if (isAsking) {
        timer = setTimeout(ask, pause);
        return;
      }
      isAsking = true;
      last = Date.now();
      const to = shown.isFixed ? shown.until : hostNow() / 1000;
      const range = [shown.isFixed ? shown.since : to - shown.seconds, to];
      try {
        const data = await Promise.all(urls.map((url) => get(url, signal)));
        if (!signal.aborted) setKnown({ key, data, range });
      } catch (error) {
        if (signal.aborted) return;
        timer ??= setTimeout(ask, AFTER_ERROR_MS);
        setKnown((before) => ({ ...(pathsOf(before.key) === pathsOf(key) ? before : {}), key, error }));
      } finally {
        isAsking = false;
      }
    };
    const later = (isReset) => {
      // In a window that is over, nothing changes.
      if ((shown.isFixed && shown.until < hostNow() / 1000) || document.hidden) return;
      if (timer === undefined || isReset) {
        clearTimeout(timer);
        timer = setTimeout(ask, isReset ? 100 : Math.max(0, last + pause - Date.now()));
      }
    };
    const ends = [news(later), whenShown(ask)];
    ask();
    return () => {
      controller.abort();
      clearTimeout(timer);
      ends.forEach((end) => end());
    };
  }, [key]);
  // While another window of the same data is under way, the old one stays on the screen.
  return pathsOf(known.key) === pathsOf(key) ? known : {};
}

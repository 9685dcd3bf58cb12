// Data that is asked for again and again.

import { useEffect, useRef, useState } from './html.js';
import { get } from './api.js';

/** Calls `ask` when the page comes out of the background. Returns how to end that. */
export function whenShown(ask) {
  const onChange = () => document.hidden || ask();
  document.addEventListener('visibilitychange', onChange);
  return () => document.removeEventListener('visibilitychange', onChange);
}

/**
 * Gets JSON now, every `everyMs`, and when `again` is called. A page in the background asks nothing.
 *
 * Returns `{data, error, at, again}`. After an error, `data` is what was there before.
 */
export function usePolled(url, everyMs) {
  const [known, setKnown] = useState({ url });
  const asked = useRef(() => {});
  useEffect(() => {
    if (!url) return undefined;
    const controller = new AbortController();
    let timer;
    const ask = async () => {
      clearTimeout(timer);
      try {
        if (!document.hidden) {
          const data = await get(url, controller.signal);
          if (controller.signal.aborted) return;
          setKnown({ url, data, at: Date.now() });
        }
      } catch (error) {
        if (controller.signal.aborted) return;
        setKnown((before) => ({ ...(before.url === url ? before : { url }), error }));
      }
      timer = setTimeout(ask, everyMs);
    };
    asked.current = ask;
    const end = whenShown(ask);
    ask();
    return () => {
      controller.abort();
      clearTimeout(timer);
      end();
    };
  }, [url, everyMs]);
  const shown = known.url === url ? known : { url };
  return { ...shown, again: () => asked.current() };
}

/** Draws the component again every `everyMs`: ages on it grow. */
export function useClock(everyMs) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
  return now;
}

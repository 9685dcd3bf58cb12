// What Explore asks the host: names for completion, mistakes in an expression, and its values.

import { useEffect, useRef, useState } from './html.js';
import { ask, get, hostNow, path, query } from './api.js';
import { whenShown } from './polled.js';
import { stepsOf } from './expression.js';

/** Points of a line: about one for three pixels of a wide screen. */
const POINTS = 400;

/** A window that moves is asked for again so often, or once in a step. */
const LEAST_MS = 5000;

/** An expression is checked when its author has stopped typing for so long. */
const CHECK_MS = 250;

/** Values and names that are asked for at once. */
const MOST_NAMES = 1000;

const NOTHING = { metrics: [], functions: [], operators: [] };

/** Returns the metrics, functions and operators that an expression can have, once they are there. */
export function useKnown() {
  const [known, setKnown] = useState(NOTHING);
  useEffect(() => {
    const controller = new AbortController();
    const asked = ['/api/v1/label/__name__/values', '/api/v1/metadata', '/api/v1/features'];
    Promise.all(asked.map((url) => get(url, controller.signal))).then(
      ([names, { data: metadata }, { data: features }]) => {
        const usable = (of) => Object.keys(of).filter((name) => of[name]);
        // The series of a histogram or a summary are described by its name.
        const about = (name) => metadata[name]?.[0] ?? metadata[name.replace(/_(bucket|count|sum)$/, '')]?.[0] ?? {};
        const what = (name) => [about(name).type, about(name).help].filter(Boolean).join(': ');
        setKnown({
          metrics: names.data.map((name) => ({ name, what: what(name) || 'metric' })),
          functions: usable(features.promql_functions).map((name) => ({ name, what: 'function' })),
          operators: usable(features.promql_operators),
        });
      },
      // Without names there is no completion; what went wrong shows when the expression is run.
      () => {},
    );
    return () => controller.abort();
  }, []);
  return known;
}

/** Returns the labels, or the values of a label, that can stand in a place of `contextOf`. */
export function useListed({ kind, label, metric }) {
  const matches = { limit: MOST_NAMES, ...(metric && { 'match[]': metric }) };
  const url = { label: `/api/v1/labels${query(matches)}`, value: label && path('api', 'v1', 'label', label, 'values') + query(matches) }[kind];
  const [listed, setListed] = useState({});
  useEffect(() => {
    if (!url) return undefined;
    const controller = new AbortController();
    get(url, controller.signal).then(({ data }) => setListed({ url, data }), () => {});
    return () => controller.abort();
  }, [url]);
  return (listed.url === url && listed.data) || [];
}

/** Returns the host's error for an expression that is being typed, or nothing if it can be read. */
export function useChecked(text) {
  const [checked, setChecked] = useState({});
  useEffect(() => {
    if (!text.trim()) return undefined;
    const controller = new AbortController();
    const timer = setTimeout(() => {
      ask('/api/v1/parse_query', { query: text }, controller.signal).then(
        () => setChecked({ text }),
        (error) => controller.signal.aborted || setChecked({ text, error: error.message }),
      );
    }, CHECK_MS);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [text]);
  return checked.text === text ? checked.error : undefined;
}

/**
 * Computes an expression, and again as time goes on. `isTable`: its values at the end of the window, else those in it,
 * with so many `points` at most.
 *
 * Returns `{data, warnings, infos, error, isAsking, steps, again}`. After an error, the values are what was there before.
 */
export function useAnswer(expr, shown, isTable, points = POINTS) {
  const key = JSON.stringify([expr, shown, isTable]);
  const [known, setKnown] = useState({});
  const asked = useRef(() => {});
  useEffect(() => {
    if (!expr) return undefined;
    const controller = new AbortController();
    let timer;
    let isUnderWay = false;
    const run = async () => {
      clearTimeout(timer);
      if (document.hidden || isUnderWay) return;
      isUnderWay = true;
      const until = shown.isFixed ? shown.until : hostNow() / 1000;
      const steps = stepsOf(until - shown.seconds, until, points);
      try {
        const answer = isTable
          ? await ask('/api/v1/query', { query: expr, time: until }, controller.signal)
          : await ask('/api/v1/query_range', { query: expr, ...steps }, controller.signal);
        setKnown({ key, expr, isTable, steps, range: [until - shown.seconds, until], ...answer });
      } catch (error) {
        if (controller.signal.aborted) return;
        setKnown((before) => ({ ...(before.expr === expr && before.isTable === isTable && before), key, expr, isTable, error }));
        // A mistake stays one.
        if (error.status === 400 || error.status === 422) return;
      } finally {
        isUnderWay = false;
      }
      if (!shown.isFixed) timer = setTimeout(run, isTable ? LEAST_MS : Math.max(LEAST_MS, steps.step * 1000));
    };
    asked.current = run;
    const end = whenShown(run);
    run();
    return () => {
      controller.abort();
      clearTimeout(timer);
      end();
    };
  }, [key]);
  // While another window of the same expression is under way, the old one stays on the screen.
  const isSame = known.expr === expr && known.isTable === isTable;
  return { ...(isSame && known), isAsking: !!expr && known.key !== key, again: () => asked.current() };
}

// The last minutes of the instances on the screen, for their sparklines.

import { useEffect, useState } from './html.js';
import { batches, get, query } from './api.js';
import { watch } from './live.js';

/** The window of a sparkline, in seconds, and its points. */
export const SPARK_SECONDS = 1800;
const POINTS = 60;
const STEP_MS = (SPARK_SECONDS * 1000) / POINTS;

/** Instances in one request, and those whose samples are kept when they are off the screen. */
const AT_ONCE = 50;
const MOST_KEPT = 500;

/** Samples by instance id, the least recently shown first. */
const kept = new Map();

/** Adds a live sample: within one step of the last point, it takes its place. */
function add(id, sample) {
  const known = kept.get(id);
  if (!known) return;
  const at = Date.parse(sample.at);
  const last = known.samples.at(-1);
  const before = known.samples.at(-2);
  if (last && last.at === sample.at) return;
  if (last && before && at - Date.parse(before.at) < STEP_MS * 1.5) known.samples[known.samples.length - 1] = sample;
  else known.samples.push(sample);
  const from = at - SPARK_SECONDS * 1000;
  while (known.samples.length && Date.parse(known.samples[0].at) < from) known.samples.shift();
}

async function load(ids, fields, signal) {
  const key = fields.join(',');
  // Samples of an instance that was off the screen for a while did not come here.
  const isWhole = ({ key: of, left } = {}) => of === key && !(Date.now() - left > STEP_MS);
  const missing = ids.filter((id) => !isWhole(kept.get(id)));
  for (const id of ids) if (kept.has(id)) kept.get(id).left = undefined;
  for (const some of batches(missing, AT_ONCE)) {
    const of = (fields) => '/v1/usage/range' + query({ instance: some, range: `${SPARK_SECONDS}s`, points: POINTS, fields });
    // The host refuses a field that none of these instances has.
    const answer = await get(of(key), signal).catch((error) => {
      if (error.status !== 400) throw error;
      return get(of(), signal);
    });
    for (const id of some) {
      kept.delete(id);
      kept.set(id, { key, samples: answer[id] ?? [], left: undefined });
    }
  }
  for (const id of kept.keys()) {
    if (kept.size <= MOST_KEPT) break;
    if (!ids.includes(id)) kept.delete(id);
  }
}

/** Returns the samples of an instance's last minutes. */
export const recent = (id) => kept.get(id)?.samples ?? [];

/**
 * Loads the last minutes of instances, and goes on with their live samples. Returns what went wrong, if anything, and how
 * often there was something to load.
 */
export function useRecent(ids, fields) {
  const [error, setError] = useState();
  const [loaded, draw] = useState(0);
  const key = ids.join('\n') + '\0' + fields.join(',');
  useEffect(() => {
    if (!ids.length || !fields.length) return undefined;
    const controller = new AbortController();
    const again = () =>
      load(ids, fields, controller.signal).then(
        () => {
          setError(undefined);
          draw((count) => count + 1);
        },
        (problem) => controller.signal.aborted || setError(problem),
      );
    // While the user scrolls, nothing is asked for rows that pass by.
    const timer = setTimeout(again, 120);
    const ends = ids.map((id) =>
      watch(id, (sample, isReset) => {
        if (sample) return add(id, sample);
        if (isReset) kept.delete(id);
        clearTimeout(controller.timer);
        controller.timer = setTimeout(again, 200);
        return undefined;
      }),
    );
    return () => {
      controller.abort();
      clearTimeout(timer);
      clearTimeout(controller.timer);
      ends.forEach((end) => end());
      for (const id of ids) if (kept.has(id)) kept.get(id).left ??= Date.now();
    };
  }, [key]);
  return { error, loaded };
}

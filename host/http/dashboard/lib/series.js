// Samples as columns for a chart.

/** A field that is missing for longer than this many of its usual steps has a gap. */
const GAP_STEPS = 1.75;

/** Returns the usual time between two points. */
export function usualStep(times) {
  const steps = [];
  for (let at = 1; at < times.length; at += 1) steps.push(times[at] - times[at - 1]);
  steps.sort((a, b) => a - b);
  return steps.length ? steps[steps.length >> 1] : 0;
}

/**
 * Returns the columns of one field: times in seconds, means and, if the samples have bands, minima and maxima. Where
 * readings are missing, there is a row of nulls.
 */
export function columns(samples, field) {
  const found = samples.filter((sample) => sample[field] !== undefined);
  const times = found.map((sample) => Date.parse(sample.at) / 1000);
  const step = usualStep(times);
  // Of single readings, the minimum and the maximum are the reading.
  const hasBand = found.some((sample) => sample[`${field}_min`] !== sample[`${field}_max`]);
  const table = hasBand ? [[], [], [], []] : [[], []];
  found.forEach((sample, at) => {
    if (at > 0 && step > 0 && times[at] - times[at - 1] > step * GAP_STEPS) {
      table.forEach((column, nth) => column.push(nth === 0 ? times[at - 1] + step : null));
    }
    const value = sample[field];
    const row = [times[at], value, sample[`${field}_min`] ?? value, sample[`${field}_max`] ?? value];
    table.forEach((column, nth) => column.push(row[nth]));
  });
  return table;
}

/** Returns the latest, smallest, largest and mean value of a column. */
export function summary([, means, minima = means, maxima = means]) {
  const values = means.filter((value) => value !== null);
  if (!values.length) return undefined;
  const of = (column, choose, start) => column.reduce((best, value) => (value === null ? best : choose(best, value)), start);
  return {
    latest: values.at(-1),
    least: of(minima, Math.min, Infinity),
    most: of(maxima, Math.max, -Infinity),
    mean: values.reduce((sum, value) => sum + value, 0) / values.length,
  };
}

// Times, ranges and ages for people. The clock has 24 hours.

/** Ranges that can be chosen, each with its length in seconds. */
export const RANGES = { '30m': 1800, '1h': 3600, '3h': 10_800, '6h': 21_600, '12h': 43_200, '24h': 86_400, '3d': 259_200, '7d': 604_800 };

/** Ranges that can be chosen where another database has longer history. */
export const LONG_RANGES = { '30d': 2_592_000, '1y': 31_536_000 };

export const DEFAULT_RANGE = '1h';

const KEY = 'dropsonde.timezone';

/** Returns whether times are shown in UTC; otherwise they are local. */
export const isUtc = () => localStorage.getItem(KEY) === 'utc';
export const setUtc = (on) => localStorage.setItem(KEY, on ? 'utc' : 'local');

const two = (number) => String(number).padStart(2, '0');

/** The name of the zone that times are shown in. */
export const zoneName = () => (isUtc() ? 'UTC' : Intl.DateTimeFormat().resolvedOptions().timeZone);

/** Returns the parts of a time, in the zone that is chosen. */
function parts(ms) {
  const date = new Date(ms);
  return isUtc()
    ? [date.getUTCFullYear(), date.getUTCMonth() + 1, date.getUTCDate(), date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds()]
    : [date.getFullYear(), date.getMonth() + 1, date.getDate(), date.getHours(), date.getMinutes(), date.getSeconds()];
}

/** Writes a time: `2026-11-29 22:06:20`. */
export function timeText(ms) {
  const [year, month, day, hour, minute, second] = parts(ms);
  return `${year}-${two(month)}-${two(day)} ${two(hour)}:${two(minute)}:${two(second)}`;
}

/** Writes a time for an axis on which the labels are `stepSeconds` apart. */
export function axisTime(seconds, stepSeconds, isFirst) {
  const [, month, day, hour, minute, second] = parts(seconds * 1000);
  const clock = stepSeconds < 60 ? `${two(hour)}:${two(minute)}:${two(second)}` : `${two(hour)}:${two(minute)}`;
  const date = `${two(month)}-${two(day)}`;
  if (stepSeconds >= 86_400) return date;
  return isFirst || (hour === 0 && minute === 0 && second === 0) ? `${clock}\n${date}` : clock;
}

/** The zone that uPlot lays the marks of its axis out in. */
export const dateInZone = (seconds) => {
  if (!isUtc()) return new Date(seconds * 1000);
  const date = new Date(seconds * 1000);
  return new Date(date.getTime() + date.getTimezoneOffset() * 60_000);
};

/** Returns the midnights in a window, in the zone that is chosen. */
export function midnights(since, until) {
  const day = new Date(since * 1000);
  const found = [];
  for (;;) {
    if (isUtc()) day.setUTCHours(24, 0, 0, 0);
    else day.setHours(24, 0, 0, 0);
    if (day >= until * 1000) return found;
    found.push(day / 1000);
  }
}

/** Writes how long something is ago: `12 s`, `5 min`. */
export function age(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} d`;
}

/** Writes a time for a field of a form, in the zone that is chosen. */
export const forInput = (ms) => timeText(ms).replace(' ', 'T');

/** Reads a time out of a field of a form. */
export function fromInput(text) {
  const ms = Date.parse(isUtc() ? `${text}Z` : text);
  return Number.isNaN(ms) ? undefined : ms;
}

/** Reads the window of a view out of its parameters: a range that moves with the clock, or fixed times. */
export function windowOf(params) {
  const [since, until] = [Number(params.get('since')), Number(params.get('until'))];
  if (since && until > since) return { since, until, seconds: until - since, isFixed: true };
  const all = { ...RANGES, ...LONG_RANGES };
  const range = params.get('range') in all ? params.get('range') : DEFAULT_RANGE;
  return { range, seconds: all[range], isFixed: false };
}

/** Returns the query parameters of a window. */
export const windowQuery = ({ range, since, until, isFixed }) => (isFixed ? { since, until } : { range });


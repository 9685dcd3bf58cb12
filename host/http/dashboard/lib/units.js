// What the name of a field says: its unit, and how people write its values.

const SCALES = {
  bytes: { step: 1024, units: ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] },
  count: { step: 1000, units: ['', 'k', 'M', 'G', 'T'] },
};

/** Endings of names, the longest first: the unit, and the factor to the unit that is shown. */
const ENDINGS = [
  ['_bytes_per_sec', { scale: SCALES.bytes, after: '/s', factor: 1 }],
  ['_mb_per_sec', { scale: SCALES.bytes, after: '/s', factor: 1 << 20 }],
  ['_per_second', { scale: SCALES.count, after: '/s', factor: 1 }],
  ['_per_sec', { scale: SCALES.count, after: '/s', factor: 1 }],
  ['_percent', { unit: '%' }],
  ['_pct', { unit: '%' }],
  ['_ratio', { unit: '%', factor: 100 }],
  ['_bytes', { scale: SCALES.bytes, after: '', factor: 1 }],
  ['_mb', { scale: SCALES.bytes, after: '', factor: 1 << 20 }],
  ['_seconds', { isTime: true, factor: 1 }],
  ['_ms', { isTime: true, factor: 1e-3 }],
  ['_celsius', { unit: '°C' }],
  ['_mhz', { unit: 'MHz' }],
];

const DURATIONS = [
  [86_400, 'd'],
  [3600, 'h'],
  [60, 'min'],
  [1, 's'],
  [1e-3, 'ms'],
  [1e-6, 'µs'],
];

const WORDS = { cpu: 'CPU', io: 'I/O', rx: 'received', tx: 'sent', p50: 'p50', p95: 'p95', p99: 'p99', tcp: 'TCP', udp: 'UDP', http: 'HTTP', mb: '', percent: '', pct: '', bytes: '', ms: '', seconds: '' };

/** Returns the ending of a field's name that says its unit. */
function ending(field) {
  return ENDINGS.find(([text]) => field.endsWith(text))?.[1] ?? (field === 'error_rate' ? { unit: '%' } : { scale: SCALES.count, after: '', factor: 1 });
}

/** Writes a number with about three digits that matter. */
function digits(value) {
  const size = Math.abs(value);
  if (size >= 100 || Number.isInteger(value)) return Math.round(value).toString();
  return Number(size >= 10 ? value.toFixed(1) : size >= 0.1 ? value.toFixed(2) : value.toPrecision(2)).toString();
}

function scaled(value, { scale, after, factor }) {
  let rest = value * factor;
  let at = 0;
  // 1000 MiB is wider than 0.98 GiB, so a unit ends at 1000 in both scales.
  while (Math.abs(rest) >= (scale.step === 1024 ? 1000 : 9999.5) && at < scale.units.length - 1) {
    rest /= scale.step;
    at += 1;
  }
  const unit = scale.units[at] + after;
  return unit === '' ? digits(rest) : `${digits(rest)}${unit.startsWith('/') ? '' : ' '}${unit}`;
}

/** Writes a duration in its largest unit: `250 ms`, `1.5 h`. */
export function duration(seconds) {
  if (seconds === 0) return '0 s';
  const [size, unit] = DURATIONS.find(([least]) => Math.abs(seconds) >= least) ?? DURATIONS.at(-1);
  return `${digits(seconds / size)} ${unit}`;
}

/** Writes a value of a field with its unit. */
export function formatted(field, value) {
  if (value === undefined || value === null) return '–';
  const known = ending(field);
  if (known.unit) return `${digits(value * (known.factor ?? 1))} ${known.unit}`;
  return known.isTime ? duration(value * known.factor) : scaled(value, known);
}

export const size = (bytes) => scaled(bytes, { scale: SCALES.bytes, after: '', factor: 1 });
export const count = (value) => scaled(value, { scale: SCALES.count, after: '', factor: 1 });

/** Returns a field's name for people: `memory_used_mb` is `memory used`. */
export function title(field) {
  const words = field.replace(/_per_sec(ond)?$/, '').split(/[_.]/).map((word) => WORDS[word] ?? word);
  const text = words.filter(Boolean).join(' ');
  return text ? text[0].toUpperCase() + text.slice(1) : field;
}

/** Returns what the vertical axis of a field's chart begins and ends at: percentages that fit have the whole range. */
export function axisRange(field, least, most) {
  if (least === null || most === null) return [0, 1];
  const { unit, factor = 1 } = ending(field);
  const whole = 100 / factor;
  if (unit === '%' && least >= 0 && most <= whole) return [0, most > whole / 2 ? whole : Math.max(whole / 100, most * 1.2)];
  const room = (most - Math.min(0, least)) * 0.08 || 1;
  return [Math.min(0, least < 0 ? least - room : 0), most + room];
}

/** Steps of an axis with durations, in seconds. */
const TIME_STEPS = [
  ...[-6, -5, -4, -3, -2, -1].flatMap((power) => [1, 2, 5].map((many) => many * 10 ** power)),
  ...[1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200],
  ...[1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].map((days) => days * 86_400),
];

/** Returns steps for the axis of a field, so that its labels are round in the unit that is shown. */
export function axisSteps(field) {
  const { scale, factor = 1, isTime } = ending(field);
  const steps = [];
  if (scale?.step === 1024) {
    for (let unit = 1 / factor; unit < 2 ** 60 / factor; unit *= 1024) {
      for (let many = 1; many < 1024; many *= 2) steps.push(many * unit);
    }
    return steps;
  }
  if (isTime) return TIME_STEPS.map((seconds) => seconds / factor);
  for (let power = -4; power < 16; power += 1) for (const many of [1, 2, 5]) steps.push(many * 10 ** power);
  return steps;
}

/** Fields that say most about an instance, the first the most. */
const IMPORTANT = [
  'cpu_percent', 'memory_used_mb', 'memory_mb', 'memory_rss_mb', 'requests_per_sec', 'latency_p95_ms', 'latency_p99_ms', 'error_rate', 'up',
  'network_rx_bytes_per_sec', 'network_tx_bytes_per_sec', 'disk_used_percent', 'load_1m',
];

/** Returns the fields of some samples, the important ones first. */
export function fieldsOf(samples) {
  const seen = new Map();
  for (const sample of samples) {
    for (const field of Object.keys(sample)) if (field !== 'at') seen.set(field, (seen.get(field) ?? 0) + 1);
  }
  const rank = (field) => (IMPORTANT.indexOf(field) + 1 || IMPORTANT.length + 1);
  return [...seen.keys()].sort((a, b) => rank(a) - rank(b) || seen.get(b) - seen.get(a) || a.localeCompare(b));
}

/** Returns the fields that stand in one chart: a used amount and its limit belong together. */
export function chartsOf(fields) {
  const limitOf = (field) => ['limit', 'total'].map((word) => field.replace(/_used(_|$)/, `_${word}$1`)).find((other) => other !== field && fields.includes(other));
  const limits = new Set(fields.map(limitOf));
  return fields.filter((field) => !limits.has(field)).map((field) => [field, limitOf(field)].filter(Boolean));
}

// What the dashboard computes without a browser.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { columns, summary, usualStep } from '../../host/http/dashboard/lib/series.js';
import { axisSteps, chartsOf, duration, fieldsOf, formatted, title } from '../../host/http/dashboard/lib/units.js';

const at = (seconds) => new Date(seconds * 1000).toISOString();

test('values are written with the unit of their field', () => {
  const written = [
    ['cpu_percent', 12.34, '12.3 %'], ['hit_rate_pct', 99.5, '99.5 %'], ['error_rate', 0.25, '0.25 %'],
    ['memory_used_mb', 512, '512 MiB'], ['memory_used_mb', 24106, '23.5 GiB'], ['memory_used_mb', 0.5, '512 KiB'],
    ['network_rx_bytes_per_sec', 2048, '2 KiB/s'], ['requests_per_sec', 1411, '1411/s'], ['requests_per_sec', 20000, '20 k/s'],
    ['latency_p95_ms', 13.84, '13.8 ms'], ['latency_p95_ms', 1500, '1.5 s'], ['uptime_seconds', 7200, '2 h'],
    ['processes', 67, '67'], ['load_1m', 0.444, '0.44'], ['size_bytes', 0, '0 B'], ['cpu_percent', undefined, '–'],
  ];
  for (const [field, value, text] of written) assert.equal(formatted(field, value), text, field);
  assert.equal(duration(0.000_074), '74 µs');
});

test('names of fields are written for people', () => {
  assert.deepEqual(['cpu_percent', 'memory_used_mb', 'latency_p95_ms', 'requests_per_sec'].map(title), ['CPU', 'Memory used', 'Latency p95', 'Requests']);
});

test('a used amount and its limit are in one chart, whichever comes first', () => {
  const fields = ['disk_limit_mb', 'disk_used_mb', 'load_1m', 'memory_used_mb', 'memory_limit_mb', 'swap_limit_mb'];
  assert.deepEqual(chartsOf(fields), [['disk_used_mb', 'disk_limit_mb'], ['load_1m'], ['memory_used_mb', 'memory_limit_mb'], ['swap_limit_mb']]);
});

test('the fields that matter come first', () => {
  const samples = [{ at: at(0), zeta: 1, latency_p95_ms: 1, cpu_percent: 1 }, { at: at(1), cpu_percent: 2, beta: 1 }, { at: at(2), beta: 1 }];
  assert.deepEqual(fieldsOf(samples), ['cpu_percent', 'latency_p95_ms', 'beta', 'zeta']);
});

test('a missing reading is a gap, and readings of different rhythms are not', () => {
  const every5 = [0, 5, 10, 20, 25].map((second) => ({ at: at(second), cpu: second }));
  assert.deepEqual(columns(every5, 'cpu'), [[0, 5, 10, 15, 20, 25], [0, 5, 10, null, 20, 25]]);
  // Another plugin measures the same instance once a minute.
  const mixed = [...Array(30).keys()].map((nth) => ({ at: at(nth * 5), cpu: 1, ...(nth % 12 === 0 && { disk: nth }) }));
  assert.deepEqual(columns(mixed, 'disk'), [[0, 60, 120], [0, 12, 24]]);
  assert.equal(usualStep([0, 5, 10, 40]), 5);
  assert.deepEqual(columns([], 'cpu'), [[], []]);
});

test('buckets have a band, and single readings have none', () => {
  const bucket = { at: at(0), cpu: 2, cpu_min: 1, cpu_max: 4 };
  assert.deepEqual(columns([bucket], 'cpu'), [[0], [2], [1], [4]]);
  assert.deepEqual(columns([{ at: at(0), cpu: 2, cpu_min: 2, cpu_max: 2 }], 'cpu'), [[0], [2]]);
  assert.deepEqual(summary(columns([bucket, { at: at(5), cpu: 6, cpu_min: 5, cpu_max: 9 }], 'cpu')), { latest: 6, least: 1, most: 9, mean: 4 });
  assert.equal(summary([[], []]), undefined);
});

test('axes of bytes have steps that are round in their unit', () => {
  const steps = axisSteps('memory_used_mb');
  assert.ok(steps.includes(256) && steps.includes(1024) && steps.includes(0.5));
  assert.ok(steps.every((step, nth) => nth === 0 || step > steps[nth - 1]));
  assert.ok(axisSteps('latency_p95_ms').includes(100));
});

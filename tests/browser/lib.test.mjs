// What the dashboard computes without a browser.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hasWords, keyOf, matcherOf, matcherText, metricOf, named, sinceOf, sorted, thresholdOf, timeline, withLinks } from '../../host/http/dashboard/lib/alerts.js';
import { choicesOf, commonOf, contextOf, mistakeOf, seriesText, stepsOf } from '../../host/http/dashboard/lib/expression.js';
import { columns, summary, usualStep } from '../../host/http/dashboard/lib/series.js';
import { axisSteps, chartsOf, duration, fieldsOf, formatted, title } from '../../host/http/dashboard/lib/units.js';

const at = (seconds) => new Date(seconds * 1000).toISOString();

test('values are written with the unit of their field', () => {
  const written = [
    ['cpu_percent', 12.34, '12.3 %'], ['hit_rate_pct', 99.5, '99.5 %'], ['error_rate', 0.25, '0.25 %'], ['cpu_ratio', 0.123, '12.3 %'],
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

test('what can stand at the cursor of an expression is known', () => {
  const kinds = [
    ['', 'name', ''], ['ra', 'name', 'ra'], ['sum(ra', 'name', 'ra'], ['sum by (wo', 'label', 'wo'], ['sum by (a, ', 'label', ''],
    ['a * on (x) group_left(', 'label', ''], ['up{', 'label', ''], ['up{job="a", in', 'label', 'in'], ['up{job=', 'none', ''],
    ['up{job="we', 'value', 'we'], ["up{job=~'", 'value', ''], ['up{job="a\\"b', 'value', 'a\\"b'], ['label_replace(up, "a', 'none', 'a'],
    ['rate(x[', 'duration', ''], ['rate(x[5', 'duration', '5'], ['1 + 5', 'none', '5'], ['up # what', 'none', ''], ['up{job="}"} + r', 'name', 'r'],
  ];
  for (const [text, kind, word] of kinds) {
    const found = contextOf(text);
    assert.deepEqual([found.kind, found.word, found.from], [kind, word, text.length - word.length], text);
  }
  const { metric, label } = contextOf('sum(up{job="a", instance=~"');
  assert.deepEqual([metric, label], ['up', 'instance']);
});

test('completions that begin with the word come first, and are written as the language wants them', () => {
  const known = { metrics: [{ name: 'rated_total', what: 'counter' }, { name: 'operate', what: 'gauge' }, { name: 'my.rate', what: '' }], functions: [{ name: 'rate', what: '' }, { name: 'irate', what: '' }], operators: ['+', 'sum'], listed: ['job', 'my label', 'say "hi"'] };
  const inserted = (text) => choicesOf(contextOf(text), known).map(({ insert }) => insert);
  assert.deepEqual(inserted('rat'), ['rate(', 'rated_total', 'irate(', 'operate', '{"my.rate"}']);
  assert.deepEqual([inserted(''), inserted('su'), inserted('group_l')], [[], ['sum'], ['group_left']]);
  assert.deepEqual([inserted('up{jo'), inserted('sum by (jo'), inserted('up{lab')], [['job="'], ['job'], ['"my label"="']]);
  assert.deepEqual(inserted('up{job="hi'), ['say \\"hi\\""']);
  assert.deepEqual(inserted('rate(x[5'), ['5m', '15m']);
});

test('a mistake is marked where the host says that it is', () => {
  const said = (place) => `invalid parameter "query": ${place}: parse error: no such function`;
  assert.deepEqual(mistakeOf('sum(rat(x))', said('1:5')), { from: 4, to: 7, message: 'no such function' });
  assert.deepEqual(mistakeOf('"😀" +\n  rat(x)', said('2:3')), { from: 9, to: 12, message: 'no such function' });
  // The host counts a character of two units as one.
  assert.equal(mistakeOf('"😀" + )', said('1:7')).from, 7);
  assert.deepEqual(mistakeOf('sum(', said('1:5')), { from: 4, to: 4, message: 'no such function' });
  assert.equal(mistakeOf('sum(', 'the host does not answer'), undefined);
});

test('a chart asks for whole steps, and its series differ in what their names say', () => {
  assert.deepEqual(stepsOf(1003, 4603, 400), { start: 1000, end: 4600, step: 10 });
  assert.deepEqual(stepsOf(0, 86_400 * 800, 400), { start: 0, end: 86_400 * 800, step: 2 * 86_400 });
  const all = [{ __name__: 'up', job: 'a', id: '1' }, { __name__: 'up', job: 'a', id: '"2"' }];
  assert.deepEqual(all.map((one) => seriesText(one, commonOf(all))), ['{id="1"}', '{id="\\"2\\""}']);
  assert.deepEqual([seriesText(all[0]), seriesText({}), seriesText({ __name__: 'up' })], ['up{job="a", id="1"}', '{}', 'up']);
});

const alert = (name, state, severity, labels = {}) => ({ name, state, severity, labels: { alertname: name, ...(severity && { severity }), ...labels }, annotations: {}, expr: 'up == 0', group: 'g', file: 'f' });

test('alerts that fire come first, and of them the worst', () => {
  const all = [alert('a', 'resolved', 'critical'), alert('b', 'firing'), alert('c', 'inactive', 'critical'), alert('d', 'firing', 'odd'), alert('e', 'pending', 'critical'), alert('g', 'firing', 'warning'), alert('f', 'firing', 'warning'), alert('h', 'firing', 'Critical')];
  assert.deepEqual(sorted(all).map(({ name }) => name), ['h', 'f', 'g', 'd', 'b', 'e', 'a']);
  const times = { active_at: at(1), fired_at: at(2), resolved_at: at(3) };
  assert.equal(sinceOf({ state: 'resolved', ...times }), 3000);
  assert.equal(sinceOf({ state: 'pending', active_at: at(1) }), 1000);
});

test('an alert is found by its labels and by words', () => {
  const [one, both, other] = [alert('a', 'firing', 'info', { id: '1' }), alert('a', 'firing', 'info', { id: '1', disk: 'sda' }), alert('b', 'firing', 'info', { id: '1' })];
  const all = [one, both, other];
  assert.deepEqual(named(all, 'a', ['severity=info', 'id=1']), [one]);
  assert.deepEqual([named(all, 'a', ['id=1']), named(all, 'a', []), named(all, 'a', ['id=2'])], [[one, both], [one, both], []]);
  assert.deepEqual(all.filter((alert) => hasWords(alert, ['id=1', 'sda'])), [both]);
  assert.notEqual(keyOf(one), keyOf(both));
});

test('an expression is split at the number that it is held against', () => {
  const split = (expr) => Object.values(thresholdOf(expr) ?? {});
  const known = [
    ['up == 0', 'up', '==', 0], ['a{b="x > 1"} >= 1.5e3', 'a{b="x > 1"}', '>=', 1500], ['a/b<-.5', 'a/b', '<', -0.5], ['sum by (a) (x > 1) != 2', 'sum by (a) (x > 1)', '!=', 2],
    ['(up > 3)', 'up', '>', 3], ['((a) + (b) <= 1)', '(a) + (b)', '<=', 1], ['a > 5 > 3', 'a > 5', '>', 3], ['a{b=~"c", d!="e"} > 1', 'a{b=~"c", d!="e"}', '>', 1], ['"a > 1" > 2', '"a > 1"', '>', 2],
    ['rate(a[5m] offset 1h) >\n  1', 'rate(a[5m] offset 1h)', '>', 1], ["a{b='\\'> 1'} > 2", "a{b='\\'> 1'}", '>', 2], ['order > 1', 'order', '>', 1], ['(a > 1) > 2', '(a > 1)', '>', 2],
  ];
  for (const [expr, ...parts] of known) assert.deepEqual(split(expr), parts, expr);
  for (const expr of ['up', 'a > b', 'a > bool 1', 'a > 1 and b > 2', 'a > 1 OR b > 2', 'a unless b > 1', 'sum(a > 1)', 'a{b!="1"}', '(a > 1) + (b > 2)', 'a > 1 + 1', 'a > on () 1', 'a > Inf', 'a > NaN', '> 1', 'a >', '', 'a{b="', ')(']) {
    assert.equal(thresholdOf(expr), undefined, expr);
  }
  assert.deepEqual(['a_bytes', ' a{b="c"} ', 'sum(a)', 'a / b', 'a{b="c"} / d{}', ''].map(metricOf), ['a_bytes', 'a', '', '', '', '']);
});

test('times at which alerts were active are joined to spans', () => {
  const values = (...times) => times.map((time) => [time, '1']);
  const result = [
    { metric: { alertname: 'b', alertstate: 'firing' }, values: values(1200, 1800, 3600) },
    { metric: { alertname: 'b', alertstate: 'pending' }, values: values(600) },
    { metric: { alertname: 'a', alertstate: 'pending' }, values: values(600, 1200) },
  ];
  assert.deepEqual(timeline(result, 600), [
    { name: 'a', spans: [{ state: 'pending', from: 0, to: 1200 }] },
    { name: 'b', spans: [{ state: 'pending', from: 0, to: 600 }, { state: 'firing', from: 600, to: 1800 }, { state: 'firing', from: 3000, to: 3600 }] },
  ]);
  assert.deepEqual(timeline([], 600), []);
});

test('only addresses of pages become links', () => {
  const links = (text) => withLinks(text).filter((part, nth) => nth % 2);
  assert.deepEqual(links('See https://a.example/b?c=1, (HTTP://d.example/e) and <https://f.example>.'), ['https://a.example/b?c=1', 'HTTP://d.example/e', 'https://f.example']);
  assert.deepEqual(links(' https://a.example/b_(c) '), ['https://a.example/b_(c)']);
  for (const text of ['javascript:alert(1)', 'data:text/html,https', 'https://', 'xhttps://a.example', 'ftp://a.example', '']) assert.deepEqual(links(text), [], text);
  assert.equal(withLinks('a <b> https://c.example.').join(''), 'a <b> https://c.example.');
});

test('matchers of silences are read and written', () => {
  for (const operator of ['=', '!=', '=~', '!~']) assert.equal(matcherText(matcherOf({ name: ' a ', operator, value: 'b "c"' })), `a${operator}"b \\"c\\""`);
  assert.deepEqual(matcherOf({ name: 'a', operator: '!~', value: '' }), { name: 'a', value: '', isRegex: true, isEqual: false });
});

// Alerts: their order, what their expressions are held against, and when they were active.

import { quotedEnd } from './expression.js';

/** States of an alert, the worst first. */
export const STATES = ['firing', 'pending', 'resolved'];

/** Severities that people use, the worst first. Others come behind them. */
const SEVERITIES = ['critical', 'error', 'warning', 'info'];

const rank = ({ severity = '' }) => (SEVERITIES.indexOf(severity.toLowerCase()) + 1 || SEVERITIES.length + (severity ? 1 : 2));

/** Returns a text that no other alert has. */
export const keyOf = ({ file, group, name, expr, labels }) => JSON.stringify([name, labels, file, group, expr]);

/** Returns alerts by state, severity and name, else in the order that they had; those that never fired are left out. */
export function sorted(alerts) {
  const order = ({ state }) => STATES.indexOf(state);
  return alerts
    .filter((alert) => order(alert) >= 0)
    .sort((a, b) => order(a) - order(b) || rank(a) - rank(b) || a.name.localeCompare(b.name));
}

/** Returns the time since which an alert is in its state. */
export const sinceOf = (alert) => Date.parse(alert.resolved_at ?? alert.fired_at ?? alert.active_at);

/** Returns the labels that tell an alert from the others of its name. */
export const ownLabels = ({ labels }) => Object.entries(labels).filter(([name]) => name !== 'alertname');

/** Returns the labels that tell an alert from the others of its name, as `key=value`. */
export const pairsOf = (alert) => ownLabels(alert).map((pair) => pair.join('='));

/** Returns whether an alert has all words, in its labels as `key=value`, its state or its annotations. */
export function hasWords(alert, words) {
  const text = [alert.name, alert.state, ...pairsOf(alert), ...Object.values(alert.annotations)].join('\n').toLowerCase();
  return words.every((word) => text.includes(word));
}

/** Returns the alerts of a name that have all of these pairs; if one has these and no others, it alone. */
export function named(alerts, name, pairs) {
  const found = alerts.filter((alert) => alert.name === name && pairs.every((pair) => pairsOf(alert).includes(pair)));
  const exact = found.find((alert) => pairsOf(alert).length === pairs.length);
  return exact ? [exact] : found;
}

const COMPARISON = /[<>]=?|[=!]=/y;
const NAME = /[A-Za-z_:][\w:]*/y;

/**
 * Splits an expression at its last comparison: `{left, op, value}`. Returns nothing if it does not compare all of its
 * left side with a number.
 */
export function thresholdOf(expr) {
  let depth = 0;
  let found;
  for (let at = 0; at < expr.length; ) {
    const c = expr[at];
    COMPARISON.lastIndex = NAME.lastIndex = at;
    const word = depth === 0 && (COMPARISON.exec(expr) ?? NAME.exec(expr))?.[0];
    if ('"\'`'.includes(c)) at = quotedEnd(expr, at) ?? expr.length;
    else if (word) {
      // What these join is compared before it is joined.
      if (/^(and|or|unless)$/i.test(word)) return undefined;
      if (/[<>=]/.test(word)) found = { op: word, at };
      at += word.length;
    } else {
      if ('({['.includes(c)) depth += 1;
      else if (')}]'.includes(c)) depth -= 1;
      // The first and the last bracket were no pair.
      if (depth < 0) return undefined;
      at += 1;
    }
  }
  if (!found) return /^\s*\(.*\)\s*$/s.test(expr) ? thresholdOf(expr.trim().slice(1, -1)) : undefined;
  const left = expr.slice(0, found.at).trim();
  const right = expr.slice(found.at + found.op.length).trim();
  return left && /^[-+.\d]/.test(right) && Number.isFinite(+right) ? { left, op: found.op, value: +right } : undefined;
}

/** Returns the metric that an expression shows and nothing else, which says the unit; or an empty text. */
export const metricOf = (expr) => /^([A-Za-z_:][\w:]*)\s*(\{[^{}]*\})?$/.exec(expr.trim())?.[1] ?? '';

/** Splits a text: at every odd place is the address of a page. */
export function withLinks(text) {
  const whole = text.trim();
  if (/^https?:\/\/\S+$/i.test(whole)) return ['', whole, ''];
  return text.split(/\b(https?:\/\/[^\s<>"'`]*[^\s<>"'`.,:;!?)\]])/i);
}

/**
 * Returns when the alerts of each name were active: `{name, spans: [{state, from, to}]}`, sorted by name, those that were
 * firing last. A value at a time means that it was active at some time in the step before.
 */
export function timeline(result, step) {
  const rows = new Map();
  for (const { metric: { alertname: name, alertstate: state }, values } of result) {
    if (!rows.has(name)) rows.set(name, []);
    let last;
    for (const [at] of values) {
      if (last && at - step <= last.to) last.to = at;
      else rows.get(name).push((last = { state, from: at - step, to: at }));
    }
  }
  const order = ({ state }) => (state === 'firing' ? 1 : 0);
  return [...rows].map(([name, spans]) => ({ name, spans: spans.sort((a, b) => order(a) - order(b) || a.from - b.from) })).sort((a, b) => a.name.localeCompare(b.name));
}

export const OPERATORS = ['=', '!=', '=~', '!~'];

/** Writes a matcher of a silence. */
export const matcherText = ({ name, value, isRegex, isEqual }) => `${name}${OPERATORS[2 * isRegex + !isEqual]}${JSON.stringify(value)}`;

/** Returns a matcher as the host reads it. */
export const matcherOf = ({ name, operator, value }) => ({ name: name.trim(), value, isRegex: operator.endsWith('~'), isEqual: operator[0] === '=' });

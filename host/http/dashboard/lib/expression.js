// PromQL while it is typed: what may stand at the cursor, and where a mistake is. Only the host parses expressions.

/** Words that are followed by a list of labels. */
const BEFORE_LABELS = ['by', 'without', 'on', 'ignoring', 'group_left', 'group_right'];

/** Words of the language that the host does not list. */
const WORDS = ['by', 'without', 'on', 'ignoring', 'group_left', 'group_right', 'bool', 'offset'];

const DURATIONS = ['1m', '5m', '15m', '1h', '6h', '1d'];

/** Choices that are shown. */
const MOST = 50;

const NAME = /[A-Za-z_:][\w:]*/y;
const NUMBER = /[\d.][\w.]*/y;

/** Returns where a text in quotes ends, behind its closing quote; or nothing if it has no end. */
export function quotedEnd(text, start) {
  for (let at = start + 1; at < text.length; at += 1) {
    if (text[at] === '\\' && text[start] !== '`') at += 1;
    else if (text[at] === text[start]) return at + 1;
  }
  return undefined;
}

/**
 * Returns what stands at the end of a text: `{kind, word, from}` with the part that is begun and where. `kind` is `name`,
 * `label`, `value`, `duration` or `none`. In braces, `metric` is the name before them; for a value, `label` is its label.
 */
export function contextOf(text) {
  const open = [];
  let before = '';
  for (let at = 0; at < text.length; ) {
    const inside = open.at(-1);
    const c = text[at];
    if ('"\'`'.includes(c)) {
      const end = quotedEnd(text, at);
      if (end === undefined) {
        const isValue = inside?.bracket === '{' && inside.label;
        return { kind: isValue ? 'value' : 'none', word: text.slice(at + 1), from: at + 1, metric: inside?.metric, label: inside?.label };
      }
      at = end;
      before = '';
      continue;
    }
    if (c === '#') {
      const end = text.indexOf('\n', at);
      if (end < 0) return { kind: 'none', word: '', from: text.length };
      at = end;
      continue;
    }
    NAME.lastIndex = NUMBER.lastIndex = at;
    const name = NAME.exec(text)?.[0];
    const word = name ?? NUMBER.exec(text)?.[0];
    if (word) {
      if (at + word.length === text.length) return { ...contextAt(open, name), word, from: at };
      before = name ?? '';
      if (name && inside?.bracket === '{' && !inside.label) inside.label = name;
      at += word.length;
      continue;
    }
    if ('({['.includes(c)) open.push({ bracket: c, before, metric: c === '{' ? before : undefined });
    else if (')}]'.includes(c)) open.pop();
    else if (c === ',' && inside) inside.label = undefined;
    if (!/\s/.test(c)) before = '';
    at += 1;
  }
  return { ...contextAt(open, ''), word: '', from: text.length };
}

/** Returns what a word inside of these brackets is. A word that is no name is a number or a duration. */
function contextAt(open, name) {
  const inside = open.at(-1);
  if (inside?.bracket === '[') return { kind: 'duration' };
  if (name === undefined) return { kind: 'none' };
  // Behind a label, its operator and a value in quotes are missing.
  if (inside?.bracket === '{') return { kind: inside.label ? 'none' : 'label', metric: inside.metric };
  if (inside && BEFORE_LABELS.includes(inside.before.toLowerCase())) return { kind: 'label', isList: true };
  return { kind: 'name' };
}

const isPlain = (name) => /^[A-Za-z_:][\w:]*$/.test(name);

/** Returns the choices whose text has the word, those that begin with it first: `{text, insert, what}`. */
function matching(word, choices) {
  const small = word.toLowerCase();
  const rank = ({ text }) => {
    const at = text.toLowerCase().indexOf(small);
    return at > 0 ? 1 : at;
  };
  return [0, 1].flatMap((wanted) => choices.filter((choice) => rank(choice) === wanted)).slice(0, MOST);
}

/**
 * Returns what may be put in the place of the word that is begun. `known`: `metrics` and `functions` as
 * `{name, what}`, `operators`, and `listed`, the labels or values that the host named for this place.
 */
export function choicesOf({ kind, word, isList }, { metrics, functions, operators, listed }) {
  switch (kind) {
    case 'name': {
      if (!word) return [];
      const names = [
        ...functions.map(({ name, what }) => ({ text: name, insert: `${name}(`, what })),
        ...[...operators.filter(isPlain), ...WORDS].map((name) => ({ text: name, insert: name, what: 'operator' })),
        ...metrics.map(({ name, what }) => ({ text: name, insert: isPlain(name) ? name : `{${JSON.stringify(name)}}`, what })),
      ];
      return matching(word, names).filter(({ text }) => text !== word);
    }
    case 'label':
      return matching(word, listed.map((name) => ({ text: name, insert: (isPlain(name) ? name : JSON.stringify(name)) + (isList ? '' : '="'), what: 'label' })));
    case 'value':
      return matching(word, listed.map((value) => ({ text: value, insert: `${JSON.stringify(value).slice(1, -1)}"`, what: 'value' })));
    case 'duration':
      return matching(word, DURATIONS.map((text) => ({ text, insert: text, what: 'duration' }))).filter(({ text }) => text !== word);
    default:
      return [];
  }
}

/** Returns the place of a mistake in a text, `{from, to, message}`, out of the host's error; or nothing if it names none. */
export function mistakeOf(text, error) {
  const [, line, column, message] = /(\d+):(\d+): parse error: (.*)$/s.exec(error) ?? [];
  if (line === undefined) return undefined;
  const lines = text.split('\n');
  const before = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0);
  // The host counts characters; one beyond the 16 bits of a plane counts twice here.
  const from = before + [...(lines[line - 1] ?? '')].slice(0, column - 1).join('').length;
  NAME.lastIndex = NUMBER.lastIndex = from;
  const word = NAME.exec(text)?.[0] ?? NUMBER.exec(text)?.[0] ?? text[from] ?? '';
  return { from, to: from + word.length, message };
}

/** Lengths of a step, in seconds. */
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400];

/** Returns the times of a window that a chart asks for: whole steps, so that a line stays where it is as time goes on. */
export function stepsOf(since, until, points) {
  const least = (until - since) / points;
  const step = STEPS.find((seconds) => seconds >= least) ?? Math.ceil(least / 86_400) * 86_400;
  return { start: Math.floor(since / step) * step, end: Math.floor(until / step) * step, step };
}

/** Writes a series as a selector, without the labels of `leftOut`. */
export function seriesText(labels, leftOut = {}) {
  const { __name__: name = '', ...others } = labels;
  const pairs = Object.entries(others).filter(([label, value]) => leftOut[label] !== value);
  const inside = pairs.map(([label, value]) => `${isPlain(label) ? label : JSON.stringify(label)}=${JSON.stringify(value)}`).join(', ');
  const shown = leftOut.__name__ === name ? '' : name;
  return inside ? `${shown}{${inside}}` : shown || name || '{}';
}

/** Returns the labels that all series have with the same value, if there are several. */
export function commonOf(all) {
  if (all.length < 2) return {};
  return Object.fromEntries(Object.entries(all[0]).filter(([label, value]) => all.every((labels) => labels[label] === value)));
}

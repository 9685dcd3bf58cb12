// A small line without axes: the shape of the last minutes.

import { html } from '../lib/html.js';

const WIDTH = 100;
const HEIGHT = 24;

/** Returns the path of some points `[seconds, value or null]` in a window. */
function pathOf(points, from, to, least, most) {
  let text = '';
  let isOn = false;
  for (const [at, value] of points) {
    if (value === null || at < from) {
      isOn = false;
      continue;
    }
    const x = ((at - from) / (to - from)) * WIDTH;
    const y = HEIGHT - 1 - ((value - least) / (most - least || 1)) * (HEIGHT - 2);
    text += `${isOn ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`;
    isOn = true;
  }
  return text;
}

/** Draws columns (`series.js`) from one time to another, in seconds. The text beside it says the value. */
export function Sparkline({ table, from, to }) {
  const [times = [], values = []] = table ?? [];
  const seen = values.filter((value) => value !== null);
  if (seen.length < 2) return html`<svg class="spark" viewBox="0 0 ${WIDTH} ${HEIGHT}" aria-hidden="true"></svg>`;
  const [least, most] = [Math.min(0, ...seen), Math.max(...seen)];
  const points = times.map((at, nth) => [at, values[nth]]);
  return html`<svg class="spark" viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" aria-hidden="true">
    <path d=${pathOf(points, from, to, least, most)} />
  </svg>`;
}

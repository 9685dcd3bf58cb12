// Small parts that several views show.

import { html, useState } from '../lib/html.js';
import { hostNow } from '../lib/api.js';
import { useLongerHistory } from '../lib/longer.js';
import { LONG_RANGES, RANGES, forInput, fromInput, windowOf } from '../lib/time.js';
import { setParams } from '../lib/route.js';

/** A state in words, with a mark whose shape differs, too. */
const MARKS = {
  live: '●', running: '●', healthy: '●', applied: '●', resolved: '●', active: '●',
  paused: '❚❚', loading: '◌', compiling: '◌', starting: '◌', 'no data yet': '◌', waiting: '◌',
  stale: '▲', backoff: '▲', degraded: '▲', draining: '▲', lost: '▲', restart: '▲', pending: '▲',
  ended: '■', expired: '■', failed: '✖', quarantined: '✖', firing: '✖',
};
const KINDS = { '●': 'good', '▲': 'warn', '✖': 'bad' };

export function State({ is }) {
  const mark = MARKS[is] ?? '◌';
  return html`<span class="state ${KINDS[mark] ?? 'plain'}"><span aria-hidden="true">${mark}</span> ${is}</span>`;
}

/** Loads the page again, which asks for a token and then shows the same view. */
export function loggedIn(event) {
  event.preventDefault();
  location.reload();
}

/** What went wrong, and what to do. */
export function Problem({ error, what }) {
  if (!error) return null;
  const is401 = error.status === 401;
  return html`<p class="problem" role="alert">
    ${what}: ${error.message}. ${is401 && html`<a href="/" onClick=${loggedIn}>Log in</a>`}
  </p>`;
}

/** Shown until the first answer is there. */
export const Loading = ({ what }) => html`<p class="quiet" role="status">Loading ${what} …</p>`;

/** A used amount beside its limit. */
export function Meter({ name, used, most, text }) {
  const share = most > 0 ? Math.min(1, used / most) : 0;
  const kind = share >= 0.9 ? 'bad' : share >= 0.7 ? 'warn' : 'good';
  return html`<div class="meter ${kind}">
    <span>${name}</span>
    <progress aria-label="${name}: ${text}" max="1" value=${share}></progress>
    <b>${text}</b>
  </div>`;
}

/** Chooses the window of a view, and keeps it in the URL. */
export function RangePicker({ params }) {
  const shown = windowOf(params);
  const database = useLongerHistory();
  const ranges = Object.keys({ ...RANGES, ...(database && LONG_RANGES) });
  // The times that the form began with: what the user types stays when the view is drawn again.
  const [opened, setOpened] = useState();
  const choose = (range) => setParams({ range, since: undefined, until: undefined }, false);
  const now = hostNow();
  const [since, until] = shown.isFixed ? [shown.since * 1000, shown.until * 1000] : [now - shown.seconds * 1000, now];
  const onSubmit = (event) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    const [from, to] = [fromInput(form.get('since')), fromInput(form.get('until'))];
    if (from === undefined || to === undefined || to <= from) {
      event.currentTarget.elements.until.setCustomValidity('The end must be after the start');
      event.currentTarget.reportValidity();
      return;
    }
    setOpened(undefined);
    setParams({ range: undefined, since: Math.floor(from / 1000), until: Math.ceil(to / 1000) }, false);
  };
  return html`<div class="ranges" role="group" aria-label="Range">
    ${ranges.map((range) => html`<button title=${range in LONG_RANGES ? `What is older comes from ${database}` : undefined} aria-pressed=${shown.range === range} onClick=${() => choose(range)}>${range}</button>`)}
    <button aria-pressed=${shown.isFixed} aria-expanded=${!!opened} onClick=${() => setOpened(opened ? undefined : [since, until])}>custom</button>
    ${opened && html`<form class="custom" onSubmit=${onSubmit} onInput=${(event) => event.currentTarget.elements.until.setCustomValidity('')}>
      <label>from <input type="datetime-local" step="1" name="since" required defaultValue=${forInput(opened[0])} /></label>
      <label>to <input type="datetime-local" step="1" name="until" required defaultValue=${forInput(opened[1])} /></label>
      <button>Show</button>
    </form>`}
  </div>`;
}

/** A heading of a view; the page's title is the same. */
export function Heading({ children, title }) {
  document.title = `${title} · Dropsonde`;
  return html`<h1>${children ?? title}</h1>`;
}

/** A text to paste somewhere, with a button that copies it. */
export function Paste({ text }) {
  const [isCopied, setCopied] = useState(false);
  const copy = () => navigator.clipboard?.writeText(text).then(() => setCopied(true), () => {});
  return html`<div class="paste"><pre tabindex="0">${text}</pre>
    ${navigator.clipboard && html`<button onClick=${copy}>${isCopied ? 'Copied' : 'Copy'}</button>`}</div>`;
}

// The series of an instance beside the fields of its samples: what plugins registered, and what was scraped.

import { html, useMemo, useState } from '../lib/html.js';
import { query } from '../lib/api.js';
import { usePolled } from '../lib/polled.js';
import { setParams } from '../lib/route.js';
import { windowOf } from '../lib/time.js';
import { Loading, Problem } from '../parts/common.js';
import { Asked } from './explore.js';

const LIST_MS = 30_000;

/** Series that are asked for, and metrics that are offered at once. */
const MOST_SERIES = 10_000;
const MOST_OFFERED = 60;

/** Returns the metrics of series, each with the number of its series. */
function metricsOf(series) {
  const metrics = new Map();
  for (const { name, kind } of series) {
    const known = metrics.get(name) ?? { name, kind, count: 0 };
    known.count += 1;
    metrics.set(name, known);
  }
  return [...metrics.values()];
}

/** Returns an expression that shows a metric: of what only grows, how fast. */
function expressionOf({ name, kind }, id) {
  const isPlain = /^[a-zA-Z_:][\w:]*$/.test(name);
  const selector = isPlain ? `${name}{id=${JSON.stringify(id)}}` : `{${JSON.stringify(name)}, id=${JSON.stringify(id)}}`;
  if (name.endsWith('_bucket') && kind === 'histogram') return `histogram_quantile(0.95, sum by (le) (rate(${selector}[5m])))`;
  const grows = kind === 'counter' || (['histogram', 'summary'].includes(kind) && /_(sum|count)$/.test(name));
  return grows ? `rate(${selector}[5m])` : selector;
}

export function Series({ id, params }) {
  const shown = windowOf(params);
  const chosen = params.get('series') ?? '';
  const [search, setSearch] = useState('');
  const selector = `{id=${JSON.stringify(id)},__name__!~"dropsonde_sample_.+"}`;
  const list = usePolled(`/v1/series${query({ 'match[]': selector, limit: MOST_SERIES })}`, LIST_MS);
  const metrics = useMemo(() => metricsOf(list.data ?? []), [list.data]);
  const wanted = search.trim().toLowerCase();
  const found = metrics.filter(({ name }) => name.toLowerCase().includes(wanted));
  const metric = metrics.find(({ name }) => name === chosen);
  if (!list.data && !list.error) return html`<${Loading} what="series" />`;
  return html`
    <${Problem} error=${list.error} what="The series cannot be listed" />
    ${list.data?.length === 0 && html`<p class="quiet">None beside the fields above. Plugins can register series, and <a href="/docs/scrape#keeping-samples"><code>scrape</code></a> can keep all samples of a target.</p>`}
    ${metrics.length > 0 && html`
      <label>Metric <input type="search" value=${search} onInput=${(event) => setSearch(event.currentTarget.value)} /></label>
      <ul class="offered">${found.slice(0, MOST_OFFERED).map(({ name, count }) => html`<li>
        <button aria-pressed=${name === chosen} onClick=${() => setParams({ series: name === chosen ? undefined : name })}><code>${name}</code>${count > 1 && html` <small>${count}</small>`}</button>
      </li>`)}</ul>
      ${found.length > MOST_OFFERED && html`<p class="quiet">The first ${MOST_OFFERED} of ${found.length} metrics are offered; type a part of the name.</p>`}`}
    ${metric && html`<${Asked} expr=${expressionOf(metric, id)} shown=${shown} />`}`;
}

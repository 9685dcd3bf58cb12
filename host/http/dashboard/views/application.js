// The application as a whole: the snapshot's numbers with their trend, and where they come from.

import { html, useMemo, useState } from '../lib/html.js';
import { hostNow } from '../lib/api.js';
import { useClock, usePolled } from '../lib/polled.js';
import { followStream } from '../lib/stream.js';
import { rangeUrl, useRanges } from '../lib/range.js';
import { columns } from '../lib/series.js';
import { formatted, title } from '../lib/units.js';
import { age, windowOf } from '../lib/time.js';
import { link, setParams } from '../lib/route.js';
import { zoomBack, zoomTo } from '../lib/zoom.js';
import { Chart } from '../parts/chart.js';
import { Sparkline } from '../parts/sparkline.js';
import { Heading, Loading, Problem, RangePicker, State } from '../parts/common.js';

const SOURCES_MS = 5000;

/** The sections of a snapshot, and what people call them. Other keys are about the document itself. */
const SECTIONS = { channels: 'Channels', envelopes: 'Messages', presence: 'Presence', history: 'Message history', tokens: 'Tokens', cache: 'Cache' };

const STATES = { ok: 'live', failing: 'degraded', stale: 'stale' };

/** Returns the name that a number of a section has in history. */
const fieldOf = (section, key) => `${section}_${key}`;

function Counts({ name, counts }) {
  const all = Object.entries(counts).sort((a, b) => b[1] - a[1]);
  const most = all[0]?.[1] ?? 1;
  return html`<details class="counts"><summary>${title(name)} (${all.length})</summary>
    ${all.slice(0, 20).map(([key, value]) => html`<div class="meter"><span>${key}</span><progress aria-label="${key}: ${value}" max=${most} value=${value}></progress><b>${formatted('', value)}</b></div>`)}
  </details>`;
}

function Tile({ section, name, values, samples, range }) {
  const numbers = Object.entries(values).filter(([, value]) => typeof value === 'number');
  const maps = Object.entries(values).filter(([, value]) => typeof value === 'object');
  return html`<section class="tile" aria-label=${name}>
    <h2>${name}</h2>
    <dl>${numbers.map(([key, value]) => html`<div>
      <dt>${title(key)}</dt>
      <dd><b>${formatted(key === 'rate_per_second' ? 'x_per_sec' : key, value)}</b>
        <${Sparkline} table=${columns(samples, fieldOf(section, key))} from=${range?.[0]} to=${range?.[1]} /></dd>
    </div>`)}</dl>
    ${maps.map(([key, counts]) => html`<${Counts} name=${key} counts=${counts} />`)}
  </section>`;
}

export function Application({ params }) {
  const shown = windowOf(params);
  const whole = usePolled('/v1/snapshot', SOURCES_MS);
  const now = useClock(1000) && hostNow();
  const [error, setError] = useState();
  const ranges = useRanges([rangeUrl('/v1/snapshot/range', shown, { bands: 1 })], shown, (on) =>
    followStream('/v1/snapshot/stream', (name) => (name === 'usage' ? on(false) : on(true)), (state, problem) => setError(state === 'lost' ? problem : undefined)),
  );
  const samples = ranges.data?.[0] ?? [];
  const fields = useMemo(() => [...new Set(samples.flatMap((sample) => Object.keys(sample)))].filter((field) => field !== 'at' && !/_(min|max)$/.test(field)), [ranges.data]);
  const field = fields.includes(params.get('field')) ? params.get('field') : fields[0];
  const lines = useMemo(() => [{ label: '', table: columns(samples, field) }], [ranges.data, field]);
  const document = whole.data;
  return html`<section class="application-view">
    <div class="bar"><${Heading} title="Application" /><${RangePicker} params=${params} />
      ${shown.isFixed && html`<button onClick=${zoomBack}>Zoom out</button>`}
      <a href="/v1/snapshot" target="_blank" rel="noopener">JSON</a></div>
    <${Problem} error=${whole.error ?? ranges.error ?? error} what="The numbers are not up to date" />
    ${!document && !whole.error && html`<${Loading} what="the snapshot" />`}
    ${document && html`
      <p class="facts">${document.sources.length === 0
        ? html`No source yet: every number is 0. A plugin with the role <code>source</code> reports them. <a href="/docs/plugins">Plugins</a>`
        : document.sources.map((source) => html`<span><a href=${link(['plugins', source.name])}>${source.name}</a> <${State} is=${STATES[source.status] ?? source.status} /> <small>${source.at ? `${age(now - Date.parse(source.at))} ago` : 'no answer yet'}</small></span>`)}</p>
      <div class="tiles">
        ${Object.entries(SECTIONS).filter(([key]) => document[key]).map(([key, name]) => html`<${Tile} key=${key} section=${key} name=${name} values=${document[key]} samples=${samples} range=${ranges.range} />`)}
      </div>
      ${fields.length > 0 && html`<label>Chart <select value=${field} onChange=${(event) => setParams({ field: event.currentTarget.value })}>
        ${fields.map((one) => html`<option value=${one}>${title(one)}</option>`)}
      </select></label>
      <div class="charts"><${Chart} key=${field} name=${title(field)} field=${field} lines=${lines} range=${() => ranges.range} onZoom=${zoomTo} onBack=${zoomBack}
        json=${rangeUrl('/v1/snapshot/range', shown, { bands: 1, fields: field })} /></div>`}`}
  </section>`;
}

// One instance: a chart of every field, and its other series.

import { html, useMemo, useState } from '../lib/html.js';
import { hostNow, path } from '../lib/api.js';
import { useFollowed, useLatest, watch } from '../lib/live.js';
import { useClock, usePolled } from '../lib/polled.js';
import { rangeUrl, useRanges } from '../lib/range.js';
import { columns } from '../lib/series.js';
import { chartsOf, fieldsOf, title } from '../lib/units.js';
import { age, timeText, windowOf } from '../lib/time.js';
import { link } from '../lib/route.js';
import { zoomBack, zoomTo } from '../lib/zoom.js';
import { Chart } from '../parts/chart.js';
import { Heading, Loading, Problem, RangePicker, State } from '../parts/common.js';
import { Later } from '../parts/later.js';
import { labelSearch, stateOf } from './overview.js';

const LIST_MS = 10_000;

const loadSeries = () => import('./series.js');

/** Fields whose names end so are the bounds of others. */
const isBand = (field, all) => /_(min|max)$/.test(field) && all.includes(field.replace(/_(min|max)$/, ''));

function Facts({ instance, sample, intervals }) {
  useClock(1000);
  const state = stateOf(instance, intervals);
  const last = sample?.at ?? instance.last_at;
  return html`<p class="facts">
    <${State} is=${state} />
    ${last && html`<span>last sample ${timeText(Date.parse(last))} <b class=${state}>${age(hostNow() - Date.parse(last))} ago</b></span>`}
    ${instance.samplers.length > 0 && html`<span>from ${instance.samplers.map((name, nth) => html`${nth > 0 && ', '}<a href=${link(['plugins', name])}>${name}</a>`)}</span>`}
    ${Object.entries(instance.labels).map(([key, value]) => html`<a class="label" href=${link([], { q: labelSearch(key, value) })}>${key}=${value}</a>`)}
  </p>`;
}

/** The series beside the fields, which are loaded when they are asked for. */
function MoreSeries({ id, params }) {
  const [isOpen, setOpen] = useState(params.has('series'));
  return html`<details class="earlier more-series" open=${isOpen} onToggle=${(event) => setOpen(event.currentTarget.open)}>
    <summary>Series</summary>
    ${isOpen && html`<${Later} load=${loadSeries} name="Series" id=${id} params=${params} />`}
  </details>`;
}

export function Instance({ id, params, intervals }) {
  const shown = windowOf(params);
  const own = path('v1', 'instances', id);
  const instance = usePolled(own, LIST_MS);
  useFollowed([id]);
  const sample = useLatest(id);
  const url = rangeUrl(`${own}/usage/range`, shown, { bands: 1 });
  const { data, error, range } = useRanges([url], shown, (on) => watch(id, (next, isReset) => on(isReset)));
  const charts = useMemo(() => {
    const samples = data?.[0] ?? [];
    const all = fieldsOf(samples);
    const fields = all.filter((field) => !isBand(field, all));
    return chartsOf(fields).map((group) => ({
      field: group[0],
      fields: group,
      lines: group.map((field, nth) => ({ label: nth > 0 ? title(field) : '', table: columns(samples, field), isLimit: nth > 0 })),
    }));
  }, [data]);

  return html`<section class="instance-view">
    <div class="bar">
      <${Heading} title=${id} />
      <${RangePicker} params=${params} />
      <a class="button" href=${link(['compare'], { instance: [id], range: shown.range, since: shown.since, until: shown.until })}>Compare with …</a>
      ${shown.isFixed && html`<button onClick=${zoomBack}>Zoom out</button>`}
    </div>
    <${Problem} error=${instance.error} what=${`The instance ${id} cannot be shown`} />
    <${Problem} error=${error} what="Its history is not up to date" />
    ${instance.data && instance.error?.status !== 404 && html`<${Facts} instance=${instance.data} sample=${sample} intervals=${intervals} />`}
    ${!data && !error && html`<${Loading} what="history" />`}
    ${data && charts.length === 0 && html`<p>No readings in this window. <a href=${link(['instance', id], { range: '7d' })}>Show 7 days</a></p>`}
    <div class="charts">
      ${charts.map(({ field, fields, lines }) => html`<${Chart}
        key=${field} name=${title(field)} lines=${lines} field=${field} range=${() => range} onZoom=${zoomTo} onBack=${zoomBack}
        json=${rangeUrl(`${own}/usage/range`, shown, { bands: 1, fields: fields.join(',') })} />`)}
    </div>
    <${MoreSeries} id=${id} params=${params} />
  </section>`;
}

// Several instances in one chart, or all of a workload and their totals.

import { html, useMemo, useState } from '../lib/html.js';
import { path } from '../lib/api.js';
import { useFollowed, watch } from '../lib/live.js';
import { usePolled } from '../lib/polled.js';
import { rangeUrl, useRanges } from '../lib/range.js';
import { columns } from '../lib/series.js';
import { fieldsOf, title } from '../lib/units.js';
import { windowOf } from '../lib/time.js';
import { link, setParams } from '../lib/route.js';
import { zoomBack, zoomTo } from '../lib/zoom.js';
import { Chart } from '../parts/chart.js';
import { Heading, Loading, Problem, RangePicker } from '../parts/common.js';
import { labelSearch } from './overview.js';

/** Lines in one chart: more cannot be told apart. */
const MOST = 6;

const LIST_MS = 30_000;

function Adder({ all, chosen, onAdd }) {
  const [name, setName] = useState('');
  const isKnown = all.includes(name) && !chosen.includes(name);
  const onSubmit = (event) => {
    event.preventDefault();
    if (!isKnown) return;
    onAdd(name);
    setName('');
  };
  return html`<form class="adder" onSubmit=${onSubmit}>
    <label>Add instance <input list="instances" value=${name} onInput=${(event) => setName(event.currentTarget.value)} /></label>
    <datalist id="instances">${all.filter((id) => !chosen.includes(id)).slice(0, 200).map((id) => html`<option value=${id} />`)}</datalist>
    <button disabled=${!isKnown}>Add</button>
  </form>`;
}

export function Compare({ params }) {
  const shown = windowOf(params);
  const workload = params.get('workload');
  const named = params.getAll('instance');
  const list = usePolled('/v1/instances', LIST_MS);
  const members = (list.data ?? []).filter((one) => one.labels.workload === workload && workload).map((one) => one.id);
  const all = workload ? [...new Set([...named, ...members])] : named;
  const ids = all.slice(0, MOST);
  useFollowed(ids);

  const total = workload && rangeUrl(`${path('v1', 'workloads', workload)}/usage/range`, shown);
  const many = ids.length > 0 && rangeUrl('/v1/usage/range', shown, { instance: ids });
  const urls = [many, total].filter(Boolean);
  const { data, error, range } = useRanges(urls, shown, (on) => {
    const ends = ids.map((id) => watch(id, (next, isReset) => on(isReset)));
    return () => ends.forEach((end) => end());
  });
  const [byId, sums] = many ? data ?? [] : [undefined, data?.[0]];
  const charts = useMemo(() => {
    if (!data) return [];
    const known = fieldsOf([...Object.values(byId ?? {}).flat(), ...(sums ?? [])]);
    const wanted = params.get('fields')?.split(',').filter(Boolean);
    return (wanted ?? known).flatMap((field) => {
      const lines = ids.map((id) => ({ label: id, table: columns(byId?.[id] ?? [], field) }));
      const each = { name: title(field), field, json: many && `${many}&fields=${encodeURIComponent(field)}`, lines: lines.filter(({ table }) => table[0].length > 0) };
      // A sum is much larger than its parts: in one chart with them, it would press them flat.
      const sum = sums && { name: `${title(field)}, together`, field, json: `${total}&fields=${encodeURIComponent(field)}`, lines: [{ label: `${workload} together`, table: columns(sums, field) }] };
      return [sum, each].filter((chart) => chart?.lines[0]?.table[0].length);
    });
  }, [data, params.toString()]);

  const name = workload ? `Workload ${workload}` : 'Compare';
  return html`<section class="compare-view">
    <div class="bar">
      <${Heading} title=${name} />
      <${RangePicker} params=${params} />
      ${shown.isFixed && html`<button onClick=${zoomBack}>Zoom out</button>`}
    </div>
    <div class="bar">
      ${named.map((id) => html`<span class="chip"><a href=${link(['instance', id], { range: shown.range })}>${id}</a>
        <button aria-label="Leave out ${id}" onClick=${() => setParams({ instance: named.filter((one) => one !== id) })}>×</button></span>`)}
      <${Adder} all=${(list.data ?? []).map((one) => one.id)} chosen=${named} onAdd=${(id) => setParams({ instance: [...named, id] })} />
    </div>
    ${all.length > MOST && html`<p class="quiet" role="note">The charts show ${MOST} of ${all.length} instances. <a href=${link([], { q: workload ? labelSearch('workload', workload) : '' })}>All of them</a></p>`}
    <${Problem} error=${list.error ?? error} what="The charts are not up to date" />
    ${urls.length === 0 && html`<p>Choose instances here, or mark them in the <a href="#/">list</a>.</p>`}
    ${urls.length > 0 && !data && !error && html`<${Loading} what="history" />`}
    <div class="charts">
      ${charts.map(({ name, field, lines, json }) => html`<${Chart} key=${name} name=${name} lines=${lines} field=${field} json=${json} range=${() => range} onZoom=${zoomTo} onBack=${zoomBack} />`)}
    </div>
  </section>`;
}

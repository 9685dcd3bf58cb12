// Explore: history asked in PromQL, as a chart or a table.

import { html, useEffect, useMemo, useState } from '../lib/html.js';
import { query } from '../lib/api.js';
import { commonOf, mistakeOf, seriesText } from '../lib/expression.js';
import { useAnswer, useChecked, useKnown } from '../lib/promql.js';
import { earlierQueries, forgetQueries, keepQuery } from '../lib/queries.js';
import { link, setParams } from '../lib/route.js';
import { timeText, windowOf } from '../lib/time.js';
import { zoomBack, zoomTo } from '../lib/zoom.js';
import { Chart } from '../parts/chart.js';
import { Heading, Loading, Problem, RangePicker } from '../parts/common.js';
import { ExpressionField } from '../parts/expression.js';

/** Lines of a chart; rows of a table. */
const MOST_LINES = 24;
const MOST_ROWS = 500;

/** Returns the lines of the answer's series, each with a value for every step; without one, there is a gap. */
function linesOf(result, { start, end, step }) {
  const times = [];
  for (let at = start; at <= end; at += step) times.push(at);
  const common = commonOf(result.map(({ metric }) => metric));
  return result.map(({ metric, values }) => {
    const column = times.map(() => null);
    for (const [at, value] of values) {
      const number = Number(value);
      if (Number.isFinite(number)) column[Math.round((at - start) / step)] = number;
    }
    return { label: seriesText(metric, common), table: [times, column] };
  });
}

/** Answers of one value are a result without labels. */
const seriesOf = ({ resultType, result }) => (['scalar', 'string'].includes(resultType) ? [{ metric: {}, value: result }] : result);

/** `limit`: a line that all others are held against, `{label, value}`. */
function Lines({ answer, expr, limit }) {
  const { data, steps, range } = answer;
  const lines = useMemo(() => {
    const own = linesOf(data.result.slice(0, MOST_LINES), steps);
    const [times] = own[0].table;
    return limit ? [...own, { label: limit.label, table: [times, times.map(() => limit.value)], isLimit: true }] : own;
  }, [data, steps, limit?.label, limit?.value]);
  // A name that all series have says the unit.
  const field = commonOf([data.result[0].metric, ...data.result.map(({ metric }) => metric)]).__name__ ?? '';
  const json = `/api/v1/query_range${query({ query: expr, ...steps })}`;
  return html`
    ${data.result.length > MOST_LINES && html`<p class="quiet">The first ${MOST_LINES} of ${data.result.length} series are drawn. <code>topk</code> or a label narrows them; the table lists more.</p>`}
    <${Chart} name=${expr} lines=${lines} field=${field} range=${() => range} onZoom=${zoomTo} onBack=${zoomBack} json=${json} />`;
}

/**
 * The chart of an expression outside of Explore. `first(labels)`: whether a series comes before others. `whole`: the
 * expression that the link shows, if another one. `limit`: see `Lines`.
 */
export function Asked({ expr, shown, limit, first = () => false, whole = expr }) {
  const answer = useAnswer(expr, shown, false);
  const { data } = answer;
  const sorted = useMemo(() => data && { result: [...data.result].sort((a, b) => first(b.metric) - first(a.metric)) }, [data]);
  return html`
    <${Problem} error=${answer.error} what="The host cannot answer" />
    ${answer.isAsking && !data && html`<${Loading} what="values" />`}
    ${data?.result.length === 0 && html`<p>No series has a value in this window.</p>`}
    ${data?.result.length > 0 && html`<${Lines} answer=${{ ...answer, data: sorted }} expr=${expr} limit=${limit} />`}
    <p><a href=${link(['explore'], { expr: whole, range: shown.range, since: shown.since, until: shown.until })}>Explore this expression</a></p>`;
}

function Rows({ answer, expr }) {
  const series = seriesOf(answer.data);
  const until = answer.range[1];
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Values at ${timeText(until * 1000)}"><table class="series">
    <caption>${series.length === 1 ? '1 series' : `${series.length} series`} at ${timeText(until * 1000)} <a href=${`/api/v1/query${query({ query: expr, time: until })}`} target="_blank" rel="noopener">JSON</a></caption>
    <thead><tr><th scope="col">series</th><th scope="col" class="number">value</th></tr></thead>
    <tbody>${series.slice(0, MOST_ROWS).map(({ metric, value, values }) => html`<tr>
      <td><code>${seriesText(metric)}</code></td>
      <td class="number">${value ? value[1] : values.map(([at, one]) => html`<div>${one} <small>${timeText(at * 1000)}</small></div>`)}</td>
    </tr>`)}</tbody>
  </table>${series.length > MOST_ROWS && html`<p class="quiet">The first ${MOST_ROWS} are shown.</p>`}</div>`;
}

/** Remarks on the answer, such as a rate of what may be no counter. */
function Remarks({ answer }) {
  const remarks = [...(answer.warnings ?? []), ...(answer.infos ?? [])];
  return remarks.length > 0 && html`<ul class="remarks">${remarks.map((one) => html`<li>${one}</li>`)}</ul>`;
}

function Earlier({ onChoose }) {
  const [isOpen, setOpen] = useState(false);
  const kept = isOpen ? earlierQueries() : [];
  const forget = () => {
    forgetQueries();
    setOpen(false);
  };
  return html`<details class="earlier" open=${isOpen} onToggle=${(event) => setOpen(event.currentTarget.open)}>
    <summary>Earlier expressions</summary>
    ${isOpen && kept.length === 0 && html`<p class="quiet">None yet. Those that are answered are kept in this browser.</p>`}
    <ul>${kept.map((one) => html`<li><button onClick=${() => onChoose(one)}><code>${one}</code></button></li>`)}</ul>
    ${kept.length > 0 && html`<button onClick=${forget}>Forget them</button>`}
  </details>`;
}

/** Shown while there is no expression. */
function Start({ onChoose }) {
  const examples = [
    ['topk(5, dropsonde_sample_cpu_ratio)', 'the instances that use most CPU'],
    ['sum by (plugin) (rate(dropsonde_plugin_polls_total[5m]))', 'polls per second of each plugin'],
    ['avg_over_time(dropsonde_sample_memory_used_bytes[1h])', 'the memory of each instance, averaged over an hour'],
  ];
  return html`<p>Ask history in <a href="/docs/promql">PromQL</a>, the language of Prometheus. To begin with:</p>
    <ul class="examples">${examples.map(([expr, what]) => html`<li><button onClick=${() => onChoose(expr)}><code>${expr}</code></button> ${what}</li>`)}</ul>`;
}

export function Explore({ params }) {
  const expr = params.get('expr') ?? '';
  const isTable = params.get('show') === 'table';
  const shown = windowOf(params);
  const known = useKnown();
  const [text, setText] = useState(expr);
  useEffect(() => setText(expr), [expr]);
  const answer = useAnswer(expr, shown, isTable);
  const failed = answer.error && text === expr && !answer.isAsking ? answer.error.message : undefined;
  const checked = useChecked(text);
  const mistake = mistakeOf(text, failed ?? checked ?? '');
  const run = (next) => {
    const wanted = next.trim();
    setText(wanted);
    if (wanted === expr) answer.again();
    else setParams({ expr: wanted }, false);
  };
  const isAnswered = !!answer.data && !answer.error;
  useEffect(() => {
    if (isAnswered) keepQuery(expr);
  }, [expr, isAnswered]);
  const results = answer.data && seriesOf(answer.data);
  const isMistake = answer.error && mistakeOf(expr, answer.error.message);
  return html`<section class="explore-view">
    <div class="bar">
      <${Heading} title="Explore" />
      <${RangePicker} params=${params} />
      ${shown.isFixed && html`<button onClick=${zoomBack}>Zoom out</button>`}
    </div>
    <div class="ask">
      <${ExpressionField} text=${text} onText=${setText} onRun=${() => run(text)} known=${known} mistake=${mistake} />
      <button onClick=${() => run(text)}>Run</button>
      <div class="ranges" role="group" aria-label="Show as">
        <button aria-pressed=${!isTable} onClick=${() => setParams({ show: undefined })}>Chart</button>
        <button aria-pressed=${isTable} onClick=${() => setParams({ show: 'table' })}>Table</button>
      </div>
    </div>
    <${Earlier} onChoose=${run} />
    ${!isMistake && html`<${Problem} error=${answer.error} what="The host cannot answer" />`}
    ${!expr && html`<${Start} onChoose=${run} />`}
    ${answer.isAsking && !answer.data && html`<${Loading} what="values" />`}
    <${Remarks} answer=${answer} />
    ${results?.length === 0 && html`<p>No series has a value ${isTable ? 'at this time' : 'in this window'}.</p>`}
    ${results?.length > 0 && (isTable ? html`<${Rows} answer=${answer} expr=${expr} />` : html`<${Lines} answer=${answer} expr=${expr} />`)}
  </section>`;
}

// A large chart. All charts of a view have one crosshair and one zoom.

import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from '../lib/html.js';
import { axisRange, axisSteps, formatted } from '../lib/units.js';
import { axisTime, dateInZone, isUtc, timeText } from '../lib/time.js';
import { summary } from '../lib/series.js';
import { LIMIT_LOOK, colour, lineLook, watchTheme } from '../lib/theme.js';

/** Rows of a chart's table. */
const MOST_ROWS = 500;

/** The part of the width that a press of an arrow key moves the crosshair. */
const KEY_STEP = 0.02;

const { uPlot } = window;

/** Joins the columns of all lines into the rows that uPlot draws. */
const joined = (lines) => (lines.length === 0 ? [[]] : uPlot.join(lines.map(({ table }) => table), lines.map(({ table }) => table.map(() => 1))));

/** Returns the series and the bands of the lines. The order is that of the joined columns. */
function looks(lines) {
  const series = [{}];
  const bands = [];
  lines.forEach(({ label, table, isLimit }, nth) => {
    const [name, dash] = isLimit ? LIMIT_LOOK : lineLook(nth);
    const stroke = colour(name);
    series.push({ label, stroke, dash, width: 1.5, points: { show: pointsShown, filter: lonely, size: 5, fill: stroke } });
    if (table.length > 2) {
      const edge = { stroke: 'transparent', width: 0, points: { show: false } };
      const min = series.push({ ...edge, label: `${label} minimum` }) - 1;
      const max = series.push({ ...edge, label: `${label} maximum` }) - 1;
      bands.push({ series: [max, min], fill: colour(name, 0.22) });
    }
  });
  return { series, bands };
}

/** Readings are shown as points when there is room for them. */
const pointsShown = (chart, nth, first, last) => last - first < chart.bbox.width / devicePixelRatio / 8;

/** Returns the readings with a gap on both sides, which no line shows, if not all are shown as points. */
function lonely(chart, nth, isShown) {
  if (isShown) return null;
  const values = chart.data[nth];
  const [first, last] = chart.series[0].idxs;
  // Where only another line has a point, the value is undefined, and that is no gap.
  const next = (at, step) => {
    let near = at + step;
    while (near >= 0 && near < values.length && values[near] === undefined) near += step;
    return values[near] ?? null;
  };
  const found = [];
  for (let at = first; at <= last; at += 1) {
    if ((values[at] ?? null) !== null && next(at, -1) === null && next(at, 1) === null) found.push(at);
  }
  return found.length ? found : null;
}

function axes(field) {
  const font = '12px system-ui, sans-serif';
  const grid = { stroke: colour('grid'), width: 1 };
  const common = { stroke: colour('quiet'), font, grid, ticks: { ...grid, size: 4 } };
  const time = (chart, splits, axis, space, step) => splits.map((at, nth) => axisTime(at, step, nth === 0));
  return [
    { ...common, values: time, space: 70, size: 38 },
    { ...common, size: 76, incrs: axisSteps(field), values: (chart, splits) => splits.map((value) => formatted(field, value)) },
  ];
}

function draw(place, { lines, field }, handlers) {
  const { series, bands } = looks(lines);
  return new uPlot(
    {
      width: place.clientWidth || 300,
      height: place.clientHeight || 200,
      tzDate: dateInZone,
      legend: { show: false },
      scales: { x: { range: () => handlers.current.range() }, y: { range: (self, least, most) => axisRange(field, least, most) } },
      axes: axes(field),
      series,
      bands,
      cursor: {
        y: false,
        sync: { key: 'charts' },
        drag: { x: true, y: false, setScale: false },
        bind: { dblclick: () => () => handlers.current.onBack?.() },
      },
      hooks: {
        setSelect: [
          (self) => {
            const { left, width } = self.select;
            if (width < 4) return;
            const [from, to] = [self.posToVal(left, 'x'), self.posToVal(left + width, 'x')];
            self.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
            handlers.current.onZoom?.(from, to);
          },
        ],
        setCursor: [(self) => handlers.current.onCursor(self.cursor.idx)],
      },
    },
    joined(lines),
    place,
  );
}

/** Returns the column of each line's means in the joined rows. */
function columnsOf(lines) {
  let next = 1;
  return lines.map(({ table }) => {
    const column = next;
    next += table.length - 1;
    return column;
  });
}

/** The values at the crosshair, or the latest ones. */
function Legend({ lines, field, at, rows }) {
  const columns = columnsOf(lines);
  const isThere = at !== null && at !== undefined && rows[0]?.[at] !== undefined;
  return html`<p class="legend">
    ${isThere && html`<time>${timeText(rows[0][at] * 1000)}</time>`}
    ${lines.map((line, nth) => {
      const value = isThere ? rows[columns[nth]]?.[at] : summary(line.table)?.latest;
      const band = isThere && line.table.length > 2 ? [rows[columns[nth] + 1][at], rows[columns[nth] + 2][at]] : [];
      const hasBand = band[0] !== undefined && band[0] !== null && band[0] !== band[1];
      const [look, dash] = line.isLimit ? LIMIT_LOOK : lineLook(nth);
      return html`<span>
        <svg class="key" viewBox="0 0 24 8" aria-hidden="true"><path class=${look} d="M0 4H24" stroke-dasharray=${dash.join(' ')} /></svg>
        ${line.label || (line.table.length > 2 ? 'mean' : 'value')} <b>${formatted(field, value)}</b>
        ${hasBand && html`<small> ${formatted(field, band[0])} – ${formatted(field, band[1])}</small>`}
      </span>`;
    })}
  </p>`;
}

/** The values of a chart as a table. */
function Values({ lines, field, rows }) {
  const columns = columnsOf(lines);
  const first = Math.max(0, (rows[0]?.length ?? 0) - MOST_ROWS);
  return html`<div class="values" tabindex="0" role="region" aria-label="Values">
    <table>
      <thead><tr><th scope="col">time</th>${lines.map((line) => html`<th scope="col">${line.label || 'value'}</th>`)}</tr></thead>
      <tbody>
        ${(rows[0] ?? []).slice(first).map((at, nth) => {
          const values = columns.map((column) => rows[column][first + nth]);
          if (values.every((value) => value === null || value === undefined)) return null;
          return html`<tr><td>${timeText(at * 1000)}</td>${values.map((value) => html`<td class="number">${formatted(field, value)}</td>`)}</tr>`;
        })}
      </tbody>
    </table>
  </div>`;
}

/** Says in words what a chart shows. */
function spoken(name, lines, field) {
  const parts = lines.map((line) => {
    const known = summary(line.table);
    if (!known) return `${line.label} no values`;
    const [latest, least, most, mean] = [known.latest, known.least, known.most, known.mean].map((value) => formatted(field, value));
    return `${line.label && `${line.label}: `}latest ${latest}, lowest ${least}, highest ${most}, mean ${mean}`;
  });
  return `${name}. ${parts.join('; ')}.`;
}

/**
 * `name`: the chart's heading. `lines`: `{label, table, isLimit}`, with tables of `series.js`. `field`: says the unit.
 * `range()`: the window, in seconds. `onZoom(from, to)`, `onBack()`: the user chose a part of it, or goes back.
 * `json`: the address of the same data.
 */
export function Chart({ name, lines, field, range, onZoom, onBack, json }) {
  const place = useRef();
  const chart = useRef();
  const [at, setAt] = useState(null);
  const [isOpen, setOpen] = useState(false);
  const [colours, setColours] = useState(0);
  const handlers = useRef({});
  handlers.current = { range, onZoom, onBack, onCursor: (idx) => setAt(idx ?? null) };
  const shape = lines.map((line) => `${line.label}:${line.table.length}:${!!line.isLimit}`).join('|');
  const rows = useMemo(() => joined(lines), [lines]);
  const words = useMemo(() => spoken(name, lines, field), [name, lines, field]);
  const values = useMemo(() => isOpen && html`<${Values} lines=${lines} field=${field} rows=${rows} />`, [isOpen, rows, field, isUtc()]);

  useLayoutEffect(() => {
    chart.current = draw(place.current, { lines, field }, handlers);
    const observer = new ResizeObserver(() => {
      const { clientWidth: width, clientHeight: height } = place.current;
      if (width) chart.current.setSize({ width, height });
    });
    observer.observe(place.current);
    return () => {
      observer.disconnect();
      chart.current.destroy();
    };
  }, [shape, field, colours, isUtc()]);
  useLayoutEffect(() => chart.current.setData(rows), [lines]);
  useEffect(() => watchTheme(() => setColours((count) => count + 1)), []);

  const onKey = (event) => {
    const { width, height } = chart.current.over.getBoundingClientRect();
    const left = chart.current.cursor.left < 0 ? width : chart.current.cursor.left;
    const [from, to] = range();
    const seconds = (to - from) / 4;
    const middle = chart.current.posToVal(left, 'x');
    if (event.key === 'ArrowLeft' || event.key === 'ArrowRight') {
      const step = (event.key === 'ArrowLeft' ? -1 : 1) * width * KEY_STEP;
      chart.current.setCursor({ left: Math.min(width, Math.max(0, left + step)), top: height / 2 }, true, true);
    } else if (event.key === '+') onZoom?.(middle - seconds, middle + seconds);
    else if (event.key === '-') onBack?.();
    else return;
    event.preventDefault();
  };

  return html`<figure class="chart">
    <figcaption>
      <h3>${name}</h3>
      <${Legend} lines=${lines} field=${field} at=${at} rows=${rows} />
    </figcaption>
    <div class="plot" ref=${place} role="img" tabindex="0" aria-label=${words} onKeyDown=${onKey}></div>
    <div class="below">
      <details onToggle=${(event) => setOpen(event.currentTarget.open)}>
        <summary>Values</summary>
        ${values}
      </details>
      ${json && html`<a href=${json} target="_blank" rel="noopener">JSON</a>`}
    </div>
  </figure>`;
}

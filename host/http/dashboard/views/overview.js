// All instances: the latest values of the fields that matter, live, with the shape of the last half hour.

import { html, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from '../lib/html.js';
import { batches, get, hostNow, query } from '../lib/api.js';
import { isFollowed, latest, learn, useFollowed, useLatest } from '../lib/live.js';
import { SPARK_SECONDS, recent, useRecent } from '../lib/recent.js';
import { useClock, usePolled } from '../lib/polled.js';
import { columns } from '../lib/series.js';
import { fieldsOf, formatted, title } from '../lib/units.js';
import { age } from '../lib/time.js';
import { link, setParams } from '../lib/route.js';
import { Heading, Loading, Problem, State } from '../parts/common.js';
import { Sparkline } from '../parts/sparkline.js';

/** Height of a row in CSS pixels, as in `style.css`. */
const ROW = 44;

/** Rows that are drawn above and below those on the screen. */
const MORE_ROWS = 5;

/** Fields that are shown if the user chose none, and the most that can be chosen. */
const DEFAULT_FIELDS = 4;
const MOST_FIELDS = 12;

/** Instances whose fields are offered: some of all of them. */
const LOOKED_AT = 100;

/** Width that the name and each field need. */
const NAME_WIDTH = 300;
const FIELD_WIDTH = 170;

/** How often the list is asked for; long lists less often. */
const listEvery = (count) => (count > 1000 ? 60_000 : 10_000);
const valuesEvery = (count) => (count > 1000 ? 30_000 : 5_000);

/** How often states are looked at again: instances become stale without a sample. */
const CLOCK_MS = 5000;

/** Without a sample for so many intervals, and no less than so many seconds, an instance is stale. */
const STALE_INTERVALS = 3;
const STALE_LEAST_MS = 15_000;

/**
 * Returns the state of an instance in a word. `intervals`: seconds by plugin. `asOf`: when the list came that it is of;
 * of instances that are not followed, nothing newer is known.
 */
export function stateOf(instance, intervals, asOf) {
  if (instance.state === 'ended' || instance.state === 'paused') return instance.state;
  const last = lastAt(instance);
  if (!last) return 'no data yet';
  const interval = Math.max(0, ...instance.samplers.map((name) => intervals[name] ?? 0));
  const now = asOf === undefined || isFollowed(instance.id) ? hostNow() : asOf;
  return now - last > Math.max(STALE_LEAST_MS, interval * 1000 * STALE_INTERVALS) ? 'stale' : 'live';
}

const lastAt = (instance) => Math.max(Date.parse(latest(instance.id)?.at ?? 0) || 0, Date.parse(instance.last_at ?? 0) || 0);

/** Splits what was searched for into words; what is in quotes is one word. */
const wordsOf = (search) => (search.match(/(?:[^\s"]|"[^"]*")+/g) ?? []).map((word) => word.replaceAll('"', '').toLowerCase());

/** Returns the search for a label. */
export const labelSearch = (key, value) => (/\s/.test(value) ? `${key}="${value}"` : `${key}=${value}`);

/** Returns whether an instance has what was searched for: words in its id or labels, and labels as `key=value`. */
function matches(instance, words) {
  const text = `${instance.id} ${Object.values(instance.labels).join(' ')}`.toLowerCase();
  return words.every((word) => {
    const [key, ...value] = word.split('=');
    const own = value.length > 0 && Object.entries(instance.labels).find(([name]) => name.toLowerCase() === key);
    return own ? own[1].toLowerCase() === value.join('=') : text.includes(word);
  });
}

const collator = new Intl.Collator(undefined, { numeric: true });

function compare(sort, isDown, intervals, asOf) {
  const way = isDown ? -1 : 1;
  const byId = (a, b) => collator.compare(a.id, b.id);
  if (sort === 'id') return (a, b) => way * byId(a, b);
  if (sort === 'state') return (a, b) => way * stateOf(a, intervals, asOf).localeCompare(stateOf(b, intervals, asOf)) || byId(a, b);
  return (a, b) => {
    const [left, right] = [latest(a.id)?.[sort], latest(b.id)?.[sort]];
    // Instances without the field come last, whichever way.
    if (left === undefined || right === undefined) return (left === undefined) - (right === undefined) || byId(a, b);
    return way * (left - right) || byId(a, b);
  };
}

/** Returns the rows of the table: instances, and above those of each workload its name. */
function rowsOf(instances, isGrouped) {
  if (!isGrouped) return instances;
  const groups = new Map();
  for (const instance of instances) {
    const name = instance.labels.workload ?? '';
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(instance);
  }
  const names = [...groups.keys()].sort((a, b) => (a === '') - (b === '') || a.localeCompare(b));
  return names.flatMap((name) => [{ group: name, count: groups.get(name).length }, ...groups.get(name)]);
}

function Row({ instance, fields, intervals, asOf, range, index, isChosen, onChoose }) {
  const sample = useLatest(instance.id);
  const { id, labels } = instance;
  const state = stateOf(instance, intervals, asOf);
  const last = lastAt(instance);
  const history = recent(id);
  const to = hostNow() / 1000;
  return html`<tr class="instance ${state.replaceAll(' ', '-')}" aria-rowindex=${index}>
    <th scope="row">
      <input type="checkbox" aria-label="Compare ${id}" checked=${isChosen} onChange=${() => onChoose(id)} />
      <a href=${link(['instance', id], { range })}>${id}</a>
      <span class="labels">${Object.entries(labels).map(([key, value]) => html`<button class="label" title="Filter by ${key}=${value}" onClick=${() => setParams({ q: labelSearch(key, value) }, false)}>${value}</button>`)}</span>
    </th>
    <td class="state-cell"><${State} is=${state} />${state === 'stale' && html` <small>${age(hostNow() - last)}</small>`}</td>
    ${fields.map((field) => html`<td>
      <${Sparkline} table=${columns(history, field)} from=${to - SPARK_SECONDS} to=${to} />
      <span class="value">${formatted(field, sample?.[field])}</span>
    </td>`)}
  </tr>`;
}

function Group({ row, columns: count, index, range }) {
  const name = row.group;
  return html`<tr class="group" aria-rowindex=${index}>
    <th scope="rowgroup" colspan=${count}>
      ${name ? html`<a href=${link(['compare'], { workload: name, range })}>${name}</a>` : 'no workload'}
      <small> ${row.count}</small>
    </th>
  </tr>`;
}

function Header({ fields, sort, isDown }) {
  const head = (key, text, extra = '') => {
    const way = sort === key ? (isDown ? 'descending' : 'ascending') : 'none';
    // Numbers are looked at from the largest down, names from the first.
    const first = key === 'id' || key === 'state' ? undefined : '1';
    const next = sort === key ? (isDown ? undefined : '1') : first;
    return html`<th scope="col" class=${extra} aria-sort=${way}><button onClick=${() => setParams({ sort: key === 'id' ? undefined : key, down: next })}>
      ${text}<span aria-hidden="true">${way === 'none' ? '' : isDown ? ' ↓' : ' ↑'}</span>
    </button></th>`;
  };
  return html`<thead><tr aria-rowindex="1">${head('id', 'Instance')}${head('state', 'State', 'state-cell')}${fields.map((field) => head(field, title(field)))}</tr></thead>`;
}

/**
 * Draws the rows on the screen. While one scrolls, only rows that come onto it are drawn: Preact leaves alone what is the
 * same object as before.
 */
function drawRows(before, rows, first, common, picked) {
  const drawn = new Map();
  rows.forEach((row, nth) => {
    const key = row.id ?? `\0${row.group}`;
    const isChosen = picked.has(row.id);
    const by = [row, first + nth, isChosen, common.fields.join(), common.intervals, common.asOf, common.range, common.tick, common.loaded];
    const known = before.get(key);
    const isSame = known?.by.every((one, at) => one === by[at]);
    const index = first + nth + 2;
    drawn.set(key, isSame ? known : { by, node: row.id
      ? html`<${Row} key=${key} instance=${row} ...${common} index=${index} isChosen=${isChosen} />`
      : html`<${Group} key=${key} row=${row} columns=${common.count} index=${index} range=${common.range} />` });
  });
  return drawn;
}

function FieldChooser({ all, chosen }) {
  const toggle = (field) => {
    const next = chosen.includes(field) ? chosen.filter((one) => one !== field) : [...chosen, field].slice(-MOST_FIELDS);
    setParams({ fields: next.join(',') });
  };
  return html`<details class="chooser">
    <summary>Fields</summary>
    <div>
      ${all.map((field) => html`<label><input type="checkbox" checked=${chosen.includes(field)} onChange=${() => toggle(field)} /> ${title(field)} <small>${field}</small></label>`)}
      <button onClick=${() => setParams({ fields: undefined })}>Default</button>
    </div>
  </details>`;
}

/** Returns the part of the rows that is on the screen, and follows scrolling and resizing. */
function useWindow(place, count) {
  const [shown, setShown] = useState({ first: 0, most: 30, width: 1000 });
  useLayoutEffect(() => {
    const box = place.current;
    if (!box) return undefined;
    const look = () => {
      const first = Math.max(0, Math.floor(box.scrollTop / ROW) - MORE_ROWS);
      const most = Math.ceil(box.clientHeight / ROW) + 2 * MORE_ROWS;
      setShown((before) => (before.first === first && before.most === most && before.width === box.clientWidth ? before : { first, most, width: box.clientWidth }));
    };
    const observer = new ResizeObserver(look);
    observer.observe(box);
    box.addEventListener('scroll', look, { passive: true });
    look();
    return () => {
      observer.disconnect();
      box.removeEventListener('scroll', look);
    };
  }, [place.current]);
  return { ...shown, first: Math.min(shown.first, Math.max(0, count - 1)) };
}

export function Overview({ params, intervals }) {
  const [size, setSize] = useState(0);
  const list = usePolled('/v1/instances', listEvery(size));
  const tick = useClock(CLOCK_MS);
  const instances = list.data ?? [];
  useEffect(() => setSize(instances.length), [instances.length]);

  const sort = params.get('sort') ?? 'id';
  const isDown = params.has('down');
  const isGrouped = params.has('group');
  const search = params.get('q') ?? '';
  const isByValue = sort !== 'id' && sort !== 'state';
  const values = usePolled(isByValue && instances.length ? '/v1/usage' : '', valuesEvery(size));
  useMemo(() => Object.entries(values.data ?? {}).forEach(([id, sample]) => learn(id, sample)), [values.data]);

  // Which fields there are is read from some instances, once: columns must not change while one looks.
  const [found, setFound] = useState([]);
  const [fieldsError, setFieldsError] = useState();
  useEffect(() => {
    if (found.length || !instances.length) return;
    const heard = instances.filter((one) => one.last_at);
    const step = Math.ceil(heard.length / LOOKED_AT);
    const [some] = batches(heard.filter((_, nth) => nth % step === 0).map((one) => one.id), LOOKED_AT);
    if (!some) return;
    get('/v1/usage' + query({ instance: some })).then((samples) => {
      Object.entries(samples).forEach(([id, sample]) => learn(id, sample));
      setFound(fieldsOf(Object.values(samples)));
      setFieldsError(undefined);
    }, setFieldsError);
  }, [list.data]);
  const chosen = params.get('fields')?.split(',').filter(Boolean) ?? found.slice(0, DEFAULT_FIELDS);

  const words = wordsOf(search);
  const asOf = useMemo(() => hostNow(), [list.data]);
  const rows = useMemo(
    () => rowsOf(instances.filter((one) => matches(one, words)).sort(compare(sort, isDown, intervals, asOf)), isGrouped),
    [list.data, values.data, search, sort, isDown, isGrouped, intervals],
  );

  const place = useRef();
  const { first, most, width } = useWindow(place, rows.length);
  const fields = chosen.slice(0, Math.max(1, Math.floor((width - (width < 700 ? 190 : NAME_WIDTH)) / (width < 700 ? 150 : FIELD_WIDTH))));
  const shown = rows.slice(first, first + most);
  const ids = shown.filter((row) => row.id && row.state === 'tracked').map((row) => row.id);
  useFollowed(ids);
  const { error, loaded } = useRecent(shown.filter((row) => row.id && row.last_at).map((row) => row.id), fields);

  const [picked, setPicked] = useState(new Set());
  const pick = useCallback((id) => setPicked((before) => {
    const next = new Set(before);
    if (!next.delete(id)) next.add(id);
    return next;
  }), []);
  const range = params.get('range');
  const count = 2 + fields.length;
  const drawn = useRef(new Map());
  const common = { fields, intervals, asOf, range, tick, loaded, count, onChoose: pick };
  drawn.current = drawRows(drawn.current, shown, first, common, picked);
  const matching = rows.filter((row) => row.id).length;
  const states = useMemo(() => {
    const counts = {};
    for (const one of instances) {
      const state = stateOf(one, intervals, asOf);
      counts[state] = (counts[state] ?? 0) + 1;
    }
    return Object.entries(counts);
  }, [list.data, intervals]);

  return html`<section class="overview">
    <div class="bar">
      <${Heading} title="Instances">Instances <small>${matching === instances.length ? matching : `${matching} of ${instances.length}`}</small><//>
      <span class="states">${states.map(([state, number]) => html`<span>${number} <${State} is=${state} /></span>`)}</span>
      <label class="search">Search <input id="search" type="search" value=${search} placeholder="name, or label=value" onInput=${(event) => setParams({ q: event.currentTarget.value })} /></label>
      <label><input type="checkbox" checked=${isGrouped} onChange=${() => setParams({ group: isGrouped ? undefined : '1' })} /> by workload</label>
      ${fields.length < chosen.length && html`<span class="quiet" role="note">${chosen.length - fields.length} more do not fit this width</span>`}
      <${FieldChooser} all=${[...new Set([...chosen, ...found])]} chosen=${chosen} />
      ${picked.size > 0 && html`<a class="button" href=${link(['compare'], { instance: [...picked], range })}>Compare ${picked.size}</a>
        <button onClick=${() => setPicked(new Set())}>Clear</button>`}
    </div>
    <${Problem} error=${list.error ?? values.error ?? fieldsError} what="The list of instances is not up to date" />
    <${Problem} error=${error} what="The history of the last half hour cannot be shown" />
    ${!list.data && !list.error && html`<${Loading} what="instances" />`}
    ${list.data && !instances.length && html`<p>No instance yet. A sampler that discovers instances, <code>PUT /v1/instances/{id}</code> or <code>[[instances]]</code> in the configuration brings the first. <a href="/docs/getting-started">Getting started</a></p>`}
    ${list.data && instances.length > 0 && !matching && html`<p>No instance matches <b>${search}</b>. <button onClick=${() => setParams({ q: undefined })}>Show all</button></p>`}
    <div class="rows" ref=${place} tabindex="0" role="region" aria-label="Instances">
      <table aria-rowcount=${rows.length + 1}>
        <${Header} fields=${fields} sort=${sort} isDown=${isDown} />
        <tbody>
          ${first > 0 && html`<tr class="space" aria-hidden="true" style=${{ height: `${first * ROW}px` }}><td colspan=${count}></td></tr>`}
          ${[...drawn.current.values()].map(({ node }) => node)}
          ${rows.length > first + most && html`<tr class="space" aria-hidden="true" style=${{ height: `${(rows.length - first - most) * ROW}px` }}><td colspan=${count}></td></tr>`}
        </tbody>
      </table>
    </div>
  </section>`;
}

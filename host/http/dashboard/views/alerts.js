// Alerts: what fires, what did in the last week, and what is silenced.

import { html, useEffect, useMemo, useRef, useState } from '../lib/html.js';
import { hostNow, path } from '../lib/api.js';
import { OPERATORS, STATES, hasWords, keyOf, matcherOf, matcherText, metricOf, named, ownLabels, pairsOf, sinceOf, sorted, thresholdOf, timeline, withLinks } from '../lib/alerts.js';
import { useClock, usePolled } from '../lib/polled.js';
import { useAnswer } from '../lib/promql.js';
import { link, setParams } from '../lib/route.js';
import { followStream } from '../lib/stream.js';
import { age, midnights, timeText, windowOf } from '../lib/time.js';
import { duration, formatted } from '../lib/units.js';
import { zoomBack } from '../lib/zoom.js';
import { Result, TokenForm, useChange } from '../parts/change.js';
import { Heading, Loading, Paste, Problem, RangePicker, State } from '../parts/common.js';
import { Asked } from './explore.js';

/** Values change, and silences end, without an event of the stream. */
const POLL_MS = 10_000;
const RULES_MS = 30_000;

/** What an answer cannot have yet: an event is at most so old when the answer is here. */
const NEW_MS = 2000;

/** Things of a kind that are shown; spans of a row that are read out. */
const MOST = 200;
const MOST_SAID = 8;

const WEEK = 7 * 86_400;
const STEP = 600;
const WEEK_MS = 60_000;
const ACTIVE = `max by (alertname, alertstate) (max_over_time(ALERTS[${STEP}s]))`;

const HEADINGS = { firing: 'Firing', pending: 'Pending', resolved: 'Resolved' };

const DURATIONS = ['1h', '4h', '1d', '1w'];

const EXAMPLE = `rules = ["rules/*.yml"]

[[alerts]]
name = "MemoryHigh"
when = "memory_used_mb / memory_limit_mb > 0.9"
for = "5m"`;

/** Follows all alerts. Returns `{alerts, error, again}`. */
function useAlerts() {
  const { data, at, error, again } = usePolled('/v1/alerts', POLL_MS);
  const [events, setEvents] = useState(new Map());
  const ask = useRef();
  ask.current = again;
  useEffect(() => {
    const onEvent = (name, alert) => {
      if (name === 'alerts') ask.current();
      else setEvents((before) => new Map([...before].filter(([, { seen }]) => seen > Date.now() - 2 * POLL_MS)).set(keyOf(alert), { alert, seen: Date.now() }));
    };
    return followStream('/v1/alerts/stream', onEvent, () => {});
  }, []);
  const alerts = useMemo(() => {
    const all = new Map((data ?? []).map((alert) => [keyOf(alert), alert]));
    for (const [key, { alert, seen }] of events) if (seen > at - NEW_MS) all.set(key, alert);
    return data && sorted([...all.values()]);
  }, [data, events]);
  return { alerts, error, again };
}

/** Asks for a silence. `labels`: those of the alerts, as pairs. */
function SilenceForm({ labels, run, onDone }) {
  const [matchers, setMatchers] = useState(() => labels.map(([name, value]) => ({ name, operator: '=', value })));
  const [duration, setDuration] = useState('4h');
  const set = (nth, changes) => setMatchers(matchers.map((one, at) => (at === nth ? { ...one, ...changes } : one)));
  const field = (nth, of) => ({ value: matchers[nth][of], 'aria-label': `${of} ${nth + 1}`, onInput: (event) => set(nth, { [of]: event.currentTarget.value }) });
  const onSubmit = async (event) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    const silence = { matchers: matchers.map(matcherOf), duration: duration.trim(), createdBy: form.get('by'), comment: form.get('comment') };
    if (await run('The silence', 'POST', '/v1/silences', JSON.stringify(silence), 'application/json')) onDone();
  };
  return html`<form class="silence" onSubmit=${onSubmit}>
    <fieldset><legend>Alerts that have all of these labels</legend>
      ${matchers.map((one, nth) => html`<div class="matcher">
        <input ...${field(nth, 'name')} required />
        <select ...${field(nth, 'operator')}>${OPERATORS.map((op) => html`<option>${op}</option>`)}</select>
        <input ...${field(nth, 'value')} />
        <button type="button" aria-label="Remove ${one.name}" onClick=${() => setMatchers(matchers.filter((_, at) => at !== nth))}>✕</button>
      </div>`)}
      <button type="button" onClick=${() => setMatchers([...matchers, { name: '', operator: '=', value: '' }])}>Add a label</button>
    </fieldset>
    <div class="ranges"><label>For <input value=${duration} required size="8" onInput=${(event) => setDuration(event.currentTarget.value)} /></label>
      ${DURATIONS.map((text) => html`<button type="button" aria-pressed=${duration === text} onClick=${() => setDuration(text)}>${text}</button>`)}</div>
    <label>Comment <input name="comment" /></label>
    <label>Your name <input name="by" /></label>
    <div class="ranges"><button>Silence</button> <button type="button" onClick=${onDone}>Cancel</button></div>
  </form>`;
}

function Silence({ silence, run }) {
  const { id, status: { state }, comment, createdBy } = silence;
  const matchers = silence.matchers.map(matcherText).join(' ');
  const [starts, ends] = [Date.parse(silence.startsAt), Date.parse(silence.endsAt)];
  const when = state === 'active' ? `for ${age(ends - hostNow())} more, until ${timeText(ends)}` : `from ${timeText(starts)} to ${timeText(ends)}`;
  return html`<li>
    <div><${State} is=${state} /></div>
    <div><code>${matchers}</code><p>${comment}</p><small>${when}${createdBy && `, by ${createdBy}`}</small></div>
    ${state !== 'expired' && html`<button aria-label="End ${matchers}" onClick=${() => run('The end of the silence', 'DELETE', path('v1', 'silences', id))}>End</button>`}
  </li>`;
}

/** A list of silences. */
const Silences = ({ silences, run }) => html`<ul class="alerts">${silences.map((silence) => html`<${Silence} key=${silence.id} silence=${silence} run=${run} />`)}</ul>`;

/** Writes the value of an alert with the unit of its metric. */
const valueText = ({ expr, value }) => formatted(metricOf(thresholdOf(expr)?.left ?? expr), value);

/** Says since when an alert is in its state. */
function sinceText(alert) {
  const since = sinceOf(alert);
  const past = age(hostNow() - since);
  return alert.state === 'resolved' ? `${past} ago, at ${timeText(since)}` : `for ${past}, since ${timeText(since)}`;
}

const timeOf = (text) => text && timeText(Date.parse(text));

/** A text whose addresses of pages are links. */
const Linked = ({ text }) => withLinks(text).map((part, nth) => (nth % 2 ? html`<a href=${part} target="_blank" rel="noopener">${part}</a>` : part));

function Pairs({ name, of }) {
  const pairs = Object.entries(of).filter(([, value]) => value);
  return pairs.length > 0 && html`<section><h2>${name}</h2><dl class="pairs">${pairs.map(([label, value]) => html`<div><dt>${label}</dt><dd><${Linked} text=${value} /></dd></div>`)}</dl></section>`;
}

/** What the expression is made of, with the number that it is held against. */
function Values({ expr, labels, shown }) {
  const threshold = thresholdOf(expr);
  const isOwn = (metric) => Object.entries(metric).every(([name, value]) => name === '__name__' || labels[name] === value);
  return html`<div class="explore-view">
    <${Asked} expr=${threshold?.left ?? expr} whole=${expr} shown=${shown} first=${isOwn} limit=${threshold && { label: `threshold ${threshold.op}`, value: threshold.value }} />
  </div>`;
}

/** `alert`: as the host lists it, or what its rule says of it while it is not active. */
function Alert({ alert, params, silences, run }) {
  const [isOpen, setOpen] = useState(false);
  const { name, state, severity, labels, annotations, expr } = alert;
  const { summary, description, ...others } = annotations;
  const shown = windowOf(params);
  const own = silences.filter(({ id }) => alert.silenced_by?.includes(id));
  return html`<article>
    <div class="bar">
      <${Heading} title=${name} />
      ${state && html`<${State} is=${state} />`}
      ${severity && html`<b>${severity}</b>`}
      ${alert.silenced_by && html`<span class="label">silenced</span>`}
    </div>
    ${summary && html`<p><b><${Linked} text=${summary} /></b></p>`}
    ${description && html`<p class="description"><${Linked} text=${description} /></p>`}
    <p>${state ? html`${state} ${sinceText(alert)}. ` : 'Not active. '}<button aria-expanded=${isOpen} onClick=${() => setOpen(!isOpen)}>Silence …</button></p>
    ${isOpen && html`<${SilenceForm} labels=${[['alertname', name], ...(state ? ownLabels(alert) : [])]} run=${run} onDone=${() => setOpen(false)} />`}
    ${own.length > 0 && html`<h2>Silenced by</h2><${Silences} silences=${own} run=${run} />`}
    <div class="bar"><${RangePicker} params=${params} />${shown.isFixed && html`<button onClick=${zoomBack}>Zoom out</button>`}</div>
    <${Values} expr=${expr} labels=${labels} shown=${shown} />
    <div class="columns">
      <${Pairs} name="Rule" of=${{
        value: state && valueText(alert),
        'active since': timeOf(alert.active_at),
        'firing since': timeOf(alert.fired_at),
        expression: expr,
        'fires after': alert.for ? duration(alert.for) : 'the first evaluation',
        group: alert.group,
        file: alert.file,
      }} />
      <${Pairs} name="Labels" of=${labels} />
      <${Pairs} name="Annotations" of=${others} />
    </div>
  </article>`;
}

function Row({ alert }) {
  const { name, state, severity, annotations } = alert;
  const about = annotations.summary ?? annotations.description;
  return html`<li>
    <div><${State} is=${state} />${severity && html` <b>${severity}</b>`}</div>
    <div>
      <a href=${link(['alerts', name], { label: pairsOf(alert) })}>${name}</a>${alert.silenced_by && html` <span class="label">silenced</span>`}
      ${about && html`<p>${about}</p>`}
      <p>${pairsOf(alert).filter((pair) => !pair.startsWith('severity=')).map((pair) => html`<span class="label">${pair}</span>`)}</p>
    </div>
    <div class="number"><b>${valueText(alert)}</b> <small>${sinceText(alert)}</small></div>
  </li>`;
}

const More = ({ all }) => all.length > MOST && html`<p class="quiet">The first ${MOST} of ${all.length} are shown.</p>`;

function List({ alerts }) {
  return STATES.map((state) => {
    const own = alerts.filter((alert) => alert.state === state);
    return own.length > 0 && html`<section key=${state}>
      <h2>${HEADINGS[state]} <small>${own.length}</small></h2>
      <ul class="alerts">${own.slice(0, MOST).map((alert) => html`<${Row} key=${keyOf(alert)} alert=${alert} />`)}</ul>
      <${More} all=${own} />
    </section>`;
  });
}

/** What was active in the last week. */
function Week() {
  const now = useClock(WEEK_MS);
  // The step that is under way ends ahead.
  const until = Math.ceil(hostNow() / 1000 / STEP) * STEP;
  const since = until - WEEK;
  const answer = useAnswer(ACTIVE, { since, until, seconds: WEEK, isFixed: true }, false, WEEK / STEP);
  useEffect(() => void answer.again(), [now]);
  const rows = useMemo(() => answer.data && timeline(answer.data.result, STEP), [answer.data]);
  const days = midnights(since, until);
  const spoken = ({ state, from, to }) => `${state} from ${timeText(Math.max(from, since) * 1000)} to ${to === until ? 'now' : timeText(to * 1000)}`;
  return html`<section><h2>History of the last week</h2>
    <${Problem} error=${answer.error} what="History cannot be shown" />
    ${!rows && !answer.error && html`<${Loading} what="history" />`}
    ${rows?.length === 0 && html`<p class="quiet">No alert was active.</p>`}
    ${rows?.length > 0 && html`<p class="quiet">A high bar: firing. A low bar: pending. In steps of 10 minutes.</p>
      <div class="week">
        <div class="days" aria-hidden="true">${days.map((at) => html`<small style=${{ left: `${((at - since) / WEEK) * 100}%` }}>${timeText(at * 1000).slice(5, 10)}</small>`)}</div>
        ${rows.slice(0, MOST).map(({ name, spans }) => html`<a key=${name} href=${link(['alerts', name])}>
          <span>${name}</span>
          <svg viewBox="0 0 ${WEEK} 10" preserveAspectRatio="none" role="img" aria-label=${[...spans].sort((a, b) => b.to - a.to).slice(0, MOST_SAID).map(spoken).join('; ')}>
            ${days.map((at) => html`<path d="M${at - since} 0V10" />`)}
            ${spans.map((span) => html`<rect class=${span.state} x=${span.from - since} width=${Math.max(span.to - span.from, WEEK / 300)}><title>${spoken(span)}</title></rect>`)}
          </svg>
        </a>`)}
      </div>
      <${More} all=${rows} />`}
  </section>`;
}

function Failing({ rules }) {
  const failing = rules.filter(({ health }) => health === 'err');
  return failing.length > 0 && html`<details class="problem"><summary>Rules that fail: ${failing.length}</summary>
    <ul>${failing.slice(0, MOST).map((rule) => html`<li><b>${rule.name}</b> in the group ${rule.group} of ${rule.file}: ${rule.lastError}</li>`)}</ul><${More} all=${failing} /></details>`;
}

function NoRules() {
  return html`<p>There are no alerting rules, so nothing can fire. The configuration names files of rules, or has alerts itself: <a href="/docs/alerts">how alerts work</a>.</p>
    <${Paste} text=${EXAMPLE} />
    <p class="quiet">If there should be rules, <a href="#/system">System</a> says what is wrong with their files.</p>`;
}

/** All that there is of the alerts of a name. */
function One({ name, found, rule, ...given }) {
  const [alert = rule && { ...rule, state: undefined, expr: rule.query, for: rule.duration, severity: rule.labels.severity }, another] = found;
  if (alert && !another) return html`<${Alert} alert=${alert} ...${given} />`;
  return html`<${Heading} title=${name} />${alert ? html`<${List} alerts=${found} />` : 'There is no such alert.'}`;
}

function All({ alerts, rules, silences, params, run }) {
  const search = params.get('q') ?? '';
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const found = alerts.filter((alert) => hasWords(alert, words));
  const hasRules = rules?.some(({ type }) => type === 'alerting');
  const firing = alerts.filter(({ state }) => state === 'firing').length;
  const [over, inForce] = [true, false].map((is) => silences.filter(({ status }) => (status.state === 'expired') === is));
  return html`
    <div class="bar"><${Heading} title="Alerts" />
      <label class="search">Search <input id="search" type="search" value=${search} placeholder="name, or label=value" onInput=${(event) => setParams({ q: event.currentTarget.value })} /></label>
      <a href="/v1/alerts" target="_blank" rel="noopener">JSON</a></div>
    ${rules && html`<${Failing} rules=${rules} />`}
    ${rules && !hasRules && html`<${NoRules} />`}
    ${hasRules && firing === 0 && html`<p>Nothing fires.</p>`}
    ${alerts.length > 0 && found.length === 0 && html`<p>No alert matches <b>${search}</b>.</p>`}
    <${List} alerts=${found} />
    ${(hasRules || alerts.length > 0) && html`<${Week} />`}
    ${silences.length > 0 && html`<section><h2>Silences</h2>
      ${inForce.length > 0 ? html`<${Silences} silences=${inForce} run=${run} />` : html`<p class="quiet">None is in force.</p>`}
      ${over.length > 0 && html`<details><summary>Silences that are over</summary><${Silences} silences=${over} run=${run} /></details>`}
    </section>`}`;
}

export function Alerts({ alert: name, params, recount }) {
  const { alerts, error, again } = useAlerts();
  const listed = usePolled('/api/v1/rules?exclude_alerts=true', RULES_MS);
  const silences = usePolled('/v1/silences', POLL_MS);
  const { result, run, asks, setAsks } = useChange(() => [silences.again, again].forEach((ask) => ask()));
  useClock(1000);
  const rules = useMemo(() => listed.data?.data.groups.flatMap(({ name: group, file, rules: own }) => own.map((rule) => ({ ...rule, group, file }))), [listed.data]);
  // The navigation need not wait for its next turn.
  const firing = alerts?.filter((alert) => alert.state === 'firing' && !alert.silenced_by).length;
  useEffect(() => void recount(), [firing]);
  const given = { params, silences: silences.data ?? [], run };
  return html`<section class="alerts-view">
    ${asks && html`<${TokenForm} right="write" onDone=${() => setAsks(false)} />`}
    <${Result} result=${result} />
    <${Problem} error=${error ?? listed.error ?? silences.error} what="The alerts are not up to date" />
    ${!alerts && !error && html`<${Loading} what="alerts" />`}
    ${alerts && !name && html`<${All} alerts=${alerts} rules=${rules} ...${given} />`}
    ${alerts && rules && name && html`<${One} key=${name + params.getAll('label')} name=${name} found=${named(alerts, name, params.getAll('label'))} rule=${rules.find((rule) => rule.type === 'alerting' && rule.name === name)} ...${given} />`}
  </section>`;
}

// The dashboard. This file is the frame: navigation, connection, keys.

import { html, render, useEffect, useMemo, useRef, useState } from './lib/html.js';
import { useStreamState } from './lib/live.js';
import { useClock, usePolled } from './lib/polled.js';
import { go, link, useRoute } from './lib/route.js';
import { nextTheme, theme } from './lib/theme.js';
import { age, isUtc, setUtc, zoneName } from './lib/time.js';
import { Application } from './views/application.js';
import { Instance } from './views/instance.js';
import { Overview } from './views/overview.js';
import { Plugins } from './views/plugins.js';
import { System } from './views/system.js';
import { State, loggedIn } from './parts/common.js';
import { Later } from './parts/later.js';

const SHELL_MS = 10_000;

const KEYS = [
  ['/', 'search instances'],
  ['i', 'instances'],
  ['a', 'application'],
  ['e', 'explore'],
  ['l', 'alerts'],
  ['p', 'plugins'],
  ['s', 'system'],
  ['t', 'light, dark, or as the system prefers'],
  ['u', 'times in UTC or local'],
  ['?', 'these keys'],
  ['← →', 'on a chart: move the crosshair'],
  ['+ −', 'on a chart: zoom in, zoom out'],
];

const VIEWS = [
  ['Instances', []],
  ['Application', ['application']],
  ['Explore', ['explore']],
  ['Alerts', ['alerts']],
  ['Plugins', ['plugins']],
  ['System', ['system']],
];

const loadAlerts = () => import('./views/alerts.js');
const loadCompare = () => import('./views/compare.js');
const loadExplore = () => import('./views/explore.js');

/** Whether the user logged in; the cookie itself is not for scripts. */
const hasSession = 'session' in document.getElementById('app').dataset;

/** Returns the view that a route names, and the entry of the navigation that it belongs to. `recount`: counts what fires again. */
function view({ parts, params }, intervals, recount) {
  switch (parts[0]) {
    case undefined:
      return ['Instances', html`<${Overview} params=${params} intervals=${intervals} />`];
    case 'instance':
      return ['Instances', html`<${Instance} key=${parts[1]} id=${parts[1]} params=${params} intervals=${intervals} />`];
    case 'compare':
      return ['Instances', html`<${Later} load=${loadCompare} name="Compare" params=${params} />`];
    case 'application':
      return ['Application', html`<${Application} params=${params} />`];
    case 'explore':
      return ['Explore', html`<${Later} load=${loadExplore} name="Explore" params=${params} />`];
    case 'alerts':
      return ['Alerts', html`<${Later} load=${loadAlerts} name="Alerts" alert=${parts[1]} params=${params} recount=${recount} />`];
    case 'plugins':
      return ['Plugins', html`<${Plugins} key=${parts[1]} name=${parts[1]} />`];
    case 'system':
      return ['System', html`<${System} />`];
    default:
      return ['', html`<p>There is no such view. <a href="#/">Instances</a></p>`];
  }
}

/** Says that what is on the screen is old, so that nobody overlooks it. */
function Connection({ health }) {
  const stream = useStreamState();
  useClock(1000);
  const isLost = stream.is === 'lost' || health.error?.status === 0;
  const isOut = stream.error?.status === 401 || health.error?.status === 401;
  useEffect(() => document.body.classList.toggle('is-lost', isLost), [isLost]);
  if (isOut) return html`<p class="banner" role="alert">You are logged out. <a href="/" onClick=${loggedIn}>Log in</a></p>`;
  if (!isLost) return null;
  const since = stream.is === 'lost' ? stream.since : health.at ?? stream.since;
  const isRefused = stream.error?.status > 0 && health.error?.status !== 0;
  // The words that are read out do not change each second.
  return html`<p class="banner"><span role="alert">${isRefused ? `No live values: ${stream.error.message}.` : 'No connection to the host: everything below is old.'}</span> For ${age(Date.now() - since)}. Trying again …</p>`;
}

function Keys({ dialog }) {
  return html`<dialog ref=${dialog} aria-label="Keys"><form method="dialog">
    <h2>Keys</h2>
    <dl class="pairs">${KEYS.map(([key, what]) => html`<div><dt><kbd>${key}</kbd></dt><dd>${what}</dd></div>`)}</dl>
    <button>Close</button>
  </form></dialog>`;
}

function App() {
  const route = useRoute();
  const health = usePolled('/health', SHELL_MS);
  const plugins = usePolled('/v1/plugins', SHELL_MS);
  const firing = usePolled('/v1/alerts?state=firing', SHELL_MS);
  const [, draw] = useState(0);
  const again = () => draw((number) => number + 1);
  const dialog = useRef();
  const known = JSON.stringify((plugins.data ?? []).map((one) => [one.name, one.interval_seconds]));
  const intervals = useMemo(() => Object.fromEntries(JSON.parse(known)), [known]);
  const bad = (plugins.data ?? []).filter((one) => ['failed', 'quarantined', 'backoff'].includes(one.state)).length;
  const fires = (firing.data ?? []).filter((one) => !one.silenced_by).length;
  const [current, content] = view(route, intervals, firing.again);
  const switchZone = () => {
    setUtc(!isUtc());
    again();
  };
  const switchTheme = () => {
    nextTheme();
    again();
  };

  useEffect(() => {
    const onKey = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.('input:not([type=checkbox]), select, textarea')) {
        if (event.key === 'Escape') event.target.blur();
        return;
      }
      const does = {
        '/': () => {
          if (!document.getElementById('search')) go(link([]));
          // The list is drawn first.
          requestAnimationFrame(() => requestAnimationFrame(() => document.getElementById('search')?.focus()));
        },
        i: () => go(link([])),
        a: () => go(link(['application'])),
        e: () => go(link(['explore'])),
        l: () => go(link(['alerts'])),
        p: () => go(link(['plugins'])),
        s: () => go(link(['system'])),
        t: switchTheme,
        u: switchZone,
        '?': () => dialog.current.showModal(),
      }[event.key];
      if (!does || document.querySelector('dialog[open]')) return;
      event.preventDefault();
      does();
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, []);

  // A new view begins at its top, and a screen reader at its heading.
  const main = useRef();
  useEffect(() => main.current.focus({ preventScroll: true }), [route.parts.join('/')]);

  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); main.current.focus(); }}>Skip to the content</a>
    <header>
      <a class="brand" href="#/">Dropsonde</a>
      <nav aria-label="Views">${VIEWS.map(([name, parts]) => html`<a href=${link(parts)} aria-current=${name === current ? 'page' : undefined}>
        ${name}${name === 'Plugins' && bad > 0 && html` <span class="count bad" title="plugins with trouble">${bad}</span>`}
        ${name === 'Alerts' && fires > 0 && html` <span class="count bad" title="alerts that fire and are not silenced">${fires}</span>`}
        ${name === 'System' && health.data && health.data.status !== 'healthy' && html` <${State} is=${health.data.status} />`}
      </a>`)}<a href="/docs">Handbook</a></nav>
      <div class="tools">
        <button onClick=${switchZone} title="Times in UTC or local">${isUtc() ? 'UTC' : 'local'}</button>
        <button onClick=${switchTheme} title="Light, dark, or as the system prefers">${theme()}</button>
        <button onClick=${() => dialog.current.showModal()} aria-label="Keys">?</button>
        ${hasSession && html`<form method="post" action="/logout"><button>Log out</button></form>`}
      </div>
    </header>
    <${Connection} health=${health} />
    <main id="main" tabindex="-1" ref=${main} data-zone=${zoneName()}>${content}</main>
    <${Keys} dialog=${dialog} />`;
}

document.getElementById('plain').remove();
render(html`<${App} />`, document.getElementById('app'));

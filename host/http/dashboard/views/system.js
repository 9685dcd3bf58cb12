// The host itself: its health, what it uses, and what waits for a restart.

import { html } from '../lib/html.js';
import { hostNow } from '../lib/api.js';
import { useClock, usePolled } from '../lib/polled.js';
import { count, duration, size, title } from '../lib/units.js';
import { timeText } from '../lib/time.js';
import { Heading, Loading, Meter, Problem, State } from '../parts/common.js';

const POLL_MS = 3000;

const isBytes = (pool) => pool.endsWith('_bytes');
const amount = (pool, value) => (isBytes(pool) ? size(value) : count(value));

export function System() {
  const health = usePolled('/health', POLL_MS);
  const { data: host, error } = usePolled('/v1/host', POLL_MS);
  useClock(1000);
  return html`<section class="system-view">
    <div class="bar"><${Heading} title="System" />${health.data && html`<${State} is=${health.data.status} />`}<a href="/v1/host" target="_blank" rel="noopener">JSON</a></div>
    <${Problem} error=${health.error ?? error} what="What is shown is not up to date" />
    ${health.data?.reasons && html`<ul class="problem">${health.data.reasons.map((reason) => html`<li>${reason}</li>`)}</ul>`}
    ${host?.restart.length > 0 && html`<p class="problem">The configuration file has changed, and these take effect with a restart: ${host.restart.map((key, nth) => html`${nth > 0 && ', '}<code>${key}</code>`)}</p>`}
    ${!host && !error && html`<${Loading} what="the host" />`}
    ${host && html`<div class="columns">
      <section><h2>Host</h2><dl class="pairs">
        <div><dt>version</dt><dd>${host.version}</dd></div>
        <div><dt>running for</dt><dd>${duration(Math.max(0, (hostNow() - Date.parse(host.started_at)) / 1000))}, since ${timeText(Date.parse(host.started_at))}</dd></div>
        <div><dt>memory</dt><dd>${host.memory_bytes === undefined ? 'unknown' : size(host.memory_bytes)}</dd></div>
        <div><dt>instances</dt><dd>${count(host.instances)}</dd></div>
        <div><dt>streams</dt><dd>${count(host.streams)}</dd></div>
        <div><dt>connections</dt><dd>${count(host.connections)}</dd></div>
        <div><dt>samples lost</dt><dd>${count(host.samples_dropped)}</dd></div>
      </dl></section>
      <section><h2>History on disk</h2>${host.history.error && html`<p class="problem"><b>It cannot be written:</b> ${host.history.error}</p>`}${host.history.on
        ? html`<${Meter} name="Disk" used=${host.history.bytes} most=${host.history.most_bytes} text=${`${size(host.history.bytes)} of ${size(host.history.most_bytes)}`} />
          <dl class="pairs"><div><dt>rows not yet written</dt><dd>${count(host.history.unwritten_rows)}</dd></div></dl>`
        : html`<p class="quiet">Off: history is in memory alone.</p>`}</section>
      <section><h2>Shared pools</h2>
        ${host.pools.map((pool) => html`<${Meter} name=${title(pool.pool)} used=${pool.used} most=${pool.most} text=${`${amount(pool.pool, pool.used)} of ${amount(pool.pool, pool.most)}${pool.refused ? `, ${count(pool.refused)} refused` : ''}`} />`)}
        <p><a href="/docs/fair-shares">What happens when a pool is full</a></p>
      </section>
      ${host.remotes.length > 0 && html`<section><h2>Samples go to</h2>
        ${host.remotes.map((remote) => html`<h3>${remote.name}</h3>${remote.error && html`<p class="problem"><b>It takes nothing:</b> ${remote.error}</p>`}<dl class="pairs">
          <div><dt>behind by</dt><dd>${duration(remote.lag_seconds)}, ${size(remote.lag_bytes)}</dd></div>
          <div><dt>samples taken</dt><dd>${count(remote.samples)}</dd></div>
          ${Object.entries(remote.samples_dropped).map(([reason, lost]) => html`<div><dt>refused (${reason})</dt><dd>${count(lost)}</dd></div>`)}
        </dl>`)}
        <p><a href="/docs/remote-write">What is sent, and when</a></p>
      </section>`}
    </div>`}
  </section>`;
}

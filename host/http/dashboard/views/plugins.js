// Plugins: how they do, what they use, what they may do, and what they lack.

import { html, useRef, useState } from '../lib/html.js';
import { hasToken, hostNow, path } from '../lib/api.js';
import { useClock, usePolled } from '../lib/polled.js';
import { count, duration, size, title } from '../lib/units.js';
import { age, timeText } from '../lib/time.js';
import { link } from '../lib/route.js';
import { Result, TokenForm, useChange } from '../parts/change.js';
import { Heading, Loading, Meter, Paste, Problem, State } from '../parts/common.js';

const POLL_MS = 3000;

/** The names that plugins can have. */
const NAME = /^[A-Za-z0-9_-]{1,64}$/;

const ago = (text) => `${age(hostNow() - Date.parse(text))} ago`;
const ahead = (text) => {
  const ms = Date.parse(text) - hostNow();
  return ms > 0 ? `in ${age(ms)}` : 'now';
};

function Upload({ run, names }) {
  const [isOver, setOver] = useState(false);
  const input = useRef();
  const send = async (file) => {
    const name = file.name.replace(/\.wasm$/, '');
    if (!NAME.test(name)) return run(`The file ${file.name}`, 'PUT', path('v1', 'plugins', name));
    return run(`${names.includes(name) ? 'The new version of' : 'The upload of'} ${name}`, 'PUT', path('v1', 'plugins', name), file, 'application/wasm');
  };
  const onDrop = (event) => {
    event.preventDefault();
    setOver(false);
    const [file] = event.dataTransfer.files;
    if (file) send(file);
  };
  return html`<div class="drop ${isOver ? 'over' : ''}" onDragOver=${(event) => { event.preventDefault(); setOver(true); }} onDragLeave=${() => setOver(false)} onDrop=${onDrop}>
    <p>Drop a <code>NAME.wasm</code> here, or <label class="button">choose a file<input ref=${input} type="file" accept=".wasm,application/wasm" onChange=${(event) => { const [file] = event.currentTarget.files; event.currentTarget.value = ''; if (file) send(file); }} /></label>. It gets what the configuration grants to this name, and nothing else.</p>
  </div>`;
}

function Backtrace({ of, what }) {
  if (!of) return null;
  return html`<div class="failure">
    <p><b>${what}</b> ${timeText(Date.parse(of.at))} (${ago(of.at)})${of.over === true ? ', resolved since' : ''}</p>
    <pre tabindex="0">${of.reason}${of.said?.length ? `\n\nIt said:\n${of.said.join('\n')}` : ''}${of.backtrace?.length ? `\n\nBacktrace, innermost first:\n${of.backtrace.map((name, nth) => `${String(nth).padStart(3)}: ${name}`).join('\n')}` : ''}</pre>
  </div>`;
}

/** The lines of the configuration that grant what a plugin lacks. A need is written as `kind: value`. */
function lines(plugin) {
  const kinds = { read: [], http: [], env: [], dirs: [] };
  for (const need of plugin.missing) {
    const [, kind, value] = need.match(/^(read|http|env|dir)\s+(.*)$/) ?? [];
    if (kind) kinds[kind === 'dir' ? 'dirs' : kind].push(value);
  }
  const grants = Object.entries(kinds)
    .map(([kind, missing]) => [kind, missing, [...(plugin.grants[kind] ?? []), ...missing]])
    .filter(([, missing]) => missing.length)
    .map(([kind, , all]) => `${kind} = [${all.map((value) => (value.startsWith('{') ? value : JSON.stringify(value))).join(', ')}]`);
  return grants.length ? `[plugins.${plugin.name}.grants]\n${grants.join('\n')}` : '';
}

function Grants({ plugin }) {
  const given = Object.entries(plugin.grants).filter(([, values]) => values.length);
  const paste = lines(plugin);
  return html`<section><h3>Grants</h3>
    ${given.length ? html`<dl class="pairs">${given.map(([kind, values]) => html`<div><dt>${kind}</dt><dd>${values.map((value) => html`<code>${value}</code> `)}</dd></div>`)}</dl>` : html`<p class="quiet">None: it reaches nothing outside its sandbox.</p>`}
    ${plugin.missing.length > 0 && html`<p class="problem"><b>Missing:</b> ${plugin.missing.join('; ')}</p>
      ${paste && html`<p>To grant it, the configuration needs:</p><${Paste} text=${paste} />`}`}
  </section>`;
}

function Detail({ name, run, result }) {
  const { data: plugin, error } = usePolled(path('v1', 'plugins', name), POLL_MS);
  useClock(1000);
  const dialog = useRef();
  if (error && (!plugin || error.status === 404)) return html`<${Heading} title=${name} /><${Result} result=${result} /><${Problem} error=${error} what=${`The plugin ${name} cannot be shown`} />`;
  if (!plugin) return html`<${Loading} what=${name} />`;
  const act = (what, verb, method = 'POST') => () => run(what, method, path('v1', 'plugins', name, ...verb));
  const { limits } = plugin;
  return html`<article class="plugin">
    <div class="bar">
      <${Heading} title=${name} />
      <${State} is=${plugin.state} />
      ${plugin.waiting_for && html`<span class="quiet">waits for ${plugin.waiting_for}</span>`}
      <button onClick=${act(`Reloading ${name}`, ['reload'])}>Reload</button>
      ${['quarantined', 'backoff'].includes(plugin.state) && html`<button onClick=${act(`Releasing ${name}`, ['release'])}>Release</button>`}
      ${plugin.state !== 'quarantined' && html`<button onClick=${act(`The quarantine of ${name}`, ['quarantine'])}>Quarantine</button>`}
      ${!plugin.bundled && !plugin.native && html`<button onClick=${() => dialog.current.showModal()}>Remove …</button>`}
      <a href=${path('v1', 'plugins', name)} target="_blank" rel="noopener">JSON</a>
    </div>
    <dialog ref=${dialog} aria-label="Remove ${name}"><form method="dialog"><p>Remove the plugin <b>${name}</b>? Its file is deleted; its history stays until it is too old.</p>
      <button>Keep</button> <button class="danger" onClick=${act(`Removing ${name}`, [], 'DELETE')}>Remove</button></form></dialog>
    <${Result} result=${result} />
    <${Problem} error=${error} what="What is shown of the plugin is not up to date" />
    <p>${plugin.about}</p>
    ${plugin.quarantined && html`<p class="problem"><b>In quarantine:</b> ${plugin.quarantined}${plugin.retry_at ? `; the host tries it again ${ahead(plugin.retry_at)}` : ''}</p>`}
    ${plugin.state === 'backoff' && plugin.retry_at && html`<p class="problem">It waits after a failure; the host tries it again ${ahead(plugin.retry_at)}.</p>`}
    ${plugin.restored && html`<p class="problem">An earlier version runs, because the newest does not work.</p>`}
    ${plugin.preparing && html`<p role="status">A newer version is being compiled and tried.</p>`}
    <${Backtrace} of=${plugin.refused} what="The newest version was refused" />
    ${plugin.refused_section && html`<${Backtrace} of=${plugin.refused_section} what="The newest configuration was refused" />`}
    <${Backtrace} of=${plugin.last_failure} what="Last failure" />
    <div class="columns">
      <section><h3>Use</h3>
        <${Meter} name="CPU of the last call" used=${plugin.budget_used} most=${1} text=${`${Math.round(plugin.budget_used * 100)} % of ${duration(limits.cpu_seconds)}`} />
        <${Meter} name="Memory" used=${plugin.memory_bytes} most=${limits.memory_bytes} text=${`${size(plugin.memory_bytes)} of ${size(limits.memory_bytes)}`} />
        <${Meter} name="Instances" used=${plugin.instances} most=${limits.instances} text=${`${count(plugin.instances)} of ${count(limits.instances)}`} />
        ${plugin.shares.map((share) => html`<${Meter} name=${title(share.pool)} used=${share.used} most=${share.most} text=${`${/_bytes$/.test(share.pool) ? size(share.used) : count(share.used)} of ${/_bytes$/.test(share.pool) ? size(share.most) : count(share.most)}${share.refused ? `, ${count(share.refused)} refused` : ''}`} />`)}
      </section>
      <section><h3>Calls</h3>
        <dl class="pairs">
          <div><dt>interval</dt><dd>${duration(plugin.interval_seconds)}</dd></div>
          ${plugin.next_poll && html`<div><dt>next poll</dt><dd>${ahead(plugin.next_poll)}</dd></div>`}
          ${plugin.call_seconds && html`<div><dt>time of a call</dt><dd>${duration(plugin.call_seconds.p50)} half of them, ${duration(plugin.call_seconds.p99)} 99 of 100</dd></div>`}
          <div><dt>calls</dt><dd>${count(plugin.calls)}, ${count(plugin.failures)} failed, ${count(plugin.polls_missed)} polls missed</dd></div>
          <div><dt>CPU since the start</dt><dd>${duration(plugin.cpu_seconds)}</dd></div>
          <div><dt>roles</dt><dd>${plugin.roles.join(', ')}</dd></div>
          ${plugin.version && html`<div><dt>version</dt><dd>${plugin.version}${plugin.bundled ? ', comes with the host' : ''}</dd></div>`}
          ${plugin.file && html`<div><dt>file</dt><dd><code>${plugin.file}</code></dd></div>`}
          ${plugin.digest && html`<div><dt>SHA-256</dt><dd><code>${plugin.digest}</code></dd></div>`}
        </dl>
      </section>
      <${Grants} plugin=${plugin} />
      ${plugin.conflicts.length > 0 && html`<section><h3>Conflicts</h3><ul>${plugin.conflicts.map((one) => html`<li><code>${one.instance}</code>${one.field && html`, field <code>${one.field}</code>`}, with ${one.with}: ${one.what}</li>`)}</ul></section>`}
      ${plugin.set_aside.length > 0 && html`<section><h3>Not polled for now</h3><ul>${plugin.set_aside.map((one) => html`<li><code>${one.instance}</code>: ${one.reason}; tried again ${ahead(one.retry_at)}</li>`)}</ul></section>`}
      <section><h3>Log</h3>${plugin.log.length ? html`<pre class="log" tabindex="0">${plugin.log.map((one) => `${timeText(Date.parse(one.at))} ${one.level.padEnd(5)} ${one.line}`).join('\n')}</pre>` : html`<p class="quiet">It has written nothing.</p>`}</section>
    </div>
  </article>`;
}

function List({ plugins }) {
  return html`<div class="scroll"><table class="plugins">
    <thead><tr><th scope="col">Plugin</th><th scope="col">State</th><th scope="col" class="number">Instances</th><th scope="col">CPU of the last call</th><th scope="col">Memory</th><th scope="col" class="number">Call</th><th scope="col" class="number">Next poll</th><th scope="col">Needs attention</th></tr></thead>
    <tbody>${plugins.map((plugin) => html`<tr key=${plugin.name}>
      <th scope="row"><a href=${link(['plugins', plugin.name])}>${plugin.name}</a></th>
      <td><${State} is=${plugin.state} /></td>
      <td class="number">${count(plugin.instances)}</td>
      <td><progress aria-label="CPU of the last call: ${Math.round(plugin.budget_used * 100)} % of its limit" max="1" value=${Math.min(1, plugin.budget_used)}></progress> ${Math.round(plugin.budget_used * 100)} %</td>
      <td><progress aria-label="Memory: ${size(plugin.memory_bytes)} of ${size(plugin.limits.memory_bytes)}" max=${plugin.limits.memory_bytes || 1} value=${plugin.memory_bytes}></progress> ${size(plugin.memory_bytes)}</td>
      <td class="number">${plugin.call_seconds ? duration(plugin.call_seconds.p50) : '–'}</td>
      <td class="number">${plugin.next_poll ? ahead(plugin.next_poll) : '–'}</td>
      <td>${[plugin.quarantined, plugin.refused && 'its newest version was refused', plugin.missing.length > 0 && `${plugin.missing.length} grants missing`, plugin.last_failure && !plugin.last_failure.over && plugin.last_failure.reason.split('\n')[0]].filter(Boolean).join('; ')}</td>
    </tr>`)}</tbody>
  </table></div>`;
}

export function Plugins({ name }) {
  const { data: plugins, error, again } = usePolled('/v1/plugins', POLL_MS);
  useClock(1000);
  const { result, run, asks, setAsks } = useChange(again);
  return html`<section class="plugins-view">
    ${!name && html`<div class="bar"><${Heading} title="Plugins" />
      <button aria-expanded=${asks} onClick=${() => setAsks(!asks)}>${hasToken() ? 'Other admin token' : 'Admin token'}</button></div>`}
    ${asks && html`<${TokenForm} right="admin" onDone=${() => setAsks(false)} />`}
    <${Problem} error=${error} what="The plugins are not up to date" />
    ${name
      ? html`<${Detail} key=${name} name=${name} run=${run} result=${result} />`
      : html`<${Result} result=${result} />
        ${!plugins && !error && html`<${Loading} what="plugins" />`}
        ${plugins && html`<${List} plugins=${plugins} /><${Upload} run=${run} names=${plugins.map((one) => one.name)} />`}`}
  </section>`;
}

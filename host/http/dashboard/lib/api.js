// Requests to the host.

/** An answer that is no success. `status` is 0 if the host did not answer. */
export class RequestError extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/** The token for changes that the user entered. It is kept in memory alone, and is gone when the page is. */
let ownToken = '';

export const setToken = (token) => (ownToken = token.trim());
export const hasToken = () => ownToken !== '';

/** How far the host's clock is ahead of this machine's, in milliseconds. */
let clockAhead = 0;

/** The time by the host's clock, which all its samples carry. */
export const hostNow = () => Date.now() + clockAhead;

/** Makes a path from its parts: `path('v1', 'instances', id)`. */
export const path = (...parts) => '/' + parts.map(encodeURIComponent).join('/');

/** Makes a query from pairs; a list gives its name several times. Without a value, a name is left out. */
export function query(of) {
  const pairs = new URLSearchParams();
  for (const [name, value] of Object.entries(of)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null && one !== '') pairs.append(name, one);
    }
  }
  const text = pairs.toString();
  return text && '?' + text;
}

/** Bytes of an address that names instances. A host may take heads of requests of 8 KiB and no more. */
const LONGEST_ADDRESS = 5000;

/** Splits ids into lists that each fit into an address, with at most so many ids. */
export function batches(ids, most) {
  const lists = [];
  let bytes = Infinity;
  for (const id of ids) {
    const own = new URLSearchParams({ instance: id }).toString().length + 1;
    if (bytes + own > LONGEST_ADDRESS || lists.at(-1).length >= most) {
      lists.push([]);
      bytes = 0;
    }
    lists.at(-1).push(id);
    bytes += own;
  }
  return lists;
}

async function refused(answer) {
  const text = await answer.text().catch(() => '');
  let why = text;
  try {
    why = JSON.parse(text).error ?? text;
  } catch {
    // Not an answer of the host's API: its text is shown as it is.
  }
  return new RequestError(answer.status, why || answer.statusText);
}

async function request(url, options) {
  let answer;
  try {
    answer = await fetch(url, { credentials: 'same-origin', ...options });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new RequestError(0, 'the host does not answer');
  }
  // An answer out of the browser's cache has the time at which it was made.
  if (answer.headers.get('cache-control')?.includes('no-store')) {
    const date = Date.parse(answer.headers.get('date') ?? '');
    // The header has whole seconds: a smaller difference says nothing.
    if (Math.abs(date - Date.now()) > 2000) clockAhead = date - Date.now();
    else if (date) clockAhead = 0;
  }
  // `/health` answers with its reasons, whatever the status.
  if (!answer.ok && !(url === '/health' && answer.status === 503)) throw await refused(answer);
  return answer;
}

/** How long an answer may take. A host that is gone without a word would be waited for much longer. */
const PATIENCE_MS = 15_000;

/** The same for a query, whose time the host limits. */
const QUERY_PATIENCE_MS = 150_000;

async function json(url, signal, patienceMs, options) {
  const patience = AbortSignal.timeout(patienceMs);
  try {
    const answer = await request(url, { ...options, signal: signal ? AbortSignal.any([signal, patience]) : patience, headers: { accept: 'application/json' } });
    return await answer.json();
  } catch (error) {
    if (signal?.aborted || error instanceof RequestError) throw error;
    throw new RequestError(0, 'the host does not answer');
  }
}

/** Gets JSON. */
export const get = (url, signal) => json(url, signal, PATIENCE_MS);

/** Asks the query API of Prometheus with a form, in which an expression may be long. Returns `{data, warnings, infos}`. */
export const ask = (url, form, signal) => json(url, signal, QUERY_PATIENCE_MS, { method: 'POST', body: new URLSearchParams(form) });

/** Sends a change, with the user's token. Returns the JSON of the answer, if it has any. */
export async function change(method, url, body, type) {
  const headers = { accept: 'application/json' };
  if (ownToken) headers.authorization = `Bearer ${ownToken}`;
  if (type) headers['content-type'] = type;
  const answer = await request(url, { method, headers, body });
  const text = await answer.text();
  return text ? JSON.parse(text) : undefined;
}

/** Opens a stream of events. The answer's body is read by `stream.js`. */
export const openEvents = (url, lastId, signal) =>
  request(url, { signal, cache: 'no-store', headers: { accept: 'text/event-stream', ...(lastId && { 'last-event-id': lastId }) } });

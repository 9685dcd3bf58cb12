// Changes of the host: each needs a token that allows it.

import { html, useEffect, useState } from '../lib/html.js';
import { change, hasToken, setToken } from '../lib/api.js';
import { title } from '../lib/units.js';

const focused = (input) => input?.focus();

/** Asks for a token, once for this page. `right`: what it must allow, `write` or `admin`. */
export function TokenForm({ right, onDone }) {
  const onSubmit = (event) => {
    event.preventDefault();
    setToken(new FormData(event.currentTarget).get('token'));
    onDone();
  };
  return html`<form class="token" onSubmit=${onSubmit}>
    <label>${title(`${right}_token`)} <input ref=${focused} type="password" name="token" autocomplete="off" required /></label> <button>Use</button>
    <small>It is in <code>${right}.token</code> in the host's data directory. This page forgets it when it is closed.</small>
  </form>`;
}

/**
 * Runs changes one at a time, and keeps what came of the last one.
 *
 * Returns `{result, run, asks, setAsks}`. `run(what, method, url, body, type)` returns whether it is done. While `asks` is
 * set, the user is to give a token.
 */
export function useChange(again) {
  const [result, setResult] = useState({});
  const [asks, setAsks] = useState(false);
  useEffect(() => {
    if (result.error?.status === 401 || result.error?.status === 403) setAsks(true);
  }, [result]);
  const run = async (what, method, url, body, type) => {
    if (!hasToken()) {
      setAsks(true);
      return false;
    }
    setResult({ what, isUnderWay: true });
    try {
      const answer = await change(method, url, body, type);
      setResult({ what, answer });
      return true;
    } catch (error) {
      // A token that was refused is not used again.
      if (error.status === 401) setToken('');
      setResult({ what, error });
      return false;
    } finally {
      again();
    }
  };
  return { result, run, asks, setAsks };
}

export function Result({ result }) {
  if (!result.what) return null;
  if (result.error) return html`<div class="problem" role="alert"><b>${result.what} was refused.</b> <pre>${result.error.message}</pre></div>`;
  return html`<p role="status">${result.what}: ${result.isUnderWay ? 'under way …' : result.answer?.state ? `the plugin is ${result.answer.state}` : 'done'}</p>`;
}

// A view that the browser loads when it is first opened.

import { html, useEffect, useState } from '../lib/html.js';
import { Loading, Problem } from './common.js';

/** `load()` imports the module that has the view `name`; all else is given to the view. */
export function Later({ load, name, ...given }) {
  const [{ view, error }, setLoaded] = useState({});
  useEffect(() => {
    load().then(
      (module) => setLoaded({ view: module[name] }),
      () => setLoaded({ error: { message: 'the host does not answer, or has another version. Load the page again' } }),
    );
  }, [load, name]);
  if (error) return html`<${Problem} error=${error} what=${`${name} cannot be shown`} />`;
  return view ? html`<${view} ...${given} />` : html`<${Loading} what=${name} />`;
}

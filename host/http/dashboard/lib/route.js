// Each view is its URL: `#/instance/web-1?range=6h`. It stands behind `#`, so that the host need not know the views.

import { useEffect, useState } from './html.js';

function read() {
  const [path, text = ''] = location.hash.replace(/^#/, '').split('?');
  const parts = path.split('/').filter(Boolean).map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  return { parts, params: new URLSearchParams(text) };
}

/** Makes the link of a view: `link(['instance', id], {range: '6h'})`. A list gives its name several times. */
export function link(parts, params = {}) {
  const pairs = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    for (const one of Array.isArray(value) ? value : [value]) if (one || one === 0) pairs.append(name, one);
  }
  const text = pairs.toString();
  return '#/' + parts.map(encodeURIComponent).join('/') + (text && '?' + text);
}

/** Goes to a view. `replace`: the browser's back button passes over the present one. */
export function go(to, replace = false) {
  if (to === location.hash) return;
  if (replace) {
    history.replaceState(null, '', to);
    dispatchEvent(new HashChangeEvent('hashchange'));
  } else {
    location.hash = to;
  }
}

/** Changes parameters of the present view; without a value, they are left out. */
export function setParams(changes, replace = true) {
  const { parts, params } = read();
  const now = {};
  for (const name of new Set(params.keys())) now[name] = params.getAll(name);
  go(link(parts, { ...now, ...changes }), replace);
}

/** Returns the parts and the parameters of the present view. */
export function useRoute() {
  const [route, setRoute] = useState(read);
  useEffect(() => {
    const onChange = () => setRoute(read());
    addEventListener('hashchange', onChange);
    return () => removeEventListener('hashchange', onChange);
  }, []);
  return route;
}

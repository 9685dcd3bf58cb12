// The database that has longer history than the host itself.

import { useEffect, useState } from './html.js';
import { get } from './api.js';

/** One answer does for all views: the page is loaded again when the host starts again. */
let asked;

/** Returns the name of that database once it is known; nothing where there is none. */
export function useLongerHistory() {
  const [name, setName] = useState();
  useEffect(() => {
    asked ??= get('/v1/host').then((host) => host.longer_history);
    asked.then(setName, () => (asked = undefined));
  }, []);
  return name;
}

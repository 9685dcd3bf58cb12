// Zooming: a window in the URL, so that the browser's back button goes back, too.

import { setParams } from './route.js';

/** The shortest window, in seconds. */
const LEAST = 2;

let zooms = 0;

/** Shows a part of the window. */
export function zoomTo(from, to) {
  const middle = (from + to) / 2;
  const half = Math.max(LEAST, to - from) / 2;
  zooms += 1;
  setParams({ since: Math.floor(middle - half), until: Math.ceil(middle + half) }, false);
}

/** Shows the window of before, or the range if the page was opened zoomed. */
export function zoomBack() {
  if (zooms > 0) {
    zooms -= 1;
    history.back();
  } else {
    setParams({ since: undefined, until: undefined });
  }
}

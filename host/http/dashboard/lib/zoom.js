// Zooming: a window in the URL, so that the browser's back button goes back, too.

import { setParams } from './route.js';

/** The shortest window, in seconds. */
const LEAST = 2;

/** All charts of a view have the same selection, and each of them tells of it. */
let isZooming = false;

/** Shows a part of the window. */
export function zoomTo(from, to) {
  if (isZooming) return;
  isZooming = true;
  queueMicrotask(() => (isZooming = false));
  const middle = (from + to) / 2;
  const half = Math.max(LEAST, to - from) / 2;
  const before = location.hash;
  setParams({ since: Math.floor(middle - half), until: Math.ceil(middle + half) }, false);
  if (location.hash !== before) history.replaceState({ isZoom: true }, '');
}

/** Shows the window of before, or the range if the page was opened zoomed. */
export function zoomBack() {
  if (history.state?.isZoom) history.back();
  else setParams({ since: undefined, until: undefined });
}

// What every view needs to draw itself.

import { h, render } from '../vendor/preact.mjs';
import htm from '../vendor/htm.mjs';

export { render };
export { useEffect, useLayoutEffect, useMemo, useRef, useState, useCallback } from '../vendor/preact-hooks.mjs';
export const html = htm.bind(h);

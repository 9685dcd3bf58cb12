// Light, dark, or as the system prefers.

const KEY = 'dropsonde.theme';
const THEMES = ['auto', 'light', 'dark'];

const watchers = new Set();
const tellAll = () => watchers.forEach((watcher) => watcher());

export const theme = () => (THEMES.includes(localStorage.getItem(KEY)) ? localStorage.getItem(KEY) : 'auto');

function apply() {
  const chosen = theme();
  if (chosen === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  tellAll();
}

/** Takes the next theme. */
export function nextTheme() {
  localStorage.setItem(KEY, THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length]);
  apply();
}

/** Calls `watcher` when colours change. */
export function watchTheme(watcher) {
  watchers.add(watcher);
  return () => watchers.delete(watcher);
}

/** Returns a colour of the style sheet, as it is in the theme that is shown, for a canvas. */
export function colour(name, share = 1) {
  const probe = document.createElement('i');
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const [red, green, blue] = getComputedStyle(probe).color.match(/[\d.]+/g);
  probe.remove();
  return `rgb(${red} ${green} ${blue} / ${share})`;
}

/** Colours of lines, told apart also by people who see few colours; each has its own dashes, too. */
const LINES = ['line-1', 'line-2', 'line-3', 'line-4', 'line-5', 'line-6'];
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3], [5, 2], [1, 4]];

/** Returns the colour and the dashes of a line; no two of the first 36 have the same. */
export const lineLook = (nth) => [LINES[nth % LINES.length], DASHES[(nth + Math.floor(nth / LINES.length)) % DASHES.length]];

/** The look of a limit that another line has. */
export const LIMIT_LOOK = ['line-limit', [6, 6]];

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', tellAll);
apply();

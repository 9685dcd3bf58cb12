// The expressions that the user ran in this browser, the latest first.

const KEY = 'dropsonde.queries';

/** Expressions that are kept. */
const MOST = 50;

export function earlierQueries() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? '[]');
    return Array.isArray(kept) ? kept.filter((one) => typeof one === 'string') : [];
  } catch {
    return [];
  }
}

export function keepQuery(expr) {
  const kept = [expr, ...earlierQueries().filter((one) => one !== expr)].slice(0, MOST);
  localStorage.setItem(KEY, JSON.stringify(kept));
}

export const forgetQueries = () => localStorage.removeItem(KEY);

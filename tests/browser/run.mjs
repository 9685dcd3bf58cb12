// Runs one scenario in Chromium: node run.mjs SCENARIO URL [ARGUMENT …]
//
// A scenario and the test that started it take turns: the scenario writes a line with what it has seen and waits for a
// line on standard input. BROWSER_MODULES names the folder that has node_modules; CHROMIUM the browser.

import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';
import * as scenarios from './scenarios.mjs';

const require = createRequire(`${resolve(process.env.BROWSER_MODULES)}/`);
const { chromium } = require('playwright-core');
const { AxeBuilder } = require('@axe-core/playwright');

const PATIENCE_MS = 60_000;

const [name, url, ...args] = process.argv.slice(2);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Tells the test what was seen, and waits until it says to go on. Returns what it says. */
async function turn(seen) {
  console.log(seen);
  return (await lines.next()).value;
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--font-render-hinting=none'],
});

const troubles = [];
/** While the host is away, failed requests are no trouble. */
let isAway = false;

async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ignoreHTTPSErrors: true, timezoneId: 'Europe/Zurich', locale: 'en-GB', ...options });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  page.on('pageerror', (error) => troubles.push(`the page failed: ${error.stack}`));
  page.on('console', (message) => {
    const isExpected = isAway && /Failed to load resource|ERR_/.test(message.text());
    const isRefusal = /status of (400|401|422|409)/.test(message.text());
    if (message.type() === 'error' && !isExpected && !isRefusal) troubles.push(`the console says: ${message.text()}`);
  });
  page.on('request', (request) => {
    if (new URL(request.url()).host !== new URL(url).host && !request.url().startsWith('data:')) troubles.push(`another server was asked: ${request.url()}`);
  });
  await page.addInitScript(() => {
    addEventListener('securitypolicyviolation', (event) => console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`));
  });
  return page;
}

/** Finds what people with disabilities would stumble over. */
async function isAccessible(page) {
  const { violations } = await new AxeBuilder({ page }).withTags(['wcag2a', 'wcag2aa', 'wcag21aa']).analyze();
  for (const { id, impact, help, nodes } of violations) {
    if (['serious', 'critical'].includes(impact)) troubles.push(`${impact}: ${id}: ${help}: ${nodes.slice(0, 3).map((node) => `${node.html} ${node.failureSummary ?? ''}`).join(' | ')}`);
  }
}

const away = (is) => (isAway = is);

try {
  const scenario = scenarios[name];
  if (!scenario) throw new Error(`there is no scenario ${name}`);
  await scenario({ open, url, args, turn, isAccessible, away });
} catch (error) {
  troubles.push(error.stack);
  if (process.env.BROWSER_FAILURES) {
    for (const page of browser.contexts().flatMap((context) => context.pages())) await page.screenshot({ path: `${process.env.BROWSER_FAILURES}/${name}.png` }).catch(() => {});
  }
}
await browser.close();
troubles.forEach((trouble) => console.error(trouble));
console.log(troubles.length ? 'failed' : 'passed');
process.exit(troubles.length ? 1 : 0);

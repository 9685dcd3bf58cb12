// What people do with the dashboard. Each scenario is run by a test of the same name in dashboard.rs.

import assert from 'node:assert/strict';

const rows = (page) => page.locator('tr.instance');
const row = (page, id) => page.locator('tr.instance', { has: page.getByRole('link', { name: id, exact: true }) });
const chart = (page, name) => page.locator('figure.chart', { has: page.getByRole('heading', { name, exact: true }) });

/** Waits until a condition of the page's own is true. */
const until = (page, condition, argument) => page.waitForFunction(condition, argument, { polling: 50 });

/** Returns the number of points of a chart, which its table says. */
async function points(page, name) {
  const figure = chart(page, name);
  if (!(await figure.locator('details').evaluate((details) => details.open))) await figure.getByText('Values', { exact: true }).click();
  await figure.locator('tbody tr').first().waitFor();
  return figure.locator('tbody tr').count();
}

/** Drags over a part of a chart, from one share of its width to another, until the page shows that part. */
async function drag(page, name, from, to) {
  const before = page.url();
  const figure = chart(page, name);
  await figure.scrollIntoViewIfNeeded();
  while (page.url() === before) {
    // The chart may be drawn anew meanwhile, with other data.
    const { x, y, width, height } = await figure.evaluate((place) => place.querySelector('.u-over').getBoundingClientRect().toJSON());
    const middle = y + height / 2;
    await page.mouse.move(x + width * from, middle);
    await page.mouse.down();
    await page.mouse.move(x + (width * (from + to)) / 2, middle);
    await page.mouse.move(x + width * to, middle);
    await page.mouse.up();
    await page.waitForURL((url) => url.href !== before, { timeout: 2000 }).catch(() => {});
  }
}

export async function overview({ open, url, isAccessible }) {
  const page = await open();
  await page.goto(url);
  await rows(page).first().waitFor();
  assert.match(await page.locator('h1').innerText(), /Instances\s+[5-9]\d/);
  // Lines of the last half hour, and values with units.
  await until(page, () => document.querySelectorAll('tr.instance .spark path').length >= 20);
  await until(page, () => /\d %/.test(document.querySelector('tr.instance .value')?.textContent));
  const value = rows(page).first().locator('.value').first();
  const before = await value.innerText();
  await until(page, ([was]) => document.querySelector('tr.instance .value').textContent !== was, [before]);
  await isAccessible(page);
}

export async function search({ open, url }) {
  const page = await open();
  await page.goto(url);
  await rows(page).first().waitFor();
  await page.keyboard.press('/');
  await until(page, () => document.activeElement?.id === 'search');
  await page.keyboard.type('workload=web');
  await until(page, () => /\d+ of \d+/.test(document.querySelector('h1').textContent));
  const found = await rows(page).count();
  assert.ok(found > 0 && found < 50, `${found}`);
  // The address has the search: a colleague sees the same.
  const other = await open();
  await other.goto(page.url());
  await rows(other).first().waitFor();
  assert.equal(await rows(other).count(), found);
  // Sorting by a field, from the largest down.
  await page.locator('thead').getByRole('button', { name: /CPU/ }).click();
  await page.locator('th[aria-sort=descending]').waitFor();
  await page.getByLabel('by workload').check();
  await page.locator('tr.group').first().waitFor();
  assert.match(page.url(), /q=workload%3Dweb.*sort=.*group=1/);
}

export async function zoom({ open, url, args: [id], isAccessible }) {
  const page = await open();
  await page.goto(`${url}/#/instance/${id}?range=1h`);
  const name = 'CPU';
  await chart(page, name).locator('canvas').waitFor();
  const steps = async () => {
    const times = await chart(page, name).locator('tbody td:first-child').allInnerTexts();
    return (Date.parse(times.at(-1)) - Date.parse(times.at(-2))) / 1000;
  };
  await points(page, name);
  await isAccessible(page);
  const coarse = await steps();
  await drag(page, name, 0.5, 0.6);
  await page.waitForURL(/since=\d+&until=\d+/);
  // Down to raw readings, which the host keeps every 5 s.
  await drag(page, name, 0.4, 0.6);
  await page.getByRole('button', { name: 'Zoom out' }).waitFor();
  await until(page, () => {
    const cells = document.querySelectorAll('figure.chart:first-child tbody td:first-child');
    return cells.length > 2 && (Date.parse(cells[1].textContent) - Date.parse(cells[0].textContent)) === 5000;
  });
  assert.ok(coarse > 5, `${coarse}`);
  // Back to where it began, as the browser's button does.
  await page.getByRole('button', { name: 'Zoom out' }).click();
  await page.goBack();
  await page.waitForURL(/range=1h$/);
}

export async function compare({ open, url, args: ids, isAccessible }) {
  const page = await open();
  await page.goto(url);
  for (const id of ids) await row(page, id).getByRole('checkbox').check();
  await page.getByRole('link', { name: `Compare ${ids.length}` }).click();
  await chart(page, 'CPU').locator('canvas').waitFor();
  await page.getByText('Values', { exact: true }).first().click();
  const heads = await chart(page, 'CPU').locator('thead th').allInnerTexts();
  assert.deepEqual(heads, ['time', ...ids]);
  await isAccessible(page);
  await page.goto(`${url}/#/compare?workload=web`);
  await page.getByRole('heading', { name: 'Workload web' }).waitFor();
  await chart(page, 'CPU, together').locator('.legend', { hasText: 'web together' }).waitFor();
}

export async function explore({ open, url, isAccessible }) {
  const page = await open();
  await page.goto(url);
  await rows(page).first().waitFor();
  await page.keyboard.press('e');
  const field = page.getByRole('combobox', { name: 'Expression' });
  // Every example shows something.
  for (const nth of [0, 1, 2]) {
    await page.goto(`${url}/#/explore`);
    await page.locator('.examples button').nth(nth).click();
    await page.locator('figure.chart canvas').waitFor();
  }
  const offered = (text) => page.getByRole('option', { name: text });
  // A metric, a label and a value are completed with the keyboard alone.
  await field.fill('');
  await field.pressSequentially('cpu_ra');
  await offered('dropsonde_sample_cpu_ratio').waitFor();
  await page.keyboard.press('Tab');
  await page.keyboard.type('{i');
  await offered('id label').waitFor();
  await page.keyboard.press('Tab');
  await page.keyboard.type('web-');
  await offered('web-0').waitFor();
  await page.keyboard.press('ArrowDown');
  await isAccessible(page);
  await page.keyboard.press('Enter');
  await page.keyboard.type('}');
  assert.match(await field.inputValue(), /^dropsonde_sample_cpu_ratio\{id="web-\d+"\}$/);
  await page.keyboard.press('Enter');
  await page.waitForURL(/explore\?expr=dropsonde_sample_cpu_ratio/);
  const figure = page.locator('figure.chart');
  await figure.locator('canvas').waitFor();
  await figure.getByText('Values', { exact: true }).click();
  await figure.locator('tbody tr').first().waitFor();
  // A mistake has a line where it is, while it is typed.
  await field.fill('sum(ratte(up[5m]))');
  await page.locator('.mirror u', { hasText: /^ratte$/ }).waitFor();
  await page.getByRole('status').filter({ hasText: 'ratte' }).waitFor();
  await isAccessible(page);
  await page.keyboard.press('Enter');
  await page.waitForURL(/ratte/);
  // The address has the expression and the table: a colleague sees the same.
  await field.fill('topk(3, dropsonde_sample_cpu_ratio)');
  await page.getByRole('button', { name: 'Run' }).click();
  await page.getByRole('button', { name: 'Table' }).click();
  await until(page, () => document.querySelectorAll('table.series tbody tr').length === 3);
  await isAccessible(page);
  const other = await open();
  await other.goto(page.url());
  await until(other, () => document.querySelectorAll('table.series tbody tr').length === 3);
  // The first expression is at hand again.
  await page.getByText('Earlier expressions').click();
  assert.equal(await page.locator('.earlier li', { hasText: 'ratte' }).count(), 0);
  await page.locator('.earlier').getByRole('button', { name: /^dropsonde_sample_cpu_ratio/ }).click();
  await until(page, () => document.querySelectorAll('table.series tbody tr').length === 1);
}

export async function longer({ open, url, args: [id], isAccessible }) {
  const page = await open();
  await page.goto(`${url}/#/instance/${id}?range=30m`);
  await chart(page, 'Up').getByText('Values', { exact: true }).click();
  for (const range of ['30d', '1y']) {
    await page.getByRole('button', { name: range, exact: true }).click();
    await page.waitForURL(new RegExp(`range=${range}`));
    await chart(page, 'Up').locator('tbody tr', { hasText: '7' }).first().waitFor();
  }
  await isAccessible(page);
}

export async function series({ open, url, args: [id], isAccessible }) {
  const page = await open();
  await page.goto(`${url}/#/instance/${id}`);
  await page.getByText('Series', { exact: true }).click();
  const metric = (name) => page.locator('.offered').getByRole('button', { name });
  await metric('queue_length').waitFor();
  await page.getByRole('searchbox', { name: 'Metric' }).fill('REQUESTS');
  await until(page, () => document.querySelectorAll('.offered button').length === 1);
  await isAccessible(page);
  // Of what only grows, it is shown how fast it grows: a line for each series.
  await metric(/^http_requests_total/).click();
  const figure = page.locator('.more-series figure.chart');
  await figure.locator('canvas').waitFor();
  await figure.getByText('rate(http_requests_total', { exact: false }).first().waitFor();
  await figure.locator('.legend', { hasText: '503' }).waitFor();
  await isAccessible(page);
  // The address has the metric: a colleague sees the same.
  const other = await open();
  await other.goto(page.url());
  await other.locator('.more-series figure.chart canvas').waitFor();
  await other.getByRole('link', { name: 'Explore this expression' }).click();
  await other.waitForURL(/explore\?expr=rate/);
  await other.locator('figure.chart canvas').waitFor();
}

export async function alerts({ open, url, args: [token], isAccessible }) {
  const page = await open();
  await page.goto(url);
  await rows(page).first().waitFor();
  // Every view says how many alerts fire.
  const fires = page.locator('nav .count.bad');
  await fires.waitFor();
  await page.keyboard.press('l');
  const listed = (name, state) => page.locator('.alerts li', { hasText: name }).filter({ hasText: state });
  await listed('Busy', 'firing').getByText('<b>web-0</b> is busy').waitFor();
  await listed('Waits', 'pending').waitFor();
  // One that comes and goes is moved without a reload.
  await listed('Flaps', 'firing').waitFor();
  await listed('Flaps', 'resolved').waitFor();
  await page.locator('.week a', { hasText: 'Busy' }).getByRole('img', { name: /^firing from .* to now$/ }).waitFor();
  await isAccessible(page);
  await page.keyboard.press('/');
  await until(page, () => document.activeElement?.id === 'search');
  await page.keyboard.type('BUSY workload=web');
  await listed('Waits', 'pending').waitFor({ state: 'detached' });
  // One alert, with the number that its expression is held against.
  await listed('Busy', 'firing').getByRole('link').click();
  await page.getByRole('heading', { name: 'Busy' }).waitFor();
  await page.locator('figure.chart canvas').waitFor();
  await page.locator('.legend', { hasText: 'threshold >= 0' }).waitFor();
  await page.getByRole('link', { name: 'https://example.org/busy', exact: true }).waitFor();
  assert.equal(await page.locator('main article p b b').count(), 0);
  const other = await open();
  await other.goto(page.url());
  await other.locator('figure.chart canvas').waitFor();
  // It is silenced, for all instances of its workload, and the silence is ended.
  await page.getByRole('button', { name: 'Silence …' }).click();
  await page.getByRole('button', { name: 'Remove id' }).click();
  await page.getByRole('button', { name: '1d' }).click();
  await page.getByLabel('Comment').fill('<i>planned</i>');
  await isAccessible(page);
  await page.getByRole('button', { name: 'Silence', exact: true }).click();
  await page.getByLabel('Write token').fill(token);
  await page.getByRole('button', { name: 'Use' }).click();
  await page.getByRole('button', { name: 'Silence', exact: true }).click();
  await page.locator('.alerts li', { hasText: '<i>planned</i>' }).filter({ hasText: 'active' }).waitFor();
  await page.locator('.bar .label', { hasText: 'silenced' }).waitFor();
  await isAccessible(page);
  await page.getByRole('button', { name: /^End alertname="Busy"/ }).click();
  await page.locator('.bar .label', { hasText: 'silenced' }).waitFor({ state: 'detached' });
  // What the history shows leads to the alert, too.
  await page.keyboard.press('l');
  await page.locator('.week a', { hasText: 'Waits' }).click();
  await page.getByRole('heading', { name: 'Waits' }).waitFor();
}

export async function restart({ open, url, args: [id], turn, away }) {
  const page = await open();
  await page.goto(`${url}/#/instance/${id}?range=30m`);
  await chart(page, 'CPU').locator('canvas').waitFor();
  await points(page, 'CPU');
  away(true);
  await turn('kill');
  await page.getByRole('alert').filter({ hasText: 'No connection' }).waitFor();
  await turn('start');
  await page.getByRole('alert').filter({ hasText: 'No connection' }).waitFor({ state: 'detached' });
  away(false);
  // What was read before and what is read now are in one chart, without loading the page again.
  const since = Date.now();
  await until(page, ([from]) => {
    const cells = document.querySelectorAll('figure.chart:first-child tbody td:first-child');
    const times = [...cells].map((cell) => Date.parse(cell.textContent));
    return times.length > 5 && times[0] < from && times.at(-1) >= from - 2000;
  }, [since]);
}

export async function plugins({ open, url, args: [token, bad, good], turn, isAccessible }) {
  const page = await open();
  await page.goto(`${url}/#/plugins`);
  await page.getByRole('rowheader', { name: 'procfs' }).waitFor();
  await page.getByRole('button', { name: 'Admin token' }).click();
  await page.getByLabel('Admin token').fill(token);
  await page.getByRole('button', { name: 'Use' }).click();
  await page.locator('input[type=file]').setInputFiles(bad);
  await page.getByRole('alert').filter({ hasText: 'The upload of bad was refused' }).waitFor();
  await page.locator('input[type=file]').setInputFiles(good);
  await page.getByRole('rowheader', { name: 'good' }).waitFor();
  await isAccessible(page);
  await page.getByRole('link', { name: 'good' }).click();
  await page.getByRole('heading', { name: 'good' }).waitFor();
  await page.getByRole('button', { name: 'Quarantine' }).click();
  await page.locator('.state', { hasText: 'quarantined' }).waitFor();
  await page.getByRole('button', { name: 'Release' }).click();
  await page.locator('.state', { hasText: 'running' }).waitFor();
  await isAccessible(page);
  await page.getByRole('button', { name: 'Remove …' }).click();
  await page.getByRole('button', { name: 'Remove', exact: true }).click();
  await turn('removed');
}

export async function login({ open, url, args: [token], isAccessible }) {
  const page = await open();
  await page.goto(`${url}/#/system`);
  await page.getByLabel('Token').waitFor();
  await isAccessible(page);
  await page.getByLabel('Token').fill('wrong');
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByRole('alert').filter({ hasText: 'not a token' }).waitFor();
  await page.getByLabel('Token').fill(token);
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByRole('heading', { name: 'System' }).waitFor();
  assert.match(page.url(), /#\/system$/);
  await page.getByText('running for').waitFor();
  await page.getByRole('button', { name: 'Log out' }).click();
  await page.getByLabel('Token').waitFor();
}

export async function narrow({ open, url, args: [id], isAccessible }) {
  const page = await open({ viewport: { width: 360, height: 740 }, colorScheme: 'dark', isMobile: true, hasTouch: true, reducedMotion: 'reduce' });
  const fits = async (what) => {
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= 360, `${what} is ${width} px wide`);
    await isAccessible(page);
  };
  await page.goto(url);
  await rows(page).first().waitFor();
  await fits('the list');
  for (const [view, text] of [[`instance/${id}`, 'CPU'], ['application', 'Channels'], ['explore?expr=up', 'up'], ['explore?expr=up&show=table', 'value'], ['alerts', 'how alerts work'], ['plugins', 'procfs'], ['plugins/procfs', 'Grants'], ['system', 'Shared pools'], [`compare?instance=${id}`, 'CPU']]) {
    await page.goto(`${url}/#/${view}`);
    await page.getByText(text, { exact: true }).first().waitFor();
    await fits(view);
  }
}

export async function keyboard({ open, url }) {
  const page = await open();
  await page.goto(url);
  await rows(page).first().waitFor();
  await page.keyboard.press('?');
  await page.getByRole('dialog', { name: 'Keys' }).waitFor();
  await page.keyboard.press('Escape');
  await page.keyboard.press('p');
  await page.getByRole('heading', { name: 'Plugins' }).waitFor();
  await page.keyboard.press('l');
  await page.getByRole('heading', { name: 'Alerts' }).waitFor();
  await page.keyboard.press('i');
  await rows(page).first().waitFor();
  await page.keyboard.press('/');
  await until(page, () => document.activeElement?.id === 'search');
  // From the search to the first instance with the Tab key alone.
  for (let presses = 0; ; presses += 1) {
    assert.ok(presses < 40, 'the Tab key does not reach an instance');
    await page.keyboard.press('Tab');
    const [isLink, hasRing] = await page.evaluate(() => [document.activeElement.matches('tr.instance a'), getComputedStyle(document.activeElement).outlineStyle !== 'none']);
    assert.ok(hasRing, await page.evaluate(() => `no visible focus: ${document.activeElement.outerHTML.slice(0, 200)}`));
    if (isLink) break;
  }
  await page.keyboard.press('Enter');
  const plot = page.locator('.plot').first();
  await plot.waitFor();
  await plot.focus();
  await page.keyboard.press('ArrowLeft');
  await page.locator('.legend time').first().waitFor();
  await page.keyboard.press('+');
  await page.waitForURL(/since=/);
}

export async function plain({ open, url }) {
  const page = await open({ javaScriptEnabled: false });
  await page.goto(url);
  await page.getByRole('heading', { name: 'Plugins' }).waitFor();
  assert.ok(await page.getByText('cpu_percent').first().isVisible());
}

export async function many({ open, url }) {
  const page = await open();
  await page.goto(url);
  await until(page, () => /100\d\d/.test(document.querySelector('h1')?.textContent));
  assert.ok((await rows(page).count()) < 60);
  await page.locator('.rows').evaluate((box) => box.scrollTo(0, box.scrollHeight));
  await until(page, () => Number([...document.querySelectorAll('tr.instance')].at(-1)?.ariaRowIndex) > 10_000);
  await until(page, () => document.querySelectorAll('tr.instance .spark path').length > 10);
}

// For `cargo bench -p dropsonde --bench dashboard`: the work of each frame while someone scrolls through a long list.
export async function figures({ open, url, turn }) {
  const page = await open();
  const begun = Date.now();
  await page.goto(url);
  await rows(page).first().waitFor();
  const first = await page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime);
  await until(page, () => document.querySelectorAll('tr.instance .spark path').length >= 40);
  const filled = Date.now() - begun;
  const frames = await page.locator('.rows').evaluate(async (box) => {
    const times = [];
    const { port1, port2 } = new MessageChannel();
    let start = 0;
    box.addEventListener('scroll', () => (start ||= performance.now()), { capture: true });
    port1.onmessage = () => {
      times.push(performance.now() - start);
      start = 0;
    };
    for (let frame = 0; frame < 600; frame += 1) {
      // A notch of the wheel.
      box.scrollBy(0, 120);
      await new Promise((done) => requestAnimationFrame(done));
      start ||= performance.now();
      port2.postMessage(0);
    }
    return times.sort((a, b) => a - b);
  });
  await page.requestGC();
  const at = (share) => frames[Math.floor(frames.length * share)].toFixed(1);
  await turn(`first paint ${Math.round(first)} ms, lines of all rows on the screen ${filled} ms; scrolling: frame p50 ${at(0.5)} ms, p95 ${at(0.95)} ms, p99 ${at(0.99)} ms`);
}

// The pictures of the README: node tests/browser/run.mjs screenshots http://127.0.0.1:9090 FOLDER, with `serve --demo`.
export async function screenshots({ open, url, args: [folder] }) {
  const shot = async (name, view, options) => {
    const page = await open(options);
    await page.goto(`${url}/#/${view}`);
    await page.waitForLoadState('networkidle', { timeout: 3000 }).catch(() => {});
    await page.screenshot({ path: `${folder}/${name}.png` });
    await page.context().close();
  };
  const [dark, narrow] = [{ colorScheme: 'dark' }, { viewport: { width: 360, height: 740 } }];
  await shot('instances-light', '', {});
  await shot('instances-dark', '?group=1', dark);
  await shot('instances-narrow', '', narrow);
  await shot('instance-light', 'instance/web-0?range=1h', {});
  await shot('instance-dark', 'instance/web-0?range=1h', dark);
  await shot('instance-narrow', 'instance/web-0?range=1h', { ...narrow, ...dark });
}

// The latest samples of the instances that are on the screen, from one stream.

import { useEffect, useState } from './html.js';
import { batches, query } from './api.js';
import { followStream } from './stream.js';

/** While the user scrolls, the stream is not opened anew for each row. */
const SETTLE_MS = 200;

const samples = new Map();
const watchers = new Map();
const stateWatchers = new Set();
/** How many components follow an instance, and since when. */
const followed = new Map();
let url = '';
let close = () => {};
let timer;
let state = { is: 'idle', since: Date.now(), error: undefined };

/** Time after which a followed instance's latest sample has come, if it has one. */
const HEARD_MS = 2000;

/** The most instances that one stream can name. */
const MOST_NAMED = 1000;

/** Returns whether an instance is followed for so long that its samples of now come here. */
export const isFollowed = (id) => Date.now() - (followed.get(id)?.since ?? Infinity) > HEARD_MS;

/** Returns the latest sample of an instance that came in this page. */
export const latest = (id) => samples.get(id);

/** Keeps a sample that came by another way than the stream, unless a newer one is known. */
export function learn(id, sample) {
  const known = samples.get(id);
  if (known && known.at >= sample.at) return;
  samples.set(id, sample);
  for (const watcher of watchers.get(id) ?? []) watcher(sample, false);
}

function setState(is, error) {
  if (is === state.is && error?.status === state.error?.status) return;
  state = { is, since: is === state.is ? state.since : Date.now(), error };
  for (const watcher of stateWatchers) watcher(state);
}

function onEvent(name, data) {
  if (name === 'usage') {
    samples.set(data.instance, data.sample);
    for (const watcher of watchers.get(data.instance) ?? []) watcher(data.sample, false);
  } else if (name === 'reset' || name === 'lagged') {
    // Some samples never come by the stream: who shows history asks for it again.
    for (const some of watchers.values()) for (const watcher of some) watcher(undefined, true);
  } else if (name === 'untracked') {
    samples.delete(data.instance);
    for (const watcher of watchers.get(data.instance) ?? []) watcher(undefined, true);
  }
}

function reopen() {
  const lists = batches([...followed.keys()].sort(), MOST_NAMED);
  // If their names do not fit into an address, all instances are followed.
  const next = lists.length ? '/v1/stream' + (lists.length > 1 ? '' : query({ instance: lists[0] })) : '';
  if (next === url) return;
  close();
  url = next;
  close = () => {};
  if (url) close = followStream(url, onEvent, setState);
  else setState('idle');
}

function follow(ids, step) {
  for (const id of ids) {
    const { count = 0, since = Date.now() } = followed.get(id) ?? {};
    if (count + step > 0) followed.set(id, { count: count + step, since });
    else followed.delete(id);
  }
  clearTimeout(timer);
  timer = setTimeout(reopen, SETTLE_MS);
}

/** Follows instances as long as the component is there. */
export function useFollowed(ids) {
  useEffect(() => {
    follow(ids, 1);
    return () => follow(ids, -1);
  }, [ids.join('\n')]);
}

/** Calls `on(sample, isReset)` for each sample of an instance; `isReset`: some are missing. */
export function watch(id, on) {
  if (!watchers.has(id)) watchers.set(id, new Set());
  watchers.get(id).add(on);
  return () => {
    watchers.get(id)?.delete(on);
    if (!watchers.get(id)?.size) watchers.delete(id);
  };
}

/** Returns the latest sample of an instance, and draws the component again when there is a newer one. */
export function useLatest(id) {
  const [, draw] = useState(0);
  useEffect(() => watch(id, () => draw((count) => count + 1)), [id]);
  return samples.get(id);
}

/** Returns the state of the stream: `idle`, `live` or `lost`, since when, and why. */
export function useStreamState() {
  const [, draw] = useState(0);
  useEffect(() => {
    const watcher = () => draw((count) => count + 1);
    stateWatchers.add(watcher);
    return () => stateWatchers.delete(watcher);
  }, []);
  return state;
}

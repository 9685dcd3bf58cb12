// A stream of server-sent events that comes back by itself, behind the last event that it had.

import { openEvents } from './api.js';

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;

/** A page in the background gives its connection back: a browser has six of them to a host without TLS. */
const REST_AFTER_MS = 30_000;

/** The host sends a comment every 15 s: after three of them are missing, the connection is dead. */
const SILENCE_MS = 45_000;

/**
 * Follows a stream until `close` is called.
 *
 * `onEvent(name, data)`: an event came. `onState('live' | 'lost', error)`: the connection is there, or is not.
 */
export function followStream(url, onEvent, onState) {
  let lastId = '';
  let wait = FIRST_WAIT_MS;
  let isClosed = false;
  let isResting = false;
  let rest;
  let timer;
  let controller;

  const take = (block) => {
    let name = 'message';
    let data = '';
    for (const line of block.split('\n')) {
      if (line.startsWith('data: ')) data += line.slice(6);
      else if (line.startsWith('event: ')) name = line.slice(7);
      else if (line.startsWith('id: ')) lastId = line.slice(4);
    }
    if (data) onEvent(name, JSON.parse(data));
  };

  const read = async (reader) => {
    const decoder = new TextDecoder();
    let text = '';
    for (;;) {
      const silence = setTimeout(() => controller.abort(), SILENCE_MS);
      const { done, value } = await reader.read().finally(() => clearTimeout(silence));
      if (done) return;
      text += decoder.decode(value, { stream: true });
      const blocks = text.split('\n\n');
      text = blocks.pop();
      for (const block of blocks) if (!isClosed) take(block);
    }
  };

  const connect = async () => {
    controller = new AbortController();
    let why;
    const patience = setTimeout(() => controller.abort(), SILENCE_MS);
    try {
      const answer = await openEvents(url, lastId, controller.signal).finally(() => clearTimeout(patience));
      wait = FIRST_WAIT_MS;
      onState('live');
      await read(answer.body.getReader());
    } catch (error) {
      why = error;
    }
    if (isClosed || isResting) return;
    onState('lost', why);
    // Not all pages come back at the same moment.
    timer = setTimeout(connect, wait * (0.5 + Math.random() / 2));
    wait = Math.min(wait * 2, LONGEST_WAIT_MS);
  };

  const onVisibility = () => {
    clearTimeout(rest);
    if (document.hidden) {
      rest = setTimeout(() => {
        isResting = true;
        clearTimeout(timer);
        controller.abort();
      }, REST_AFTER_MS);
    } else if (isResting) {
      isResting = false;
      connect();
    }
  };

  document.addEventListener('visibilitychange', onVisibility);
  connect();
  return () => {
    isClosed = true;
    document.removeEventListener('visibilitychange', onVisibility);
    clearTimeout(rest);
    clearTimeout(timer);
    controller?.abort();
  };
}

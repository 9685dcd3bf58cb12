// Samples the open sockets of this machine. /proc/net/sockstat has lines of names and numbers:
//
//   sockets: used 290
//   TCP: inuse 12 orphan 0 tw 3 alloc 15 mem 2
//
// Some of them are fields. All of them are series, whatever their names: `sockets{kind="TCP",what="inuse"}`.

import { read } from "dropsonde:plugin/files@0.1.0";
import { define, report } from "dropsonde:plugin/series@0.1.0";

const PATH = "/proc/net/sockstat";

// Field name, help text, and the two names in the file.
const FIELDS = [
  ["sockets_used", "Sockets of all kinds", "sockets", "used"],
  ["tcp_in_use", "TCP sockets in use", "TCP", "inuse"],
  ["tcp_orphaned", "TCP sockets that no longer belong to a process", "TCP", "orphan"],
  ["tcp_time_wait", "Closed TCP connections that wait for late packets", "TCP", "tw"],
  ["udp_in_use", "UDP sockets in use", "UDP", "inuse"],
];

export const plugin = {
  describe: () => ({ name: "sockets", version: "0.1.0", about: "The open sockets of this machine" }),
  needs: (config) => [{ tag: "read", val: PATH }],
  init(config) {},
};

export const sampler = {
  fields: () => FIELDS.map(([name, help]) => ({
    name,
    help,
    unit: "",
    kind: { tag: "gauge" },
    aggregation: "mean",
    precision: 1,
  })),
  discover: (tick) => [{ id: "host", labels: [] }],
  sample(tick, instances) {
    const sockets = parse(contents(PATH));
    const row = FIELDS.map(([, , kind, name]) => sockets[kind]?.[name] ?? NaN);
    if (instances.includes("host")) {
      report("host", points(sockets));
    }
    // It knows only this machine; any other instance does not exist here.
    const failures = [...instances.entries()].filter(([, id]) => id !== "host").map(([n]) => [n, { tag: "gone" }]);
    return { values: instances.flatMap(() => row), offsetsMs: [], failures };
  },
};

// [[handle, 12], …]: the same series has the same handle each time.
function points(sockets) {
  const all = Object.entries(sockets).flatMap(([kind, numbers]) =>
    Object.entries(numbers).map(([what, number]) => [{ kind, what }, number]));
  return all.map(([labels, number]) => {
    const help = "Sockets of this machine, as /proc/net/sockstat counts them";
    const series = { name: "sockets", metricType: "gauge", help, labels: Object.entries(labels) };
    return [define(series), number];
  });
}

// { TCP: { inuse: 12, orphan: 0, … }, … }
function parse(text) {
  const sockets = {};
  for (const line of text.trim().split("\n")) {
    const [kind, words] = line.split(": ");
    const pairs = words.match(/\S+ \d+/g).map((pair) => pair.split(" "));
    sockets[kind] = Object.fromEntries(pairs.map(([name, number]) => [name, Number(number)]));
  }
  return sockets;
}

function contents(path) {
  let bytes;
  try {
    bytes = read(path);
  } catch ({ payload: { tag } }) {
    throw { tag: tag === "denied" ? "denied" : "unavailable", val: `${path}: ${tag}` };
  }
  // Converts in pieces: a call can take only a limited number of arguments.
  const pieces = [];
  for (let at = 0; at < bytes.length; at += 8192) {
    pieces.push(String.fromCharCode(...bytes.subarray(at, at + 8192)));
  }
  return pieces.join("");
}

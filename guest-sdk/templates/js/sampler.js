// Samples the load average. Configuration: `path`, the file to read.

import { read } from "dropsonde:plugin/files@0.1.0";

const config = { path: "/proc/loadavg" };

export const plugin = {
  describe: () => ({ name: "{{name}}", version: "0.1.0", about: "{{about}}" }),
  needs: (text) => [{ tag: "read", val: { ...config, ...JSON.parse(text) }.path }],
  init(text) {
    Object.assign(config, JSON.parse(text));
  },
};

export const sampler = {
  fields: () => [{
    name: "load_avg_1m",
    help: "1-minute load average",
    unit: "",
    kind: { tag: "gauge" },
    aggregation: "mean",
    precision: 0.01,
  }],
  discover: (tick) => [{ id: "host", labels: [] }],
  sample(tick, instances) {
    const load = parseFloat(contents(config.path));
    // It knows only this machine; any other instance does not exist here.
    const failures = [...instances.entries()].filter(([, id]) => id !== "host").map(([n]) => [n, { tag: "gone" }]);
    return { values: instances.map(() => load), offsetsMs: [], failures };
  },
};

function contents(path) {
  let bytes;
  try {
    bytes = read(path);
  } catch ({ payload: { tag, val } }) {
    const why = tag === "other" ? val : tag;
    throw { tag: tag === "denied" ? "denied" : "unavailable", val: `${path}: ${why}` };
  }
  // Converts in pieces: a call can take only a limited number of arguments.
  const pieces = [];
  for (let at = 0; at < bytes.length; at += 8192) {
    pieces.push(String.fromCharCode(...bytes.subarray(at, at + 8192)));
  }
  return pieces.join("");
}

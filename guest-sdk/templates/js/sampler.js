// The load average. Configuration: `path`, where it is read.

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
    // This machine is all it knows: any other instance is not here.
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
  // In pieces: a function takes so many arguments and no more.
  const pieces = [];
  for (let at = 0; at < bytes.length; at += 8192) {
    pieces.push(String.fromCharCode(...bytes.subarray(at, at + 8192)));
  }
  return pieces.join("");
}

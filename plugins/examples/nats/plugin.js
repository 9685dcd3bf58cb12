// Samples the connections and messages of a NATS server, from its monitoring endpoint. Configuration: `url`.

const config = { url: "http://127.0.0.1:8222" };

export const plugin = {
  describe: () => ({ name: "nats", version: "0.1.0", about: "Connections and messages of a NATS server" }),
  needs: (text) => [{ tag: "http", val: `GET ${{ ...config, ...JSON.parse(text) }.url} /varz` }],
  init(text) {
    Object.assign(config, JSON.parse(text));
  },
};

// Each field, with its name in the server's answer.
const gauges = [
  ["connections", "Clients that are connected", "connections"],
  ["slow_consumers", "Clients that were cut off because they read too slowly", "slow_consumers"],
];
const counters = [
  ["messages_in_per_sec", "Messages from clients", "in_msgs"],
  ["messages_out_per_sec", "Messages to clients", "out_msgs"],
];

export const sampler = {
  fields: () => [
    ...gauges.map(([name, help]) => field(name, help, { tag: "gauge" })),
    ...counters.map(([name, help, key]) =>
      field(name, help, { tag: "counter", val: { name: `nats_${key}_total`, scale: 1 } })),
  ],
  discover: (tick) => [{ id: "nats", labels: [] }],
  async sample(tick, instances) {
    const answer = await varz();
    const row = [...gauges, ...counters].map(([, , key]) => answer[key] ?? NaN);
    // It knows only this server; any other instance does not exist here.
    const failures = [...instances.entries()].filter(([, id]) => id !== "nats").map(([n]) => [n, { tag: "gone" }]);
    return { values: instances.flatMap(() => row), offsetsMs: [], failures };
  },
};

function field(name, help, kind) {
  return { name, help, unit: "", kind, aggregation: "mean", precision: 0.01 };
}

async function varz() {
  const url = `${config.url}/varz`;
  try {
    const response = await fetch(url);
    if (response.ok) {
      return await response.json();
    }
    throw new Error(`status ${response.status}`);
  } catch (error) {
    throw { tag: "unavailable", val: `${url}: ${error.message}` };
  }
}

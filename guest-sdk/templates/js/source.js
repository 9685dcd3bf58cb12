// Reports a number of open channels. Configuration: `total`, the number to report.

const config = { total: 0 };

export const plugin = {
  describe: () => ({ name: "{{name}}", version: "0.1.0", about: "{{about}}" }),
  needs: (text) => [],
  init(text) {
    Object.assign(config, JSON.parse(text));
  },
};

export const source = {
  collect: (tick) => ({ channels: { totalActive: config.total, byPattern: [] } }),
};

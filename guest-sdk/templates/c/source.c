// Reports a number of open channels. Configuration: `total`, the number to report.

#include "dropsonde/dropsonde.h"

static int64_t total = 0;

description_t plugin_describe(void) {
  return (description_t){.name = str("{{name}}"), .version = str("0.1.0"), .about = str("{{about}}")};
}

bool plugin_init(string_t config, failure_t *failure) {
  total = config_number(config, "total", total);
  return true;
}

bool source_collect(const tick_t *tick, stats_t *stats, failure_t *failure) {
  stats->channels.is_some = true;
  stats->channels.val.total_active = total;
  return true;
}

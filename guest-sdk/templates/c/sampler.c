// Samples the load average. Configuration: `path`, the file to read.

#include "dropsonde/dropsonde.h"
#include <stdlib.h>

static const char *path = "/proc/loadavg";

description_t plugin_describe(void) {
  return (description_t){.name = str("{{name}}"), .version = str("0.1.0"), .about = str("{{about}}")};
}

bool plugin_needs(string_t config, needs_t *needs, string_t *error) {
  append(*needs, need_read(config_string(config, "path", path)));
  return true;
}

bool plugin_init(string_t config, failure_t *failure) {
  path = keep(config_string(config, "path", path));
  return true;
}

fields_t sampler_fields(void) {
  fields_t fields = {0};
  append(fields, (field_t){.name = str("load_avg_1m"), .help = str("1-minute load average"), .precision = 0.01});
  return fields;
}

bool sampler_discover(const tick_t *tick, instances_t *instances, failure_t *failure) {
  append(*instances, (instance_t){.id = str("host")});
  return true;
}

bool sampler_sample(const tick_t *tick, ids_t instances, readings_t *readings, failure_t *failure) {
  const char *text = file_text(path, failure);
  if (!text) return false;
  double load = strtod(text, NULL);
  for (size_t n = 0; n < instances.len; n++) {
    append(readings->values, load);
    // It knows only this machine; any other instance does not exist here.
    if (!equals(instances.ptr[n], "host")) append(readings->failures, (row_failure_t){n, gone()});
  }
  return true;
}

// What a plugin in C needs. `wit.h` beside this file is the whole contract; this file gives it shorter names and helpers.
//
// Memory. Nothing has to be freed. What the host hands to a call, and what the functions below return, lives until the
// call is over and the host has read the result. `keep` and `malloc` are for what must live longer.
//
// Strings. All strings are UTF-8, and a zero byte follows the last byte: `cstr` costs nothing.
#ifndef DROPSONDE_H
#define DROPSONDE_H

#include "roles.h"
#include "wit.h"
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef wit_string_t string_t;
typedef wit_list_u8_t bytes_t;
typedef types_description_t description_t;
typedef types_tick_t tick_t;
typedef types_need_t need_t;
typedef types_failure_t failure_t;
typedef exports_plugin_list_need_t needs_t;

// ---- The functions that the plugin defines ----
// Those that return bool return false if they failed, with the reason in their last parameter. Results begin as zeros:
// empty lists. `wit.h` says what each function is for.

description_t plugin_describe(void);
// May be left out: needs nothing.
bool plugin_needs(string_t config, needs_t *needs, string_t *error);
// May be left out: does nothing.
bool plugin_init(string_t config, failure_t *failure);

#ifdef DROPSONDE_SAMPLER
typedef types_field_t field_t;
typedef exports_sampler_list_field_t fields_t;
typedef exports_sampler_instance_t instance_t;
typedef exports_sampler_list_instance_t instances_t;
typedef wit_list_string_t ids_t;
typedef exports_sampler_readings_t readings_t;
typedef exports_sampler_tuple2_u32_failure_t row_failure_t;

fields_t sampler_fields(void);
// May be left out: finds no instances.
bool sampler_discover(const tick_t *tick, instances_t *instances, failure_t *failure);
bool sampler_sample(const tick_t *tick, ids_t instances, readings_t *readings, failure_t *failure);
#endif

#ifdef DROPSONDE_SOURCE
typedef exports_source_stats_t stats_t;

bool source_collect(const tick_t *tick, stats_t *stats, failure_t *failure);
#endif

#ifdef DROPSONDE_OBSERVER
typedef exports_observer_event_t event_t;
typedef exports_observer_list_event_t events_t;

bool observer_observe(const tick_t *tick, events_t events, failure_t *failure);
#endif

// ---- Memory and strings ----

// Returns zeroed memory that lives until the call is over.
void *allocate(size_t bytes);
// Returns a copy that lives on, for global variables.
char *keep(const char *text);

static inline string_t str(const char *text) { return (string_t){(uint8_t *)text, strlen(text)}; }
static inline const char *cstr(string_t text) { return text.len ? (const char *)text.ptr : ""; }
static inline bool equals(string_t text, const char *other) { return strcmp(cstr(text), other) == 0; }
// Like printf.
__attribute__((format(printf, 1, 2))) string_t format(const char *text, ...);

// Adds an item to a list that the plugin makes: append(readings->values, 0.5).
#define append(list, ...) \
  ((list).ptr = (__typeof__((list).ptr))dropsonde_grow((list).ptr, (list).len, sizeof *(list).ptr), \
   (list).ptr[(list).len++] = __VA_ARGS__)
void *dropsonde_grow(void *list, size_t length, size_t item);

// ---- Configuration: a value of the top level of the JSON object, or `otherwise` ----

const char *config_string(string_t config, const char *key, const char *otherwise);
double config_number(string_t config, const char *key, double otherwise);
bool config_bool(string_t config, const char *key, bool otherwise);

// ---- Values of the contract ----

static inline need_t need_read(const char *glob) { return (need_t){TYPES_NEED_READ, {.read = str(glob)}}; }
static inline need_t need_http(const char *origin) { return (need_t){TYPES_NEED_HTTP, {.http = str(origin)}}; }
static inline need_t need_env(const char *name) { return (need_t){TYPES_NEED_ENV, {.env = str(name)}}; }
static inline need_t need_dir(const char *path) { return (need_t){TYPES_NEED_DIR, {.dir = str(path)}}; }

static inline failure_t gone(void) { return (failure_t){.tag = TYPES_FAILURE_GONE}; }
static inline failure_t unavailable(string_t why) { return (failure_t){TYPES_FAILURE_UNAVAILABLE, {.unavailable = why}}; }
static inline failure_t denied(string_t what) { return (failure_t){TYPES_FAILURE_DENIED, {.denied = what}}; }
static inline failure_t invalid(string_t why) { return (failure_t){TYPES_FAILURE_INVALID, {.invalid = why}}; }

// For the `kind` of a field that is a running total. Without a kind, a field is a gauge.
static inline types_kind_t counter(const char *total, double scale) {
  return (types_kind_t){TYPES_KIND_COUNTER, {.counter = {str(total), scale}}};
}

// ---- The host ----

// Returns the whole file, or NULL with the reason in `failure`.
const char *file_text(const char *path, failure_t *failure);
// Says in words why one of the `files_…` functions failed at this path.
failure_t file_failure(const char *path, files_file_error_t error);

static inline void log_info(string_t message) { log_write(LOG_LEVEL_INFO, &message); }
static inline void log_warn(string_t message) { log_write(LOG_LEVEL_WARN, &message); }

#ifdef __cplusplus
}
#endif
#endif

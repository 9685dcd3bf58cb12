// The exports of the component, which call the functions of the plugin, and the helpers of `dropsonde.h`.

#include "dropsonde.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

// ---- Memory ----

typedef struct block {
  struct block *next;
  max_align_t bytes[];
} block_t;

// The blocks of the running call, and those of the call before: its result is read after it returned.
static block_t *current, *previous;

// A zero byte follows the bytes, and so every string from the host.
void *allocate(size_t bytes) {
  block_t *block = bytes < SIZE_MAX - sizeof *block ? calloc(1, sizeof *block + bytes + 1) : NULL;
  if (!block) __builtin_trap();
  block->next = current;
  current = block;
  return block->bytes;
}

__attribute__((__export_name__("cabi_realloc")))
void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
  if (size == 0) return (void *)align;
  void *new = allocate(size);
  if (old_size) memcpy(new, old, old_size < size ? old_size : size);
  return new;
}

// The WASI adapter keeps what it gets here for as long as the plugin lives.
__attribute__((__export_name__("cabi_realloc_adapter")))
void *cabi_realloc_adapter(void *old, size_t old_size, size_t align, size_t size) {
  (void)old, (void)old_size;
  void *memory = aligned_alloc(align < 16 ? 16 : align, (size + 15) / 16 * 16);
  if (!memory) __builtin_trap();
  return memory;
}

void dropsonde_keep_all(void *pointer) { (void)pointer; }

static void begin(void) {
  while (previous) {
    block_t *next = previous->next;
    free(previous);
    previous = next;
  }
}

static void end(void) {
  previous = current;
  current = NULL;
}

char *keep(const char *text) {
  char *copy = strdup(text);
  if (!copy) __builtin_trap();
  return copy;
}

void *dropsonde_grow(void *list, size_t length, size_t item) {
  // There is room up to the next power of two.
  if (length & (length - 1)) return list;
  void *new = allocate((length ? 2 * length : 1) * item);
  if (length) memcpy(new, list, length * item);
  return new;
}

string_t format(const char *text, ...) {
  va_list arguments, again;
  va_start(arguments, text);
  va_copy(again, arguments);
  int length = vsnprintf(NULL, 0, text, arguments);
  string_t written = {allocate(length > 0 ? length : 0), length > 0 ? length : 0};
  vsnprintf((char *)written.ptr, written.len + 1, text, again);
  va_end(again);
  va_end(arguments);
  return written;
}

// ---- Exports ----

void exports_plugin_describe(exports_plugin_description_t *description) {
  begin();
  *description = plugin_describe();
  end();
}

// Calls a function of the plugin that can fail. The bindings do not clear results.
#define CALL(function, result, error, ...) \
  begin(); \
  *(result) = (__typeof__(*(result))){0}; \
  *(error) = (__typeof__(*(error))){0}; \
  bool succeeded = function(__VA_ARGS__); \
  end(); \
  return succeeded

bool exports_plugin_needs(string_t *config, needs_t *needs, string_t *error) {
  CALL(plugin_needs, needs, error, *config, needs, error);
}

bool exports_plugin_init(string_t *config, failure_t *failure) {
  CALL(plugin_init, failure, failure, *config, failure);
}

__attribute__((weak)) bool plugin_needs(string_t config, needs_t *needs, string_t *error) { return true; }

__attribute__((weak)) bool plugin_init(string_t config, failure_t *failure) { return true; }

#ifdef DROPSONDE_SAMPLER
void exports_sampler_fields(fields_t *fields) {
  begin();
  *fields = sampler_fields();
  end();
}

bool exports_sampler_discover(tick_t *tick, instances_t *instances, failure_t *failure) {
  CALL(sampler_discover, instances, failure, tick, instances, failure);
}

bool exports_sampler_sample(tick_t *tick, ids_t *instances, readings_t *readings, failure_t *failure) {
  CALL(sampler_sample, readings, failure, tick, *instances, readings, failure);
}

__attribute__((weak)) bool sampler_discover(const tick_t *tick, instances_t *instances, failure_t *failure) { return true; }
#endif

#ifdef DROPSONDE_SOURCE
bool exports_source_collect(tick_t *tick, stats_t *stats, failure_t *failure) {
  CALL(source_collect, stats, failure, tick, stats, failure);
}
#endif

#ifdef DROPSONDE_OBSERVER
bool exports_observer_observe(tick_t *tick, events_t *events, failure_t *failure) {
  CALL(observer_observe, failure, failure, tick, *events, failure);
}
#endif

// ---- Configuration. The host made sure that it is a JSON object. ----

static const char *space(const char *at) { return at + strspn(at, " \t\n\r"); }

// Returns what follows a string, whose first quote is at `at`.
static const char *after_string(const char *at) {
  for (at++; *at && *at != '"'; at++) at += *at == '\\' && at[1];
  return at + (*at == '"');
}

// Returns what follows a value.
static const char *after_value(const char *at) {
  int depth = 0;
  while (*at) {
    if (*at == '"') {
      at = after_string(at);
    } else if (*at == '{' || *at == '[') {
      depth++, at++;
    } else if (*at == '}' || *at == ']') {
      if (depth == 0) break;
      depth--, at++;
    } else if (*at == ',' && depth == 0) {
      break;
    } else {
      at++;
    }
  }
  return at;
}

static void put_utf8(char **to, unsigned code) {
  if (code < 0x80) {
    *(*to)++ = code;
    return;
  }
  int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  *(*to)++ = 0xF0 << (3 - more) | code >> 6 * more;
  while (more--) *(*to)++ = 0x80 | (code >> 6 * more & 0x3F);
}

static unsigned hex4(const char **at) {
  char digits[5] = {0};
  memcpy(digits, *at, strnlen(*at, 4));
  *at += strlen(digits);
  return strtoul(digits, NULL, 16);
}

// Returns the text of a string, whose first quote is at `at`.
static char *unescaped(const char *at) {
  const char *end = after_string(at);
  char *text = allocate(end - at), *to = text;
  for (at++; at < end && *at != '"';) {
    if (*at != '\\') {
      *to++ = *at++;
      continue;
    }
    char escape = at[1];
    at += 2;
    switch (escape) {
      case 'b': *to++ = '\b'; break;
      case 'f': *to++ = '\f'; break;
      case 'n': *to++ = '\n'; break;
      case 'r': *to++ = '\r'; break;
      case 't': *to++ = '\t'; break;
      case 'u': {
        unsigned code = hex4(&at);
        if (code >> 10 == 0x36 && at[0] == '\\' && at[1] == 'u') {
          at += 2;
          code = 0x10000 + ((code & 0x3FF) << 10 | (hex4(&at) & 0x3FF));
        }
        put_utf8(&to, code);
        break;
      }
      default: *to++ = escape;
    }
  }
  *to = 0;
  return text;
}

// Returns where the value of a key begins, or "".
static const char *value(string_t config, const char *key) {
  const char *at = space(cstr(config));
  if (*at == '{') at = space(at + 1);
  while (*at == '"') {
    bool found = strcmp(unescaped(at), key) == 0;
    at = space(after_string(at));
    if (*at == ':') at = space(at + 1);
    if (found) return at;
    at = after_value(at);
    if (*at == ',') at = space(at + 1);
  }
  return "";
}

const char *config_string(string_t config, const char *key, const char *otherwise) {
  const char *at = value(config, key);
  return *at == '"' ? unescaped(at) : otherwise;
}

double config_number(string_t config, const char *key, double otherwise) {
  char *end;
  const char *at = value(config, key);
  double number = strtod(at, &end);
  return end == at ? otherwise : number;
}

bool config_bool(string_t config, const char *key, bool otherwise) {
  const char *at = value(config, key);
  return *at == 't' ? true : *at == 'f' ? false : otherwise;
}

// ---- Files ----

failure_t file_failure(const char *path, files_file_error_t error) {
  switch (error.tag) {
    case FILES_FILE_ERROR_DENIED: return denied(format("%s: not granted", path));
    case FILES_FILE_ERROR_NOT_FOUND: return unavailable(format("%s: not found", path));
    case FILES_FILE_ERROR_NOT_A_FILE: return unavailable(format("%s: not a file", path));
    case FILES_FILE_ERROR_TOO_LARGE:
      return unavailable(format("%s: larger than %llu", path, (unsigned long long)error.val.too_large));
    default: return unavailable(format("%s: %s", path, cstr(error.val.other)));
  }
}

const char *file_text(const char *path, failure_t *failure) {
  string_t name = str(path);
  bytes_t bytes = {0};
  files_file_error_t error;
  if (!files_read(&name, &bytes, &error)) {
    *failure = file_failure(path, error);
    return NULL;
  }
  return bytes.len ? (const char *)bytes.ptr : "";
}

/* Preloaded into a host. Sets its wall clock ahead, or behind, by the number of ms in a file; steady clocks stay right. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *ahead_ms;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("WALL_CLOCK_AHEAD_MS");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0)
    return;
  void *page = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (page != MAP_FAILED)
    ahead_ms = page;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int failed = (int)syscall(SYS_clock_gettime, clock, now);
  if (!failed && clock == CLOCK_REALTIME && ahead_ms) {
    int64_t ms = *ahead_ms;
    now->tv_sec += ms / 1000;
    now->tv_nsec += ms % 1000 * 1000000;
    if (now->tv_nsec < 0) {
      now->tv_sec -= 1;
      now->tv_nsec += 1000000000;
    } else if (now->tv_nsec >= 1000000000) {
      now->tv_sec += 1;
      now->tv_nsec -= 1000000000;
    }
  }
  return failed;
}

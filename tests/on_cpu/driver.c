/* The functions of NVIDIA's driver that reid calls, over this machine's memory: one "GPU" of compute capability 8.6,
 * or as CAPABILITY_OF_C says.
 * As the real one, what is queued waits in its stream until it is waited for, as late as it may; and an address of the
 * GPU is none of the host: it is off by SHIFT, so that a mix-up crashes. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHIFT (1ull << 62)
#define STREAMS 64
#define WAITING 1024

typedef struct Event { struct Stream *stream; long place; } Event;
/* A copy; or, where `to` is NULL, a wait for a place in another stream. */
typedef struct { void *to; const void *from; size_t bytes; Event until; } Work;
typedef struct Stream { Work work[WAITING]; long done, queued; } Stream;
static Stream streams[STREAMS];
static int opened = 0, current = 0;

int cuInit(unsigned flags) { return flags != 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "a GPU of C", length); return device; }
int cuDeviceGetAttribute(int *value, int which, int device) {
  const char *capability = getenv("CAPABILITY_OF_C");
  int major = 8, minor = 6;
  if (capability) sscanf(capability, "%d.%d", &major, &minor);
  *value = which == 75 ? major : which == 76 ? minor : -1;
  return device;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &current; return device; }
int cuCtxSetCurrent(void *context) { current = context == &current; return 0; }
int cuGetErrorName(int code, const char **name) {
  *name = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_UNKNOWN";
  return 0;
}

int cuStreamCreate(void **stream, unsigned flags) {
  if (!current || flags != 1) return 1;
  Stream *made = &streams[opened++ % STREAMS];
  made->done = made->queued = 0;
  *stream = made;
  return 0;
}
static int known(void *stream) { return (Stream *)stream >= streams && (Stream *)stream < streams + STREAMS; }
int cuStreamDestroy_v2(void *stream) { return !known(stream); }

static void run_until(Event event) {
  Stream *stream = event.stream;
  while (stream && stream->done < event.place) {
    Work work = stream->work[stream->done++ % WAITING];
    if (work.to) memcpy(work.to, work.from, work.bytes);
    else run_until(work.until);
  }
}

int cuStreamSynchronize(void *stream) {
  if (!known(stream)) return 1;
  run_until((Event){stream, ((Stream *)stream)->queued});
  return 0;
}

static int queue_work(Work work, Stream *stream) {
  if (!known(stream) || stream->queued - stream->done == WAITING) return 1;
  stream->work[stream->queued++ % WAITING] = work;
  return 0;
}
static int queue(void *to, const void *from, size_t bytes, void *stream) {
  return queue_work((Work){to, from, bytes, {0}}, stream);
}

int cuEventCreate(void **event, unsigned flags) { *event = calloc(1, sizeof(Event)); return !(current && flags == 2); }
int cuEventDestroy_v2(void *event) { free(event); return 0; }
int cuEventRecord(Event *event, Stream *stream) { *event = (Event){stream, stream->queued}; return !known(stream); }
int cuEventSynchronize(Event *event) { run_until(*event); return 0; }
int cuStreamWaitEvent(void *stream, Event *event, unsigned flags) {
  return flags || queue_work((Work){NULL, NULL, 0, *event}, stream);
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
  return queue((void *)(to - SHIFT), from, bytes, stream);
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
  return queue(to, (const void *)(from - SHIFT), bytes, stream);
}

int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
  void *memory = bytes > (1ull << 40) ? NULL : malloc(bytes);
  *address = (uint64_t)memory + SHIFT;
  return memory ? 0 : 2;
}
int cuMemFree_v2(uint64_t address) { free((void *)(address - SHIFT)); return 0; }
int cuMemAllocHost_v2(void **address, size_t bytes) { *address = malloc(bytes); return *address ? 0 : 2; }
int cuMemFreeHost(void *address) { free(address); return 0; }

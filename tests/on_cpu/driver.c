/* The functions of NVIDIA's driver that reid calls, over this machine's memory: one "GPU" of compute capability 8.6,
 * or as CAPABILITY_OF_C says.
 * As the real one, copies wait in their stream until it is waited for; and an address of the GPU is none of the host:
 * it is off by SHIFT, so that a mix-up crashes. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHIFT (1ull << 62)
#define WAITING 64

typedef struct { void *to; const void *from; size_t bytes; } Copy;
static Copy waiting[WAITING];
static int copies = 0, current = 0;

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

int cuStreamCreate(void **stream, unsigned flags) { *stream = waiting; return !(current && flags == 1); }
int cuStreamDestroy_v2(void *stream) { return stream != waiting; }

int cuStreamSynchronize(void *stream) {
  for (int n = 0; n < copies; n++) memcpy(waiting[n].to, waiting[n].from, waiting[n].bytes);
  copies = 0;
  return stream != waiting;
}

static int queue(void *to, const void *from, size_t bytes, void *stream) {
  if (stream != waiting || copies == WAITING) return 1;
  waiting[copies++] = (Copy){to, from, bytes};
  return 0;
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

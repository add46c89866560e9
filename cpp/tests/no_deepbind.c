/* dlopen without RTLD_DEEPBIND, which OpenVINO's thread pool asks for and sanitizers refuse. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

__attribute__((visibility("default"))) void* dlopen(const char* path, int flags) {
  static void* (*next)(const char*, int);
  if (next == NULL) *(void**)&next = dlsym(RTLD_NEXT, "dlopen");
  return next(path, flags & ~RTLD_DEEPBIND);
}

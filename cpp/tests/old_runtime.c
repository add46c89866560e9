/* A library that answers as an ONNX Runtime of long ago, for tests. */
#include <stddef.h>
#include <stdint.h>

struct base {
  const void* (*get_api)(uint32_t version);
  const char* (*get_version)(void);
};

static const void* no_api(uint32_t version) {
  (void)version;
  return NULL;
}

static const char* version(void) {
  return "1.17.3";
}

const struct base* OrtGetApiBase(void);
const struct base* OrtGetApiBase(void) {
  static const struct base base = {no_api, version};
  return &base;
}

/* A plugin of ONNX Runtime that says it runs on the first device that there is, and then makes no
 * provider: how far a real one comes is for machines with a card. The structs are as much of ONNX
 * Runtime's plugin interface (its documentation, "Plugin Execution Provider Libraries") as is used.
 * With AUTOSAM_FAKE=refuses it makes no factory. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { VERSION = 23, CREATE_STATUS = 0, GET_EP_API = 317, CREATE_EP_DEVICE = 0, FAIL = 1 };

struct base {
  void* const* (*get_api)(uint32_t version);
  const char* (*get_version)(void);
};
typedef void* (*create_status)(int code, const char* text);
typedef void* const* (*get_ep_api)(void);
typedef void* (*create_ep_device)(void* factory, const void* hardware, const void* metadata,
                                  const void* options, void** device);

/* Members that are not set are those that ONNX Runtime may leave out. */
struct factory {
  uint32_t version;
  const char* (*name)(const struct factory*);
  const char* (*vendor)(const struct factory*);
  void* (*devices)(struct factory*, const void* const*, size_t, void**, size_t, size_t*);
  void* (*create)(struct factory*, const void* const*, const void* const*, size_t, const void*,
                  const void*, void**);
  void (*release)(struct factory*, void*);
  uint32_t (*vendor_id)(const struct factory*);
  const char* (*library_version)(const struct factory*);
  void* (*validate)(void);
  void* (*allocator)(struct factory*, const void*, const void*, void**);
  void (*release_allocator)(struct factory*, void*);
  void* (*transfer)(struct factory*, void**);
  _Bool (*streams)(const struct factory*);
  void* (*stream)(void);
};

static void* const* api;

static void* status(const char* text) {
  return ((create_status)api[CREATE_STATUS])(FAIL, text);
}

static const char* name(const struct factory* self) {
  (void)self;
  return "NvTensorRTRTXExecutionProvider";
}
static const char* vendor(const struct factory* self) {
  (void)self;
  return "tests";
}
static const char* library_version(const struct factory* self) {
  (void)self;
  return "0.0.1";
}
static uint32_t vendor_id(const struct factory* self) {
  (void)self;
  return 0;
}
static void* devices(struct factory* self, const void* const* hardware, size_t count, void** found,
                     size_t most, size_t* number) {
  *number = 0;
  if (count == 0 || most == 0) return NULL;
  void* const* ep_api = ((get_ep_api)api[GET_EP_API])();
  void* error = ((create_ep_device)ep_api[CREATE_EP_DEVICE])(self, hardware[0], NULL, NULL, found);
  if (error == NULL) *number = 1;
  return error;
}
static void* create(struct factory* self, const void* const* hardware, const void* const* metadata,
                    size_t count, const void* options, const void* logger, void** provider) {
  (void)self;
  (void)hardware;
  (void)metadata;
  (void)count;
  (void)options;
  (void)logger;
  *provider = NULL;
  return status("the fake makes no provider");
}
static void release(struct factory* self, void* provider) {
  (void)self;
  (void)provider;
}
static void* allocator(struct factory* self, const void* memory, const void* options, void** made) {
  (void)self;
  (void)memory;
  (void)options;
  *made = NULL;
  return NULL;
}
static void release_allocator(struct factory* self, void* made) {
  (void)self;
  (void)made;
}
static void* transfer(struct factory* self, void** made) {
  (void)self;
  *made = NULL;
  return NULL;
}
static _Bool streams(const struct factory* self) {
  (void)self;
  return 0;
}

__attribute__((visibility("default"))) void* CreateEpFactories(const char* registered,
                                                               const struct base* base,
                                                               const void* logger,
                                                               struct factory** factories,
                                                               size_t most, size_t* number);
void* CreateEpFactories(const char* registered, const struct base* base, const void* logger,
                        struct factory** factories, size_t most, size_t* number) {
  (void)registered;
  (void)logger;
  static struct factory one = {VERSION,           name,      vendor,          devices, create,
                               release,           vendor_id, library_version, NULL,    allocator,
                               release_allocator, transfer,  streams,         NULL};
  api = base->get_api(VERSION);
  const char* wrong = getenv("AUTOSAM_FAKE");
  if (wrong != NULL && strcmp(wrong, "refuses") == 0) return status("the fake makes no factory");
  if (most == 0) return status("no room for a factory");
  factories[0] = &one;
  *number = 1;
  return NULL;
}

__attribute__((visibility("default"))) void* ReleaseEpFactory(struct factory* given);
void* ReleaseEpFactory(struct factory* given) {
  (void)given;
  return NULL;
}

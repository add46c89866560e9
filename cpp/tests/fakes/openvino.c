/* A library with those of OpenVINO's C functions that libautosam calls, for tests of what a real
 * one cannot be made to do. It gives the labels of threshold.autosam; the environment variable
 * AUTOSAM_FAKE names what is wrong with it:
 *
 *   old         release 2024.6            no-cpu      a core without devices
 *   nameless    no version                no-start    no core
 *   unread      the graph is refused      bf16        the precision is not taken
 *   classes     another output shape      mixed       logits of another element type
 *   full        more than one slice: memory runs out, with words; that model fails ever after
 *   silent      the same, without an error and with empty outputs
 *   bytes       outputs of another size   failing     runs fail
 */
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { FLOAT32 = 41, UINT8 = 42, INT32 = 43, GENERAL_ERROR = -1 }; /* numbers of no release */

typedef struct {
  const char* build;
  const char* description;
} version;
typedef struct {
  int64_t least, most;
} dimension;
typedef struct {
  dimension rank;
  dimension* sizes;
} partial_shape;
typedef struct {
  int64_t rank;
  int64_t* sizes;
} shape;
typedef struct {
  int full;
} compiled;
typedef struct {
  int output;
} port;
typedef struct {
  int32_t type;
  int64_t sizes[4];
  size_t bytes;
  void* data;
  int owned;
} tensor;
typedef struct {
  compiled* model;
  tensor input;
  int empty;
} request;

static const char* error_text = "";
static int live; /* objects that were made and not freed */

static int wrong(const char* word) {
  const char* given = getenv("AUTOSAM_FAKE");
  return given != NULL && strcmp(given, word) == 0;
}

static int fail(const char* text) {
  error_text = text;
  return GENERAL_ERROR;
}

static void* make(size_t bytes) {
  ++live;
  return calloc(1, bytes);
}

static char* copy(const char* text) {
  char* made = make(strlen(text) + 1);
  if (made != NULL) memcpy(made, text, strlen(text));
  return made;
}

static void drop(void* object) {
  if (object == NULL) return;
  --live;
  free(object);
}

#define API __attribute__((visibility("default")))
#define DECLARE(result, name, ...) \
  API result name(__VA_ARGS__);    \
  API result name(__VA_ARGS__)

/* For tests alone: what the library under test has not given back. */
DECLARE(int, fake_live_objects, void) {
  return live;
}

DECLARE(int, ov_get_openvino_version, version* out) {
  if (wrong("nameless")) return fail("no version");
  out->build = copy(wrong("old") ? "2024.6.0-1-x" : "2099.1.0-7-abc-releases/2099/1");
  out->description = NULL;
  return 0;
}
DECLARE(void, ov_version_free, version* given) {
  drop((void*)(uintptr_t)given->build);
}
DECLARE(const char*, ov_get_last_err_msg, void) {
  return copy(error_text);
}
DECLARE(void, ov_free, const char* text) {
  drop((void*)(uintptr_t)text);
}
DECLARE(int, ov_core_create, void** core) {
  static int one;
  *core = &one;
  return wrong("no-start") ? fail("no plugins.xml") : 0;
}
DECLARE(int, ov_core_get_property, const void* core, const char* device, const char* key,
        char** out) {
  (void)core;
  if (wrong("no-cpu") || strcmp(device, "CPU") != 0)
    return fail("Exception from a.cpp:1:\nno CPU\n");
  *out = copy(strcmp(key, "FULL_DEVICE_NAME") == 0 ? "Fake CPU" : "FP32 BIN");
  return 0;
}
DECLARE(int, ov_core_read_model, const void* core, const char* path, const char* weights,
        void** out) {
  (void)core;
  (void)path;
  (void)weights;
  if (wrong("unread")) return fail("Exception from a.cpp:1:\nnot today\n");
  *out = make(1);
  return 0;
}
DECLARE(void, ov_model_free, void* model) {
  drop(model);
}
DECLARE(int, ov_core_compile_model, const void* core, const void* model, const char* device,
        size_t count, compiled** out, ...) {
  (void)core;
  (void)model;
  int pinned = 0;
  va_list texts;
  va_start(texts, out);
  for (size_t i = 0; i + 1 < count; i += 2) {
    const char* key = va_arg(texts, const char*);
    const char* value = va_arg(texts, const char*);
    pinned |= strcmp(key, "INFERENCE_PRECISION_HINT") == 0 && strcmp(value, "f32") == 0;
  }
  va_end(texts);
  if (!pinned || strcmp(device, "CPU") != 0) return fail("the test wants f32 on the CPU");
  *out = make(sizeof(compiled));
  return 0;
}
DECLARE(void, ov_compiled_model_free, compiled* model) {
  drop(model);
}
DECLARE(int, ov_compiled_model_get_property, const compiled* model, const char* key, char** out) {
  (void)model;
  const int precision = strcmp(key, "INFERENCE_PRECISION_HINT") == 0;
  const int threads = strcmp(key, "INFERENCE_NUM_THREADS") == 0;
  *out = copy(precision ? (wrong("bf16") ? "bf16" : "f32") : threads ? "3" : "CPU");
  return 0;
}
DECLARE(int, ov_compiled_model_inputs_size, const compiled* model, size_t* out) {
  (void)model;
  *out = 1;
  return 0;
}
DECLARE(int, ov_compiled_model_outputs_size, const compiled* model, size_t* out) {
  (void)model;
  *out = 2;
  return 0;
}
static int make_port(int output, port** out) {
  *out = make(sizeof(port));
  (*out)->output = output;
  return 0;
}
DECLARE(int, ov_compiled_model_input_by_index, const compiled* model, size_t index, port** out) {
  (void)model;
  return make_port((int)index, out);
}
DECLARE(int, ov_compiled_model_output_by_index, const compiled* model, size_t index, port** out) {
  (void)model;
  return make_port(1 + (int)index, out);
}
DECLARE(void, ov_output_const_port_free, port* given) {
  drop(given);
}
DECLARE(int, ov_port_get_element_type, const port* given, int32_t* out) {
  *out = given->output == 1 ? UINT8 : given->output == 2 && wrong("mixed") ? INT32 : FLOAT32;
  return 0;
}
DECLARE(int, ov_port_get_any_name, const port* given, char** out) {
  static const char* const names[] = {"slices", "labels", "logits"};
  *out = copy(names[given->output]);
  return 0;
}
DECLARE(int, ov_port_get_partial_shape, const port* given, partial_shape* out) {
  const int64_t rank = given->output == 1 ? 3 : 4;
  out->rank.least = out->rank.most = rank;
  out->sizes = make((size_t)rank * sizeof(dimension));
  for (int64_t axis = 0; axis < rank; ++axis) out->sizes[axis].most = -1;
  if (given->output == 0) out->sizes[1].least = out->sizes[1].most = 1;
  if (given->output == 2) out->sizes[1].least = out->sizes[1].most = wrong("classes") ? 2 : 3;
  return 0;
}
DECLARE(void, ov_partial_shape_free, partial_shape* given) {
  drop(given->sizes);
}
DECLARE(int, ov_compiled_model_create_infer_request, compiled* model, request** out) {
  *out = make(sizeof(request));
  (*out)->model = model;
  return 0;
}
DECLARE(void, ov_infer_request_free, request* given) {
  drop(given);
}
DECLARE(int, ov_infer_request_set_tensor, request* given, const char* name, const tensor* value) {
  if (strcmp(name, "slices") != 0) return fail("no such tensor");
  given->input = *value;
  return 0;
}
DECLARE(int, ov_infer_request_start_async, request* given) {
  const int full = given->input.sizes[0] > 1 && (wrong("full") || wrong("silent"));
  if (full) given->model->full = 1;
  given->empty = given->model->full && wrong("silent");
  if (given->model->full && !given->empty) return fail("Exception from b.cpp:2:\nbad allocation\n");
  return 0;
}
DECLARE(int, ov_infer_request_wait, request* given) {
  (void)given;
  return wrong("failing") ? fail("a layer failed") : 0;
}
DECLARE(int, ov_infer_request_cancel, request* given) {
  (void)given;
  return 0;
}

static size_t size_of(int32_t type) {
  return type == UINT8 ? 1 : 4;
}
static tensor* make_tensor(int32_t type, shape sizes, void* data) {
  tensor* made = make(sizeof *made);
  made->type = type;
  made->bytes = size_of(type);
  for (int64_t axis = 0; axis < sizes.rank; ++axis) {
    made->sizes[axis] = sizes.sizes[axis];
    made->bytes *= (size_t)sizes.sizes[axis];
  }
  made->owned = data == NULL;
  made->data = data == NULL ? make(made->bytes + 1) : data;
  return made;
}
DECLARE(int, ov_tensor_create, int32_t type, shape sizes, tensor** out) {
  *out = make_tensor(type, sizes, NULL);
  return 0;
}
DECLARE(int, ov_tensor_create_from_host_ptr, int32_t type, shape sizes, void* data, tensor** out) {
  *out = make_tensor(type, sizes, data);
  return 0;
}
DECLARE(int, ov_tensor_get_byte_size, const tensor* given, size_t* out) {
  *out = given->bytes + (given->sizes[0] > 0 && given->owned && wrong("bytes") && given->bytes > 4);
  return 0;
}
DECLARE(int, ov_tensor_data, const tensor* given, void** out) {
  *out = given->data;
  return 0;
}
DECLARE(void, ov_tensor_free, tensor* given) {
  if (given != NULL && given->owned) drop(given->data);
  drop(given);
}
DECLARE(int, ov_infer_request_get_tensor, const request* given, const char* name, tensor** out) {
  const float* x = given->input.data;
  const int64_t batch = given->empty ? 0 : given->input.sizes[0];
  const int64_t pixels = given->input.sizes[2] * given->input.sizes[3];
  const int labels = strcmp(name, "labels") == 0;
  int64_t sizes[4] = {batch, labels ? 1 : 3, given->input.sizes[2], given->input.sizes[3]};
  *out = make_tensor(labels ? UINT8 : FLOAT32, (shape){4, sizes}, NULL);
  for (int64_t i = 0; i < batch * pixels; ++i) {
    const float logits[3] = {100 - x[i], x[i], 2 * x[i] - 300};
    if (labels) {
      ((uint8_t*)(*out)->data)[i] = x[i] <= 50 ? 0 : x[i] <= 300 ? 1 : 2;
    } else {
      for (int64_t k = 0; k < 3; ++k) {
        ((float*)(*out)->data)[((i / pixels) * 3 + k) * pixels + i % pixels] = logits[k];
      }
    }
  }
  return 0;
}

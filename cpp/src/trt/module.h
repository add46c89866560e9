/* Between libautosam and libautosam_trt.so, which alone is compiled with NVIDIA's headers: plain
 * structs and functions, so that compilers need not match. A module belongs to one major version of
 * one family. No function throws; what the library said is in `errors`. The device is current. */
#ifndef AUTOSAM_TRT_MODULE_H_
#define AUTOSAM_TRT_MODULE_H_

/* NOLINTBEGIN(modernize-*): this file is C as well. */
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised with every change of this file. */
#define AUTOSAM_TRT_MODULE_ABI 1

enum { AUTOSAM_TRT_MOST_AXES = 8 };

typedef struct autosam_trt_engine autosam_trt_engine;
typedef struct autosam_trt_context autosam_trt_context;

/* A tensor of an engine; names live as long as it. Shapes hold -1 for sizes that vary. */
typedef struct autosam_trt_tensor {
  const char* name;
  const char* dtype; /* "float32", "float16", "uint8", else TensorRT's number; static text */
  int32_t is_output;
  int32_t rank;
  int64_t shape[AUTOSAM_TRT_MOST_AXES];
  int64_t profile[3][AUTOSAM_TRT_MOST_AXES]; /* of inputs: smallest, best, largest of profile 0 */
} autosam_trt_tensor;

/* Functions that return int32_t return 1 on success and 0 on failure. */
typedef struct autosam_trt_module {
  uint32_t abi;       /* AUTOSAM_TRT_MODULE_ABI */
  int32_t major;      /* of the headers that it was compiled with */
  const char* family; /* "tensorrt" or "tensorrt_rtx" */

  /* Take NVIDIA's library, once opened by the caller. 0: it is no such library. */
  int32_t (*attach)(void* library);
  /* Its version: major, minor, patch, build. */
  void (*version)(int32_t parts[4]);
  /* Lines of its log so far. */
  uint64_t (*mark)(void);
  /* What went wrong since a mark, as text of one or more lines joined by "; ", cut to size. */
  void (*errors)(uint64_t since, char* text, size_t size);

  /* Deserialize a plan; NULL on failure. */
  autosam_trt_engine* (*load)(const void* plan, size_t bytes);
  void (*unload)(autosam_trt_engine* engine);
  int32_t (*tensors)(const autosam_trt_engine* engine);
  int32_t (*tensor)(const autosam_trt_engine* engine, int32_t index, autosam_trt_tensor* out);
  int32_t (*profiles)(const autosam_trt_engine* engine);

  /* A context whose activations the caller gives memory for; NULL on failure. */
  autosam_trt_context* (*create)(autosam_trt_engine* engine);
  void (*destroy)(autosam_trt_context* context);
  /* Set the input's sizes; all others follow from them. */
  int32_t (*resize)(autosam_trt_context* context, const char* input, const int64_t* shape,
                    int32_t rank);
  /* A tensor's rank and sizes now, or -1. */
  int32_t (*shape)(const autosam_trt_context* context, const char* name,
                   int64_t shape[AUTOSAM_TRT_MOST_AXES]);
  /* Bytes of activations that the sizes need; memory for them, which stays the caller's. */
  uint64_t (*activations)(autosam_trt_context* context);
  void (*give)(autosam_trt_context* context, void* memory, uint64_t bytes);
  int32_t (*bind)(autosam_trt_context* context, const char* name, void* address);
  int32_t (*enqueue)(autosam_trt_context* context, void* stream);
} autosam_trt_module;

/* The only function that the module exports; static memory. */
__attribute__((visibility("default"))) const autosam_trt_module* autosam_trt_module_get(void);

#ifdef __cplusplus
} /* extern "C" */
#endif
/* NOLINTEND(modernize-*) */
#endif /* AUTOSAM_TRT_MODULE_H_ */

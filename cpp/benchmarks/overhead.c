/* What libautosam adds to ONNX Runtime, in microseconds a call, and what a host process costs.
 *
 *     overhead BUNDLE LIBONNXRUNTIME [GRAPH [SIDE [REPEATS]]]
 *
 * The same slice, graph, library and one thread, by turns: ONNX Runtime's C interface called
 * directly (values made once, or for each call), then autosam_run. Take a graph that computes next
 * to nothing (cpp/tests/data/threshold.autosam), or the noise of the model hides the difference.
 * Prints one JSON object: medians and quartiles, time from nothing to the first label, peak memory.
 */
#define _POSIX_C_SOURCE 200809L
#include <autosam.h>
#include <dlfcn.h>
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static double now_us(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return 1e6 * (double)time.tv_sec + 1e-3 * (double)time.tv_nsec;
}

static void stop(const char* what, const char* why) {
  fprintf(stderr, "overhead: %s: %s\n", what, why);
  exit(2);
}

/* ---- ONNX Runtime, called directly ---------------------------------------------------------- */

typedef struct {
  const OrtApi* api;
  OrtSession* session;
  OrtMemoryInfo* host;
} direct_t;

static void check(const direct_t* direct, OrtStatus* status) {
  if (status != NULL) stop("ONNX Runtime", direct->api->GetErrorMessage(status));
}

static direct_t open_direct(const char* library, const char* graph) {
  direct_t direct = {NULL, NULL, NULL};
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (handle == NULL) stop("dlopen", dlerror());
  const OrtApiBase* (*get_base)(void) = NULL;
  *(void**)&get_base = dlsym(handle, "OrtGetApiBase");
  if (get_base == NULL) stop("dlsym", "no OrtGetApiBase");
  direct.api = get_base()->GetApi(20);
  if (direct.api == NULL) stop("ONNX Runtime", "older than 1.20");
  OrtEnv* env = NULL;
  OrtSessionOptions* options = NULL;
  check(&direct, direct.api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "overhead", &env));
  check(&direct, direct.api->CreateSessionOptions(&options));
  check(&direct, direct.api->SetIntraOpNumThreads(options, 1));
  check(&direct, direct.api->SetInterOpNumThreads(options, 1));
  check(&direct, direct.api->DisableMemPattern(options));
  check(&direct, direct.api->CreateSession(env, graph, options, &direct.session));
  check(&direct,
        direct.api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &direct.host));
  direct.api->ReleaseSessionOptions(options);
  return direct;
}

static OrtValue* wrap(const direct_t* direct, void* data, size_t bytes, const int64_t* shape,
                      size_t axes, ONNXTensorElementDataType dtype) {
  OrtValue* value = NULL;
  check(direct, direct->api->CreateTensorWithDataAsOrtValue(direct->host, data, bytes, shape, axes,
                                                            dtype, &value));
  return value;
}

static void run_direct(const direct_t* direct, const OrtValue* in, OrtValue* out) {
  const char* input = "slices";
  const char* output = "labels";
  check(direct, direct->api->Run(direct->session, NULL, &input, &in, 1, &output, 1, &out));
}

/* ---- measuring ------------------------------------------------------------------------------ */

enum { DIRECT, DIRECT_VALUES, AUTOSAM, METHODS };

typedef struct {
  direct_t direct;
  autosam_session* session;
  float* slice;
  uint8_t* labels;
  int64_t side;
  OrtValue* in;
  OrtValue* out;
} bench_t;

static void wrap_both(bench_t* bench) {
  const int64_t shape[4] = {1, 1, bench->side, bench->side};
  const size_t pixels = (size_t)(bench->side * bench->side);
  bench->in = wrap(&bench->direct, bench->slice, pixels * sizeof(float), shape, 4,
                   ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
  bench->out = wrap(&bench->direct, bench->labels, pixels, shape + 1, 3,
                    ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
}

static void release_both(bench_t* bench) {
  bench->direct.api->ReleaseValue(bench->in);
  bench->direct.api->ReleaseValue(bench->out);
}

static void run_autosam(bench_t* bench) {
  autosam_tensor in;
  memset(&in, 0, sizeof in);
  in.data = bench->slice;
  in.dtype = AUTOSAM_FLOAT32;
  in.ndim = 3;
  in.shape[0] = 1;
  in.shape[1] = in.shape[2] = bench->side;
  autosam_tensor out = in;
  out.data = bench->labels;
  out.dtype = AUTOSAM_UINT8;
  if (autosam_run(bench->session, &in, &out, NULL, NULL) != AUTOSAM_OK) {
    stop("autosam_run", autosam_last_error());
  }
}

static double time_one(bench_t* bench, int method) {
  const double begin = now_us();
  if (method == DIRECT) {
    run_direct(&bench->direct, bench->in, bench->out);
  } else if (method == DIRECT_VALUES) {
    OrtValue* const in = bench->in;
    OrtValue* const out = bench->out;
    wrap_both(bench);
    run_direct(&bench->direct, bench->in, bench->out);
    release_both(bench);
    bench->in = in;
    bench->out = out;
  } else {
    run_autosam(bench);
  }
  return now_us() - begin;
}

static int by_size(const void* a, const void* b) {
  const double first = *(const double*)a;
  const double second = *(const double*)b;
  return (first > second) - (first < second);
}

static void print_method(const char* name, double* times, size_t count) {
  qsort(times, count, sizeof *times, by_size);
  printf("  \"%s\": {\"median_us\": %.2f, \"p25_us\": %.2f, \"p75_us\": %.2f},\n", name,
         times[count / 2], times[count / 4], times[3 * count / 4]);
}

static void measure(bench_t* bench, size_t repeats) {
  static const char* const names[METHODS] = {"onnxruntime", "onnxruntime_values_per_call",
                                             "autosam"};
  double* times[METHODS];
  for (int method = 0; method < METHODS; ++method) {
    times[method] = malloc(repeats * sizeof(double));
    if (times[method] == NULL) stop("malloc", "out of memory");
    for (int i = 0; i < 50; ++i) time_one(bench, method);
  }
  /* By turns, so that a change of clock or load meets all of them. */
  for (size_t i = 0; i < repeats; ++i) {
    for (int method = 0; method < METHODS; ++method) times[method][i] = time_one(bench, method);
  }
  for (int method = 0; method < METHODS; ++method) {
    print_method(names[method], times[method], repeats);
  }
  printf("  \"added_us\": %.2f\n}\n", times[AUTOSAM][repeats / 2] - times[DIRECT][repeats / 2]);
  for (int method = 0; method < METHODS; ++method) free(times[method]);
}

int main(int argc, char** argv) {
  if (argc < 3 || argc > 6) stop("usage", "BUNDLE LIBONNXRUNTIME [GRAPH [SIDE [REPEATS]]]");
  const char* graph = argc > 3 ? argv[3] : "model.fp32.onnx";
  const int side = argc > 4 ? atoi(argv[4]) : 64;
  const int repeats = argc > 5 ? atoi(argv[5]) : 2000;
  if (side < 1 || side > 4096 || repeats < 1) stop("usage", "SIDE is 1 to 4096, REPEATS 1 or more");
  const size_t pixels = (size_t)side * (size_t)side;

  bench_t bench;
  memset(&bench, 0, sizeof bench);
  bench.side = side;
  bench.slice = malloc(pixels * sizeof(float));
  bench.labels = malloc(pixels);
  if (bench.slice == NULL || bench.labels == NULL) stop("malloc", "out of memory");
  for (size_t i = 0; i < pixels; ++i) bench.slice[i] = (float)(i % 400);

  /* libautosam first: its cold start includes loading ONNX Runtime. */
  autosam_options options;
  autosam_options_init(&options);
  options.device = "cpu";
  options.threads = 1;
  options.runtime_library = argv[2];
  const double begin = now_us();
  if (autosam_session_create(argv[1], &options, &bench.session) != AUTOSAM_OK) {
    stop("autosam_session_create", autosam_last_error());
  }
  const double opened = now_us();
  run_autosam(&bench);
  const double first = now_us();
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);

  char path[4096];
  snprintf(path, sizeof path, "%s/%s", argv[1], graph);
  bench.direct = open_direct(argv[2], path);
  wrap_both(&bench);
  printf("{\n  \"version\": \"%s\", \"onnxruntime\": \"%s\", \"side\": %d, \"repeats\": %d,\n",
         autosam_version(), argv[2], side, repeats);
  printf("  \"open_ms\": %.2f, \"first_label_ms\": %.2f, \"peak_mib_at_first_label\": %.1f,\n",
         1e-3 * (opened - begin), 1e-3 * (first - begin), (double)usage.ru_maxrss / 1024);
  measure(&bench, (size_t)repeats);
  release_both(&bench);
  autosam_session_destroy(bench.session);
  free(bench.labels);
  free(bench.slice);
  return 0;
}

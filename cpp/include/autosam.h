/* libautosam: labels for raw image slices from a bundle made by autosam-export.
 *
 * One session is one opened bundle on one device. Rules that hold for every function:
 *
 *   Ownership  The library owns sessions, tokens and the strings it returns; the caller owns all
 *              tensors. A tensor is a view and is never kept beyond the call.
 *   Errors     Functions that can fail return an autosam_status. AUTOSAM_OK is 0. After anything
 *              else autosam_last_error() is one line: what is wrong, what was got, what was
 *              expected, what to do. Results are written only on success, but where noted.
 *   Threads    Any function may be called from any thread. A session and a token may be used by
 *              many threads at once, and destroyed meanwhile.
 *   Quiet      Nothing is printed, no signal handler is set, no environment variable is changed,
 *              no exception leaves, the process is never ended.
 *   Structs    Set struct_size (the *_init functions do) and zero what you do not use: newer
 *              libraries add members at the end, and read only as many as you have.
 */
#ifndef AUTOSAM_H_
#define AUTOSAM_H_

/* NOLINTBEGIN(modernize-*): this file is C as well. */
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define AUTOSAM_API
#else
#define AUTOSAM_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
#define AUTOSAM_NOEXCEPT noexcept
extern "C" {
#else
#define AUTOSAM_NOEXCEPT
#endif

/* ---- versions ------------------------------------------------------------------------------- */

/* Raised when a program built against an older header could misbehave. */
#define AUTOSAM_ABI_VERSION 0

/* The library's version, as "0.1.0". Static text. */
AUTOSAM_API const char* autosam_version(void) AUTOSAM_NOEXCEPT;

/* AUTOSAM_ABI_VERSION of the library that is loaded; compare it with the header's. */
AUTOSAM_API uint32_t autosam_abi_version(void) AUTOSAM_NOEXCEPT;

/* ---- status --------------------------------------------------------------------------------- */

typedef enum autosam_status {
  AUTOSAM_OK = 0,
  AUTOSAM_INVALID_ARGUMENT = 1,    /* NULL, unknown word, wrong struct_size, shape, dtype, NaN */
  AUTOSAM_BUNDLE_NOT_FOUND = 2,    /* nothing there, or no bundle */
  AUTOSAM_BAD_BUNDLE = 3,          /* incomplete, altered, unsafe, or of another schema version */
  AUTOSAM_BACKEND_UNAVAILABLE = 4, /* the runtime's library is missing, too old or broken */
  AUTOSAM_DEVICE_UNAVAILABLE = 5,  /* the library is there, the device or its provider is not */
  AUTOSAM_OUT_OF_MEMORY = 6,
  AUTOSAM_CANCELLED = 7,
  AUTOSAM_SELFTEST_FAILED = 8, /* golden slices gave other labels than at export */
  AUTOSAM_RUNTIME_ERROR = 9,   /* the runtime refused the graph or failed while it ran */
  AUTOSAM_UNSUPPORTED = 10,    /* sound, but not with this backend: a precision, memory, a stream */
  AUTOSAM_INTERNAL = 99        /* a defect of this library */
} autosam_status;

/* "AUTOSAM_OK" and so on; "unknown status" for any other number. Static text. */
AUTOSAM_API const char* autosam_status_name(int32_t status) AUTOSAM_NOEXCEPT;

/* Why this thread's last failing call failed; "" before the first. Owned by the library, valid
 * until this thread's next failing call; never NULL. */
AUTOSAM_API const char* autosam_last_error(void) AUTOSAM_NOEXCEPT;

/* ---- opening -------------------------------------------------------------------------------- */

/* One opened bundle on one device. */
typedef struct autosam_session autosam_session;

typedef enum autosam_log_level { AUTOSAM_LOG_INFO = 1, AUTOSAM_LOG_WARNING = 2 } autosam_log_level;

/* Receives one line without a line end, on the thread that called the library. It must not throw
 * and must not call functions of the same session. */
typedef void (*autosam_log_function)(int32_t level, const char* text, void* user);

typedef struct autosam_options {
  size_t struct_size;
  /* "auto", "onnxruntime", "openvino" or "tensorrt"; "auto" is the first. NULL means "auto", as for
   * all words below. */
  const char* backend;
  /* "auto", "cpu", "cuda" or "cuda:N". What is not there is an error; "auto" takes a usable GPU,
   * else the CPU, and says why in autosam_info.reason. */
  const char* device;
  /* "auto", "fp32", "fp16" or "bf16". "auto" takes fp32 on CPUs; on GPUs fp16 if the bundle has
   * it, else fp32. */
  const char* precision;
  /* ONNX Runtime's execution provider: "auto", "cpu", "cuda", "tensorrt" or "rtx". */
  const char* provider;
  /* The runtime's library, or the folder that holds it; NULL looks at AUTOSAM_ONNXRUNTIME_LIB,
   * AUTOSAM_OPENVINO_LIB or AUTOSAM_TENSORRT_LIB, beside libautosam, then where the system's loader
   * looks. */
  const char* runtime_library;
  /* CPU threads of one run; 0 means every core that this process may use. */
  int32_t threads;
  /* 0 skips the hashes of the bundle's files; presence and size are checked nevertheless. */
  int32_t verify;
  autosam_log_function log; /* may be NULL */
  void* log_user;
  /* The library of provider "rtx", or the folder that holds it; NULL looks at
   * AUTOSAM_RTX_PROVIDER_LIB, beside libautosam, then beside ONNX Runtime. */
  const char* provider_library;
} autosam_options;

/* Set struct_size and the defaults: everything "auto", verify 1. NULL is ignored. */
AUTOSAM_API void autosam_options_init(autosam_options* options) AUTOSAM_NOEXCEPT;

/* Open a bundle.
 *
 * path: the NAME.autosam folder, UTF-8. options: NULL for defaults; not kept.
 * session: receives the session, NULL on failure. Destroy it with autosam_session_destroy.
 *
 * INVALID_ARGUMENT, BUNDLE_NOT_FOUND, BAD_BUNDLE, BACKEND_UNAVAILABLE, DEVICE_UNAVAILABLE,
 * OUT_OF_MEMORY, RUNTIME_ERROR, UNSUPPORTED. */
AUTOSAM_API autosam_status autosam_session_create(const char* path, const autosam_options* options,
                                                  autosam_session** session) AUTOSAM_NOEXCEPT;

/* Close a session. Runs on other threads go on to their end; later calls with the handle are
 * refused, and strings of the session must not be used any more. NULL and handles that were
 * destroyed before are ignored. */
AUTOSAM_API void autosam_session_destroy(autosam_session* session) AUTOSAM_NOEXCEPT;

/* What is really in use, never what was merely asked for. Strings live as long as the session. */
typedef struct autosam_info {
  size_t struct_size;
  const char* name;            /* of the bundle */
  const char* intended_use;    /* what the bundle's maker says it is for */
  const char* backend;         /* "onnxruntime", "openvino", "tensorrt" */
  const char* device;          /* "cpu" or "cuda:N" */
  const char* provider;        /* "CPUExecutionProvider"; of OpenVINO "CPU"; "tensorrt_rtx" */
  const char* precision;       /* "fp32", "fp16", "bf16" */
  const char* artefact;        /* file inside the bundle */
  const char* reason;          /* why this device and precision */
  const char* runtime_version; /* "1.31.1" */
  const char* runtime_library; /* its file */
  const char* slice_axis;      /* axis that slices are meant to be taken along: auto, i, j or k */
  const char* manifest_sha256;
  int32_t trained;      /* 0: random weights, for measurements only */
  int32_t fell_back;    /* 1: device "auto" met a GPU that could not be used */
  int32_t threads;      /* CPU threads of one run */
  int32_t num_classes;  /* K, background included */
  int32_t has_logits;   /* 1: autosam_run can give logits */
  int32_t image_height; /* pixels that the encoder works on; slices may have any size */
  int32_t image_width;
  int64_t auto_batch;    /* slices per run where max_batch is 0 */
  int64_t largest_batch; /* what batches were halved to for want of memory; 0: never */
} autosam_info;

/* Fill info. Set info->struct_size first. INVALID_ARGUMENT. */
AUTOSAM_API autosam_status autosam_session_info(const autosam_session* session,
                                                autosam_info* info) AUTOSAM_NOEXCEPT;

/* Name and colour ("#rrggbb") of a label, 0 being background. Either pointer may be NULL. The
 * strings live as long as the session. INVALID_ARGUMENT: there is no such label. */
AUTOSAM_API autosam_status autosam_session_class(const autosam_session* session, int32_t label,
                                                 const char** name,
                                                 const char** colour) AUTOSAM_NOEXCEPT;

/* ---- running -------------------------------------------------------------------------------- */

typedef enum autosam_dtype {
  AUTOSAM_FLOAT32 = 1,
  AUTOSAM_UINT8 = 2,
  AUTOSAM_INT16 = 3,
  AUTOSAM_UINT16 = 4
} autosam_dtype;

typedef enum autosam_memory {
  AUTOSAM_HOST = 0,
  AUTOSAM_CUDA = 1 /* of a device; backend "tensorrt" alone */
} autosam_memory;

/* A view of the caller's memory. What is in CUDA memory is packed, and slices there are float32. */
typedef struct autosam_tensor {
  void* data;         /* aligned for its dtype */
  int32_t dtype;      /* autosam_dtype */
  int32_t memory;     /* autosam_memory */
  int32_t device_id;  /* of CUDA memory: the session's device; else 0 */
  int32_t ndim;       /* of shape: 3 or 4 */
  int64_t shape[4];   /* (B, H, W), (B, 1, H, W) or (B, K, H, W) */
  int64_t strides[4]; /* in elements; all 0 means packed, last axis fastest */
} autosam_tensor;

/* Stops runs from another thread. */
typedef struct autosam_token autosam_token;

/* Make a token. INVALID_ARGUMENT, OUT_OF_MEMORY. */
AUTOSAM_API autosam_status autosam_token_create(autosam_token** token) AUTOSAM_NOEXCEPT;
/* Stop every run that uses the token, now and later: it returns AUTOSAM_CANCELLED, in the middle
 * of a batch too. NULL is ignored. Not for signal handlers: it takes a lock. */
AUTOSAM_API void autosam_token_cancel(autosam_token* token) AUTOSAM_NOEXCEPT;
/* Let later runs go on. NULL is ignored. */
AUTOSAM_API void autosam_token_reset(autosam_token* token) AUTOSAM_NOEXCEPT;
/* Release a token; runs that use it can no longer be stopped by it. NULL is ignored. */
AUTOSAM_API void autosam_token_destroy(autosam_token* token) AUTOSAM_NOEXCEPT;

/* Called after every batch, on the thread that called autosam_run. Anything but 0 stops the run.
 * It must not throw. */
typedef int32_t (*autosam_progress_function)(int64_t slices_done, int64_t slices_in_all,
                                             void* user);

typedef struct autosam_run_options {
  size_t struct_size;
  /* Slices per run of the model. 0: sized by the encoder, halved when memory runs out (and said so
   * in the log and in autosam_info.largest_batch); -1: all at once. */
  int64_t max_batch;
  autosam_progress_function progress; /* may be NULL */
  void* progress_user;
  autosam_token* token; /* may be NULL */
  /* A cudaStream_t of the session's device to work in, for backend "tensorrt". NULL takes streams
   * of the library's own: what is in CUDA memory must then be complete before the call. CUDA's
   * default streams have handles too, cudaStreamLegacy and cudaStreamPerThread. */
  void* cuda_stream;
  /* 1: return once the work is in cuda_stream, which must be given, with every tensor in CUDA
   * memory; they must stay until the stream has passed. 0 waits. */
  int32_t asynchronous;
} autosam_run_options;

/* Set struct_size and the defaults. NULL is ignored. */
AUTOSAM_API void autosam_run_options_init(autosam_run_options* options) AUTOSAM_NOEXCEPT;

/* Label raw slices. Thread-safe on one session.
 *
 * slices: (B, 1, H, W) or (B, H, W), float32, uint8, int16 or uint16, any intensity scale, any
 *     strides (negative ones and slices across a volume too). No NaN, no infinity, which is looked
 *     at in host memory alone. Packed float32 is used in place; anything else is copied batch by
 *     batch. Each tensor may be in host or CUDA memory.
 * labels: (B, H, W) uint8, or NULL if only logits are wanted. Packed labels are written in place.
 * logits: (B, K, H, W) float32, or NULL.
 * options: NULL for defaults.
 *
 * On failure labels and logits may hold the batches that were finished before.
 *
 * INVALID_ARGUMENT, OUT_OF_MEMORY (not even one slice fits, or max_batch does not),
 * CANCELLED, RUNTIME_ERROR, UNSUPPORTED (CUDA memory or a stream that the backend cannot use). */
AUTOSAM_API autosam_status autosam_run(autosam_session* session, const autosam_tensor* slices,
                                       const autosam_tensor* labels, const autosam_tensor* logits,
                                       const autosam_run_options* options) AUTOSAM_NOEXCEPT;

/* Run once on zeros of that size and forget the result, so that the first real run of the size
 * finds its memory and kernels ready. As autosam_run. */
AUTOSAM_API autosam_status autosam_session_warmup(autosam_session* session, int64_t batch,
                                                  int64_t height, int64_t width) AUTOSAM_NOEXCEPT;

/* ---- self-test ------------------------------------------------------------------------------ */

typedef struct autosam_selftest {
  size_t struct_size;
  int32_t cases;               /* golden cases in the bundle */
  int32_t passed;              /* of them */
  double gate;                 /* largest logit difference that export allowed in this precision */
  double max_logit_difference; /* found; -1 for bundles without logits */
  double largest_wrong_margin; /* how sure the exporter was of labels that differ here; 0: none */
  double agreement;            /* smallest share (0..1) of equal labels */
} autosam_selftest;

/* Run the bundle's golden slices: does this machine give what the exporter saw?
 *
 * result: NULL, or with struct_size set; filled also for SELFTEST_FAILED.
 *
 * SELFTEST_FAILED, BAD_BUNDLE (golden files or parity record unreadable), and as autosam_run. */
AUTOSAM_API autosam_status autosam_session_selftest(autosam_session* session,
                                                    autosam_selftest* result) AUTOSAM_NOEXCEPT;

#ifdef __cplusplus
} /* extern "C" */
#endif
/* NOLINTEND(modernize-*) */
#endif /* AUTOSAM_H_ */

#include "driver.hpp"

#include <dlfcn.h>

#include <array>

#include "../error.hpp"
#include "../shared_library.hpp"

namespace autosam::core {

// As the driver's interface has them (CUDA's documentation, "CUDA Driver API"); device memory is a
// 64-bit number there.
struct CudaFunctions {
  int (*device_get)(int*, int);
  int (*device_attribute)(int*, int, int);
  int (*device_name)(char*, int, int);
  int (*context_retain)(void**, int);
  int (*context_release)(int);
  int (*context_push)(void*);
  int (*context_pop)(void**);
  int (*memory_allocate)(std::uint64_t*, std::size_t);
  int (*memory_free)(std::uint64_t);
  int (*pinned_allocate)(void**, std::size_t, unsigned);
  int (*pinned_free)(void*);
  int (*copy_to_device)(std::uint64_t, const void*, std::size_t, void*);
  int (*copy_to_host)(void*, std::uint64_t, std::size_t, void*);
  int (*stream_create)(void**, unsigned);
  int (*stream_destroy)(void*);
  int (*stream_synchronize)(void*);
  int (*event_create)(void**, unsigned);
  int (*event_destroy)(void*);
  int (*event_record)(void*, void*);
  int (*event_synchronize)(void*);
  int (*pointer_attribute)(void*, int, std::uint64_t);
  int (*error_name)(int, const char**);
};

namespace {

constexpr int kOutOfMemory = 2;
constexpr int kCapabilityMajor = 75;
constexpr int kCapabilityMinor = 76;
constexpr int kDeviceOrdinal = 9;
constexpr unsigned kNonBlocking = 1;    // of a stream: it does not wait for the default stream
constexpr unsigned kDisableTiming = 2;  // of an event

std::uint64_t number(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address);
}

template <class Function>
bool find(void* library, Function& function, const char* name) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

// NULL where the driver is missing, or older than these functions.
const CudaFunctions* load_driver() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) return nullptr;
  static CudaFunctions all{};
  const bool complete = find(library, all.device_get, "cuDeviceGet") &&
                        find(library, all.device_attribute, "cuDeviceGetAttribute") &&
                        find(library, all.device_name, "cuDeviceGetName") &&
                        find(library, all.context_retain, "cuDevicePrimaryCtxRetain") &&
                        find(library, all.context_release, "cuDevicePrimaryCtxRelease_v2") &&
                        find(library, all.context_push, "cuCtxPushCurrent_v2") &&
                        find(library, all.context_pop, "cuCtxPopCurrent_v2") &&
                        find(library, all.memory_allocate, "cuMemAlloc_v2") &&
                        find(library, all.memory_free, "cuMemFree_v2") &&
                        find(library, all.pinned_allocate, "cuMemHostAlloc") &&
                        find(library, all.pinned_free, "cuMemFreeHost") &&
                        find(library, all.copy_to_device, "cuMemcpyHtoDAsync_v2") &&
                        find(library, all.copy_to_host, "cuMemcpyDtoHAsync_v2") &&
                        find(library, all.stream_create, "cuStreamCreate") &&
                        find(library, all.stream_destroy, "cuStreamDestroy_v2") &&
                        find(library, all.stream_synchronize, "cuStreamSynchronize") &&
                        find(library, all.event_create, "cuEventCreate") &&
                        find(library, all.event_destroy, "cuEventDestroy_v2") &&
                        find(library, all.event_record, "cuEventRecord") &&
                        find(library, all.event_synchronize, "cuEventSynchronize") &&
                        find(library, all.pointer_attribute, "cuPointerGetAttribute") &&
                        find(library, all.error_name, "cuGetErrorName");
  return complete ? &all : nullptr;
}

}  // namespace

std::shared_ptr<const Cuda> Cuda::open(int index) {
  // Asked first: it starts the driver, and does no harm where there is none.
  const int devices = cuda_devices();
  if (index >= devices) {
    throw Error(AUTOSAM_DEVICE_UNAVAILABLE,
                Message("device 'cuda:" + std::to_string(index) + "' is not there")
                    .got(std::to_string(devices) + " usable CUDA devices")
                    .expected("at least " + std::to_string(index + 1) + ", with an NVIDIA driver")
                    .todo("check nvidia-smi, or use backend onnxruntime"));
  }
  static const CudaFunctions* const call = load_driver();
  if (call == nullptr) {
    throw Error(AUTOSAM_DEVICE_UNAVAILABLE, Message("the NVIDIA driver cannot be used")
                                                .got("a libcuda.so.1 without what is needed")
                                                .expected("a driver of CUDA 11 or later"));
  }
  return std::shared_ptr<const Cuda>(new Cuda(*call, index));
}

Cuda::Cuda(const CudaFunctions& call, int index) : call_(call), index_(index) {
  try {
    check(call_.device_get(&device_, index), "opening the device");
    int major = 0;
    int minor = 0;
    check(call_.device_attribute(&major, kCapabilityMajor, device_), "asking the device");
    check(call_.device_attribute(&minor, kCapabilityMinor, device_), "asking the device");
    sm_ = 10 * major + minor;
    std::array<char, 256> text{};
    check(call_.device_name(text.data(), static_cast<int>(text.size()) - 1, device_),
          "asking the device");
    name_ = text.data();
    check(call_.context_retain(&context_, device_), "starting the device");
  } catch (const Error& error) {
    if (error.status() == AUTOSAM_OUT_OF_MEMORY) throw;
    throw Error(AUTOSAM_DEVICE_UNAVAILABLE,
                Message("device 'cuda:" + std::to_string(index) + "' cannot be used")
                    .got(error.what())
                    .todo("check nvidia-smi"));
  }
}

Cuda::~Cuda() {
  static_cast<void>(call_.context_release(device_));
}

Cuda::Active::Active(const Cuda& cuda) : cuda_(cuda) {
  cuda.check(cuda.call_.context_push(cuda.context_), "making the device current");
}

Cuda::Active::~Active() {
  void* popped = nullptr;
  static_cast<void>(cuda_.call_.context_pop(&popped));
}

void Cuda::check(int code, const std::string& what) const {
  if (code == 0) return;
  const char* name = nullptr;
  if (call_.error_name(code, &name) != 0 || name == nullptr) name = "an unknown error";
  const std::string text = std::string(name) + " while " + what;
  if (code == kOutOfMemory) {
    throw Error(AUTOSAM_OUT_OF_MEMORY,
                Message("cuda:" + std::to_string(index_) + " has no memory left")
                    .got(text)
                    .todo("use a smaller max_batch"));
  }
  throw Error(AUTOSAM_RUNTIME_ERROR,
              Message("CUDA failed on cuda:" + std::to_string(index_)).got(text));
}

void* Cuda::create_stream() const {
  void* stream = nullptr;
  check(call_.stream_create(&stream, kNonBlocking), "making a stream");
  return stream;
}

void Cuda::destroy_stream(void* stream) const noexcept {
  static_cast<void>(call_.stream_destroy(stream));
}

void Cuda::synchronize(void* stream) const {
  check(call_.stream_synchronize(stream), "running the model");
}

void Cuda::settle(void* stream) const noexcept {
  static_cast<void>(call_.stream_synchronize(stream));
}

void* Cuda::create_event() const {
  void* event = nullptr;
  check(call_.event_create(&event, kDisableTiming), "making an event");
  return event;
}

void Cuda::destroy_event(void* event) const noexcept {
  static_cast<void>(call_.event_destroy(event));
}

void Cuda::record(void* event, void* stream) const {
  check(call_.event_record(event, stream), "marking the stream");
}

void Cuda::wait(void* event) const {
  check(call_.event_synchronize(event), "running the model");
}

void Cuda::to_device(void* target, const void* source, std::size_t bytes, void* stream) const {
  check(call_.copy_to_device(number(target), source, bytes, stream), "copying slices");
}

void Cuda::to_host(void* target, const void* source, std::size_t bytes, void* stream) const {
  check(call_.copy_to_host(target, number(source), bytes, stream), "copying results");
}

bool Cuda::owns(const void* address) const noexcept {
  int ordinal = -1;
  return call_.pointer_attribute(&ordinal, kDeviceOrdinal, number(address)) == 0 &&
         ordinal == device_;
}

void* Cuda::allocate(std::size_t bytes, bool pinned) const {
  const std::string count = std::to_string(bytes) + " bytes";
  if (pinned) {
    void* address = nullptr;
    check(call_.pinned_allocate(&address, bytes, 0), "page-locking " + count);
    return address;
  }
  std::uint64_t address = 0;
  check(call_.memory_allocate(&address, bytes), "allocating " + count);
  // NOLINTNEXTLINE(performance-no-int-to-ptr): the driver's addresses are numbers.
  return reinterpret_cast<void*>(static_cast<std::uintptr_t>(address));
}

void Cuda::free(void* address, bool pinned) const noexcept {
  static_cast<void>(pinned ? call_.pinned_free(address) : call_.memory_free(number(address)));
}

void CudaBlock::reserve(std::size_t bytes) {
  if (bytes <= bytes_) return;
  // Given back first: both at once is what a nearly full device cannot hold.
  free();
  address_ = cuda_.allocate(bytes, pinned_);
  bytes_ = bytes;
}

void CudaBlock::free() noexcept {
  if (address_ != nullptr) cuda_.free(address_, pinned_);
  address_ = nullptr;
  bytes_ = 0;
}

}  // namespace autosam::core

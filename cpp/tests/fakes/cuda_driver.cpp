// A CUDA driver whose devices are the host's memory, for tests without a GPU. Work in a stream is
// done when the stream or an event in it is waited for, and not before; calls without a current
// device fail; memory that is freed while work waits for it is counted. From the environment:
// AUTOSAM_FAKE_DEVICES (1), AUTOSAM_FAKE_SM (89) and AUTOSAM_FAKE_BYTES, the memory of the device.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kOutOfMemory = 2;
constexpr int kNoDevice = 100;
constexpr int kNoContext = 201;

struct Stream {
  std::vector<std::function<void()>> work;
};
struct Event {
  Stream* stream = nullptr;
};

std::recursive_mutex mutex;
std::map<char*, std::size_t> device;  // address -> bytes
std::map<void*, std::unique_ptr<char[]>> pinned;
std::map<void*, std::unique_ptr<Stream>> streams;
std::map<void*, std::unique_ptr<Event>> events;
int retained = 0;
int freed_busy = 0;
thread_local int current = 0;

using Lock = std::lock_guard<std::recursive_mutex>;

long setting(const char* name, long otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atol(value);
}

void work_off(Stream& stream) {
  std::vector<std::function<void()>> work;
  work.swap(stream.work);
  for (const auto& one : work) one();
}

int push(void* stream, std::function<void()> work) {
  const auto found = streams.find(stream);
  if (found == streams.end() || current == 0) return kNoContext;
  found->second->work.push_back(std::move(work));
  return 0;
}

}  // namespace

EXPORT int cuInit(unsigned) {
  return setting("AUTOSAM_FAKE_DEVICES", 1) > 0 ? 0 : kNoDevice;
}
EXPORT int cuDeviceGetCount(int* count) {
  *count = static_cast<int>(setting("AUTOSAM_FAKE_DEVICES", 1));
  return 0;
}
EXPORT int cuDeviceGet(int* found, int index) {
  *found = index;
  return 0;
}
EXPORT int cuDeviceGetAttribute(int* value, int attribute, int) {
  const long sm = setting("AUTOSAM_FAKE_SM", 89);
  *value = static_cast<int>(attribute == 75 ? sm / 10 : sm % 10);
  return 0;
}
EXPORT int cuDeviceGetName(char* text, int, int) {
  std::strcpy(text, "Fake RTX");
  return 0;
}
EXPORT int cuDevicePrimaryCtxRetain(void** context, int) {
  const Lock lock(mutex);
  if (std::getenv("AUTOSAM_FAKE_BROKEN") != nullptr) return kNoContext;
  ++retained;
  *context = &retained;
  return 0;
}
EXPORT int cuDevicePrimaryCtxRelease_v2(int) {
  const Lock lock(mutex);
  --retained;
  return 0;
}
EXPORT int cuCtxPushCurrent_v2(void*) {
  ++current;
  return 0;
}
EXPORT int cuCtxPopCurrent_v2(void**) {
  --current;
  return 0;
}
EXPORT int cuMemAlloc_v2(std::uint64_t* address, std::size_t bytes) {
  const Lock lock(mutex);
  if (current == 0) return kNoContext;
  std::size_t used = bytes;
  for (const auto& one : device) used += one.second;
  if (used > static_cast<std::size_t>(setting("AUTOSAM_FAKE_BYTES", 1L << 40))) return kOutOfMemory;
  auto* const made = new char[bytes];
  std::memset(made, 0x5a, bytes);
  device[made] = bytes;
  *address = reinterpret_cast<std::uintptr_t>(made);
  return 0;
}
EXPORT int cuMemFree_v2(std::uint64_t address) {
  const Lock lock(mutex);
  for (const auto& one : streams) freed_busy += one.second->work.empty() ? 0 : 1;
  auto* const made = reinterpret_cast<char*>(static_cast<std::uintptr_t>(address));
  if (device.erase(made) == 1) delete[] made;
  return current == 0 ? kNoContext : 0;
}
EXPORT int cuMemHostAlloc(void** address, std::size_t bytes, unsigned) {
  const Lock lock(mutex);
  if (current == 0) return kNoContext;
  auto made = std::make_unique<char[]>(bytes);
  *address = made.get();
  pinned[*address] = std::move(made);
  return 0;
}
EXPORT int cuMemFreeHost(void* address) {
  const Lock lock(mutex);
  pinned.erase(address);
  return 0;
}
EXPORT int cuMemcpyHtoDAsync_v2(std::uint64_t to, const void* from, std::size_t bytes,
                                void* stream) {
  const Lock lock(mutex);
  return push(stream, [=] { std::memcpy(reinterpret_cast<void*>(to), from, bytes); });
}
EXPORT int cuMemcpyDtoHAsync_v2(void* to, std::uint64_t from, std::size_t bytes, void* stream) {
  const Lock lock(mutex);
  return push(stream, [=] { std::memcpy(to, reinterpret_cast<const void*>(from), bytes); });
}
EXPORT int cuStreamCreate(void** stream, unsigned) {
  const Lock lock(mutex);
  if (current == 0) return kNoContext;
  auto made = std::make_unique<Stream>();
  *stream = made.get();
  streams[*stream] = std::move(made);
  return 0;
}
EXPORT int cuStreamDestroy_v2(void* stream) {
  const Lock lock(mutex);
  streams.erase(stream);
  return 0;
}
EXPORT int cuStreamSynchronize(void* stream) {
  const Lock lock(mutex);
  const auto found = streams.find(stream);
  if (found == streams.end() || current == 0) return kNoContext;
  work_off(*found->second);
  return 0;
}
EXPORT int cuEventCreate(void** event, unsigned) {
  const Lock lock(mutex);
  auto made = std::make_unique<Event>();
  *event = made.get();
  events[*event] = std::move(made);
  return 0;
}
EXPORT int cuEventDestroy_v2(void* event) {
  const Lock lock(mutex);
  events.erase(event);
  return 0;
}
EXPORT int cuEventRecord(void* event, void* stream) {
  const Lock lock(mutex);
  events.at(event)->stream = streams.at(stream).get();
  return 0;
}
EXPORT int cuEventSynchronize(void* event) {
  const Lock lock(mutex);
  Stream* const stream = events.at(event)->stream;
  if (stream != nullptr && streams.count(stream) == 1) work_off(*stream);
  return 0;
}
EXPORT std::size_t fake_device_bytes(const void* address) {
  const Lock lock(mutex);
  const auto* const wanted = static_cast<const char*>(address);
  for (const auto& [begin, bytes] : device) {
    if (wanted >= begin && wanted < begin + bytes) {
      return bytes - static_cast<std::size_t>(wanted - begin);
    }
  }
  return 0;
}
EXPORT int cuPointerGetAttribute(void* value, int, std::uint64_t address) {
  if (fake_device_bytes(reinterpret_cast<const void*>(address)) == 0) return 1;
  *static_cast<int*>(value) = 0;
  return 0;
}
EXPORT int cuGetErrorName(int code, const char** name) {
  *name = code == kOutOfMemory ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_INVALID_CONTEXT";
  return 0;
}

// For tests and the fake library alone.
EXPORT void fake_stream_push(void* stream, void (*work)(void*), void* given) {
  const Lock lock(mutex);
  push(stream, [work, given] { work(given); });
}
EXPORT long fake_live(void) {
  const Lock lock(mutex);
  return static_cast<long>(device.size() + pinned.size() + streams.size() + events.size()) +
         retained;
}
EXPORT int fake_freed_busy(void) {
  return freed_busy;
}
EXPORT int fake_pending(void* stream) {
  const Lock lock(mutex);
  return static_cast<int>(streams.at(stream)->work.size());
}

// CUDA through the driver's own library, opened at run time: one device, its memory, its streams.
// The driver is what can be asked safely whether there is a device; what runs on its primary
// context meets the host's own CUDA runtime there.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace autosam::core {

struct CudaFunctions;

// One device. Any number of threads may use it; each wraps its work in an Active.
class Cuda {
 public:
  // Throws Error(DEVICE_UNAVAILABLE): no driver, no such device, or one that does not start.
  static std::shared_ptr<const Cuda> open(int index);
  ~Cuda();
  Cuda(const Cuda&) = delete;
  Cuda& operator=(const Cuda&) = delete;

  [[nodiscard]] int index() const { return index_; }
  [[nodiscard]] int sm() const { return sm_; }  // compute capability; 89 is sm89
  [[nodiscard]] const std::string& name() const { return name_; }

  // Makes the device the calling thread's current one, and puts back what was before.
  class Active {
   public:
    explicit Active(const Cuda& cuda);
    ~Active();
    Active(const Active&) = delete;
    Active& operator=(const Active&) = delete;

   private:
    const Cuda& cuda_;
  };

  // All below: with the device active. Throw Error(OUT_OF_MEMORY, RUNTIME_ERROR) but where they
  // tidy up.
  [[nodiscard]] void* create_stream() const;
  void destroy_stream(void* stream) const noexcept;
  // Wait until the stream's work is done, and raise what went wrong in it.
  void synchronize(void* stream) const;
  // The same when something went wrong already.
  void settle(void* stream) const noexcept;
  [[nodiscard]] void* create_event() const;
  void destroy_event(void* event) const noexcept;
  void record(void* event, void* stream) const;
  void wait(void* event) const;
  // Between a device and page-locked memory, in the order of the stream.
  void to_device(void* target, const void* source, std::size_t bytes, void* stream) const;
  void to_host(void* target, const void* source, std::size_t bytes, void* stream) const;
  // Whether an address is memory of this device.
  [[nodiscard]] bool owns(const void* address) const noexcept;

 private:
  friend class CudaBlock;
  Cuda(const CudaFunctions& call, int index);
  [[nodiscard]] void* allocate(std::size_t bytes, bool pinned) const;
  void free(void* address, bool pinned) const noexcept;
  void check(int code, const std::string& what) const;

  const CudaFunctions& call_;
  int index_;
  int device_ = 0;
  int sm_ = 0;
  std::string name_;
  void* context_ = nullptr;
};

// Memory that only grows, on the device or page-locked on the host; to be used while it is active.
class CudaBlock {
 public:
  explicit CudaBlock(const Cuda& cuda, bool pinned = false) : cuda_(cuda), pinned_(pinned) {}
  ~CudaBlock() { free(); }
  CudaBlock(const CudaBlock&) = delete;
  CudaBlock& operator=(const CudaBlock&) = delete;

  // Make room; what was inside is lost if the memory moves. Throws Error(OUT_OF_MEMORY): the block
  // then holds nothing.
  void reserve(std::size_t bytes);
  void free() noexcept;
  [[nodiscard]] void* address() const { return address_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  const Cuda& cuda_;
  bool pinned_;
  void* address_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace autosam::core

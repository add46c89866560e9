// Lanes: execution contexts with a stream and memory of their own, and the pool that lends them.
#pragma once

#include <array>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "../backend.hpp"
#include "../cuda/driver.hpp"
#include "plan.hpp"

namespace autosam::core {

// One execution context. It runs one batch at a time, so it is lent to one thread at a time. Its
// memory grows to the largest batch that it met, and stays. All with the device active.
class Lane {
 public:
  // Throws Error(OUT_OF_MEMORY): there is no room for one more context; Error(RUNTIME_ERROR).
  Lane(const Plan& plan, const Cuda& cuda);
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // Run one batch that the profile holds. An asynchronous one is waited for where the next is in
  // another stream or of another size; else the stream keeps them in order.
  //
  // Throws Error(OUT_OF_MEMORY, RUNTIME_ERROR).
  void run(const Batch& batch);

 private:
  // A tensor's own memory, as far as it does not come from the caller.
  struct Port {
    Port(TensorSpec tensor, const Cuda& cuda)
        : spec(std::move(tensor)), device(cuda), host(cuda, /*pinned=*/true) {}
    TensorSpec spec;
    CudaBlock device;
    CudaBlock host;
    std::size_t bytes = 0;  // at the sizes now
  };
  // Where a result goes.
  struct Target {
    void* data = nullptr;
    bool on_device = false;
  };

  void wait_for_pending();
  void resize(const Batch& batch);
  void set_size(Port& port, const Batch& batch);
  void reserve(const Batch& batch);
  void put(const Batch& batch, void* stream);
  void fetch(const Batch& batch, void* stream);
  [[nodiscard]] static Target target_of(const Port& port, const Batch& batch);
  void bind(const Port& port, void* address);
  void free() noexcept;

  const Plan& plan_;
  const Cuda& cuda_;
  const autosam_trt_module& call_;
  void* stream_ = nullptr;
  void* done_ = nullptr;     // event: the asynchronous run before has passed
  void* pending_ = nullptr;  // the stream of that run
  Port slices_;
  std::deque<Port> outputs_;
  CudaBlock activations_;
  std::unique_ptr<autosam_trt_context, void (*)(autosam_trt_context*)> context_;
  std::array<std::int64_t, 3> sizes_{};  // B, H, W of the context; zeros: not set
};

// Lends lanes to threads; makes further ones, up to a limit, when all are lent.
class LanePool {
 public:
  // Makes the first lane, so that what is wrong shows at once.
  LanePool(const Plan& plan, const Cuda& cuda, std::size_t most, Log log);

  // A lane for the calling thread, until this is gone; waits while all are lent.
  class Lease {
   public:
    explicit Lease(LanePool& pool) : pool_(pool), lane_(pool.take()) {}
    ~Lease() { pool_.give_back(std::move(lane_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Lane* operator->() const { return lane_.get(); }

   private:
    LanePool& pool_;
    std::unique_ptr<Lane> lane_;
  };

 private:
  std::unique_ptr<Lane> take();
  void give_back(std::unique_ptr<Lane> lane) noexcept;

  const Plan& plan_;
  const Cuda& cuda_;
  Log log_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t most_;
  std::size_t made_ = 1;
  std::vector<std::unique_ptr<Lane>> free_;
};

}  // namespace autosam::core

#include "lane.hpp"

#include <cstring>

#include "../error.hpp"

namespace autosam::core {
namespace {

std::string shown(const std::vector<std::int64_t>& sizes) {
  std::string text;
  for (const std::int64_t size : sizes) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "(" + text + ")";
}

}  // namespace

Lane::Lane(const Plan& plan, const Cuda& cuda)
    : plan_(plan),
      cuda_(cuda),
      call_(plan.library().call()),
      slices_(ModelSpec::input_tensor(), cuda),
      activations_(cuda),
      context_(nullptr, call_.destroy) {
  for (const TensorSpec& tensor : plan.outputs()) outputs_.emplace_back(tensor, cuda);
  const std::uint64_t since = call_.mark();
  context_.reset(call_.create(plan.engine()));
  if (context_ == nullptr) {
    throw plan.library().failure(std::string(plan.title()) + " makes no execution context", since);
  }
  stream_ = cuda.create_stream();
  try {
    done_ = cuda.create_event();
  } catch (...) {
    cuda.destroy_stream(stream_);
    throw;
  }
}

Lane::~Lane() {
  try {
    wait_for_pending();
  } catch (const std::exception&) {
    pending_ = nullptr;  // what is broken is not under way any more
  }
  cuda_.settle(stream_);
  context_.reset();
  cuda_.destroy_event(done_);
  cuda_.destroy_stream(stream_);
}

void Lane::run(const Batch& batch) {
  void* const stream = batch.stream != nullptr ? batch.stream : stream_;
  try {
    const bool again =
        sizes_ == std::array<std::int64_t, 3>{batch.count, batch.height, batch.width};
    // What is still under way reads and writes memory that this run may move or share.
    if (!again || pending_ != stream) wait_for_pending();
    if (!again) resize(batch);
    reserve(batch);
    put(batch, stream);
    const std::uint64_t since = call_.mark();
    if (call_.enqueue(context_.get(), stream) == 0) {
      throw plan_.library().failure(std::string(plan_.title()) + " failed to run the model", since);
    }
    if (batch.asynchronous) {
      cuda_.record(done_, stream);
      pending_ = stream;
    } else {
      fetch(batch, stream);
      pending_ = nullptr;
    }
  } catch (const std::exception& error) {
    cuda_.settle(stream);
    sizes_ = {};
    const auto* const known = dynamic_cast<const Error*>(&error);
    // The smaller batch that comes next shall not find the device full of this one.
    if (known != nullptr && known->status() == AUTOSAM_OUT_OF_MEMORY) free();
    throw;
  }
}

void Lane::wait_for_pending() {
  if (pending_ != nullptr) cuda_.wait(done_);
  pending_ = nullptr;
}

// Tell the context the sizes of a batch and give it the memory for its activations.
void Lane::resize(const Batch& batch) {
  sizes_ = {};
  const std::array<std::int64_t, 4> shape{batch.count, 1, batch.height, batch.width};
  const std::uint64_t since = call_.mark();
  if (call_.resize(context_.get(), slices_.spec.name.c_str(), shape.data(), 4) == 0) {
    throw plan_.library().failure(std::string(plan_.title()) + " refuses slices of shape " +
                                      shown({shape.begin(), shape.end()}),
                                  since);
  }
  set_size(slices_, batch);
  for (Port& port : outputs_) set_size(port, batch);
  activations_.reserve(call_.activations(context_.get()));
  call_.give(context_.get(), activations_.address(), activations_.bytes());
  sizes_ = {batch.count, batch.height, batch.width};
}

void Lane::set_size(Port& port, const Batch& batch) {
  std::vector<std::int64_t> wanted;
  port.bytes = port.spec.dtype == "uint8" ? 1 : sizeof(float);
  for (const auto& size : port.spec.shape) {
    if (const auto* fixed = std::get_if<std::int64_t>(&size)) {
      wanted.push_back(*fixed);
    } else {
      const auto& axis = std::get<std::string>(size);
      wanted.push_back(axis == "B" ? batch.count : axis == "H" ? batch.height : batch.width);
    }
    port.bytes *= static_cast<std::size_t>(wanted.back());
  }
  std::array<std::int64_t, AUTOSAM_TRT_MOST_AXES> found{};
  const std::int32_t rank = call_.shape(context_.get(), port.spec.name.c_str(), found.data());
  const std::vector<std::int64_t> sizes(found.begin(), found.begin() + std::max(0, rank));
  if (sizes == wanted) return;
  // Anything larger would be written beyond the end of the memory.
  throw Error(AUTOSAM_RUNTIME_ERROR,
              Message("the engine gives '" + port.spec.name + "' another shape than the manifest")
                  .got(shown(sizes))
                  .expected(shown(wanted)));
}

Lane::Target Lane::target_of(const Port& port, const Batch& batch) {
  if (port.spec.name == "labels") return {batch.labels, batch.labels_on_device};
  return {batch.logits, batch.logits_on_device};
}

void Lane::bind(const Port& port, void* address) {
  const std::uint64_t since = call_.mark();
  if (call_.bind(context_.get(), port.spec.name.c_str(), address) == 0) {
    throw plan_.library().failure(
        std::string(plan_.title()) + " refuses memory for '" + port.spec.name + "'", since);
  }
}

// Memory for what the caller does not keep on the device, before anything is under way there.
void Lane::reserve(const Batch& batch) {
  if (!batch.slices_on_device) {
    slices_.host.reserve(slices_.bytes);
    slices_.device.reserve(slices_.bytes);
  }
  for (Port& port : outputs_) {
    const Target target = target_of(port, batch);
    if (target.data != nullptr && target.on_device) continue;
    // An engine writes outputs that nobody wants too.
    port.device.reserve(port.bytes);
    if (target.data != nullptr) port.host.reserve(port.bytes);
  }
}

// Slices to the device, and an address for every tensor.
void Lane::put(const Batch& batch, void* stream) {
  // The engine reads its inputs, but has no type to say so.
  auto* slices = const_cast<float*>(batch.slices);  // NOLINT(cppcoreguidelines-pro-type-const-cast)
  if (batch.slices_on_device) {
    bind(slices_, slices);
  } else {
    std::memcpy(slices_.host.address(), batch.slices, slices_.bytes);
    cuda_.to_device(slices_.device.address(), slices_.host.address(), slices_.bytes, stream);
    bind(slices_, slices_.device.address());
  }
  for (const Port& port : outputs_) {
    const Target target = target_of(port, batch);
    const bool in_place = target.data != nullptr && target.on_device;
    bind(port, in_place ? target.data : port.device.address());
  }
}

// Results to the host, through page-locked memory, once the stream is done.
void Lane::fetch(const Batch& batch, void* stream) {
  for (const Port& port : outputs_) {
    const Target target = target_of(port, batch);
    if (target.data == nullptr || target.on_device) continue;
    cuda_.to_host(port.host.address(), port.device.address(), port.bytes, stream);
  }
  cuda_.synchronize(stream);
  for (const Port& port : outputs_) {
    const Target target = target_of(port, batch);
    if (target.data == nullptr || target.on_device) continue;
    std::memcpy(target.data, port.host.address(), port.bytes);
  }
}

void Lane::free() noexcept {
  for (Port& port : outputs_) {
    port.device.free();
    port.host.free();
  }
  slices_.device.free();
  slices_.host.free();
  activations_.free();
}

LanePool::LanePool(const Plan& plan, const Cuda& cuda, std::size_t most, Log log)
    : plan_(plan), cuda_(cuda), log_(log), most_(most) {
  // Giving a lane back then needs no memory.
  free_.reserve(most);
  free_.push_back(std::make_unique<Lane>(plan, cuda));
}

std::unique_ptr<Lane> LanePool::take() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    if (!free_.empty()) {
      // The one that was lent longest ago: an asynchronous run on it has had most time to pass.
      std::unique_ptr<Lane> lane = std::move(free_.front());
      free_.erase(free_.begin());
      return lane;
    }
    if (made_ == most_) {
      changed_.wait(lock);
      continue;
    }
    // Counted before it is there, so that no more are made meanwhile.
    ++made_;
    lock.unlock();
    try {
      return std::make_unique<Lane>(plan_, cuda_);
    } catch (const std::exception& error) {
      lock.lock();
      --made_;
      changed_.notify_all();
      const auto* const known = dynamic_cast<const Error*>(&error);
      if (known == nullptr || known->status() != AUTOSAM_OUT_OF_MEMORY) throw;
      // Threads wait for each other then, which is slower and still right.
      most_ = made_;
      log_.warning("no memory for more than " + std::to_string(most_) +
                   " contexts: " + error.what());
    }
  }
}

void LanePool::give_back(std::unique_ptr<Lane> lane) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  free_.push_back(std::move(lane));
  changed_.notify_one();
}

}  // namespace autosam::core

// autosam_run's checks and copies on any tensors: whatever is accepted is read and written inside
// the memory that shape and strides name, and nowhere else.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <error.hpp>
#include <memory>
#include <session.hpp>
#include <unit/fake_backend.hpp>
#include <vector>

namespace {

using Wide = __int128;
constexpr Wide kRoom = 1 << 14;

enum class Reach {
  kFits,     // a buffer can be made for it
  kRefused,  // no size, or beyond what can be addressed: the library must not touch it
  kSkipped   // too large for a buffer here, yet sizes that the library has to believe
};

// How many bytes a tensor reaches below and above its first element.
Reach reach(const autosam_tensor& tensor, std::int64_t item, Wide& below, Wide& above) {
  constexpr Wide kBeyond = Wide{1} << 63;
  bool packed = true;
  for (std::int32_t i = 0; i < tensor.ndim; ++i) {
    if (tensor.shape[i] <= 0) return Reach::kRefused;
    packed = packed && tensor.strides[i] == 0;
  }
  below = 0;
  above = item;
  Wide elements = item;
  Reach found = Reach::kFits;
  for (std::int32_t i = tensor.ndim; i-- > 0;) {
    // Products of two numbers of 64 bits: they fit into 128.
    const Wide far = (packed ? elements / item : Wide{tensor.strides[i]}) * (tensor.shape[i] - 1);
    elements *= tensor.shape[i];
    if (far >= kBeyond || -far >= kBeyond || elements >= kBeyond) return Reach::kRefused;
    (far < 0 ? below : above) += (far < 0 ? -far : far) * item;
    if (below + above >= kBeyond) return Reach::kRefused;
    if (below + above > kRoom || elements > kRoom) found = Reach::kSkipped;
  }
  return found;
}

std::int64_t item_size(std::int32_t dtype) {
  return dtype == AUTOSAM_FLOAT32 ? 4 : dtype == AUTOSAM_UINT8 ? 1 : 2;
}

// A tensor on exactly as much memory as it may touch; AddressSanitizer watches both ends.
struct Owned {
  std::unique_ptr<char[]> memory;
  autosam_tensor tensor{};

  bool place() {
    alignas(8) static char nothing[8];
    tensor.data = nothing;
    if (tensor.ndim != 3 && tensor.ndim != 4) return true;  // refused before it is looked at
    Wide below = 0;
    Wide above = 0;
    const Reach found = reach(tensor, item_size(tensor.dtype), below, above);
    if (found != Reach::kFits) return found == Reach::kRefused;
    memory = std::make_unique<char[]>(static_cast<std::size_t>(below + above));
    tensor.data = memory.get() + static_cast<std::ptrdiff_t>(below);
    return true;
  }
};

struct Input {
  const std::uint8_t* data;
  std::size_t size;

  template <class Value>
  Value take() {
    Value value{};
    const std::size_t count = std::min(size, sizeof value);
    std::memcpy(&value, data, count);
    data += count;
    size -= count;
    return value;
  }
  // Mostly small, sometimes anything.
  std::int64_t number() {
    const auto kind = take<std::uint8_t>();
    if (kind >= 250) return take<std::int64_t>();
    return kind % 2 == 0 ? kind / 2 % 12 : -(kind / 2 % 12);
  }
};

void read_tensor(Input& input, Owned& owned) {
  autosam_tensor& tensor = owned.tensor;
  const auto form = input.take<std::uint8_t>();
  tensor.ndim = form % 16 == 15 ? input.take<std::int32_t>() : 3 + form % 2;
  tensor.dtype = form / 16 == 15 ? input.take<std::int32_t>() : 1 + form / 16 % 4;
  tensor.memory = form == 77 ? AUTOSAM_CUDA : form == 93 ? 2 : AUTOSAM_HOST;
  for (std::int64_t& size : tensor.shape) size = input.number();
  if (input.take<std::uint8_t>() % 2 == 0) return;
  for (std::int64_t& stride : tensor.strides) stride = input.number();
}

const autosam::core::Session& session() {
  static const autosam::core::Session kept = [] {
    autosam::core::Bundle bundle;
    bundle.manifest.model.image_size = {256, 256};
    bundle.manifest.model.num_classes = 3;
    bundle.manifest.model.outputs = {"labels", "logits"};
    return autosam::core::Session(std::move(bundle), std::make_unique<autosam_test::FakeBackend>(),
                                  {});
  }();
  return kept;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input{data, size};
  Owned slices;
  Owned labels;
  Owned logits;
  const auto wanted = input.take<std::uint8_t>();
  read_tensor(input, slices);
  read_tensor(input, labels);
  read_tensor(input, logits);
  if ((wanted & 4) != 0) {
    // Outputs that fit are rare by chance.
    const autosam_tensor& in = slices.tensor;
    std::copy(in.shape, in.shape + 4, labels.tensor.shape);
    labels.tensor.ndim = in.ndim;
    labels.tensor.dtype = AUTOSAM_UINT8;
    logits.tensor.ndim = 4;
    logits.tensor.dtype = AUTOSAM_FLOAT32;
    logits.tensor.shape[0] = in.shape[0];
    logits.tensor.shape[1] = 3;
    logits.tensor.shape[2] = in.ndim == 3 ? in.shape[1] : in.shape[2];
    logits.tensor.shape[3] = in.ndim == 3 ? in.shape[2] : in.shape[3];
  }
  if (!slices.place() || !labels.place() || !logits.place()) return 0;
  autosam::core::RunOptions options;
  options.max_batch = input.number();
  try {
    session().run(&slices.tensor, (wanted & 1) != 0 ? &labels.tensor : nullptr,
                  (wanted & 2) != 0 ? &logits.tensor : nullptr, options);
  } catch (const autosam::core::Error& error) {
    const bool cuda = slices.tensor.memory == AUTOSAM_CUDA ||
                      labels.tensor.memory == AUTOSAM_CUDA || logits.tensor.memory == AUTOSAM_CUDA;
    // The backend here has no device.
    const bool expected = error.status() == AUTOSAM_INVALID_ARGUMENT ||
                          (cuda && error.status() == AUTOSAM_UNSUPPORTED);
    if (!expected) std::abort();
  }
  return 0;
}

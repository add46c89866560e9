#include "tensor.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "error.hpp"

namespace autosam::core {
namespace {

[[noreturn]] void refuse(const std::string& name, const std::string& got,
                         const std::string& expected) {
  throw Error(AUTOSAM_INVALID_ARGUMENT, Message("'" + name + "'").got(got).expected(expected));
}

std::int64_t item_size(std::int32_t dtype) {
  switch (dtype) {
    case AUTOSAM_FLOAT32:
      return 4;
    case AUTOSAM_INT16:
    case AUTOSAM_UINT16:
      return 2;
    case AUTOSAM_UINT8:
      return 1;
    default:
      return 0;
  }
}

std::string shown(const std::int64_t* sizes, std::int32_t count) {
  std::string text;
  for (std::int32_t i = 0; i < count; ++i) text += (i > 0 ? ", " : "") + std::to_string(sizes[i]);
  return "(" + text + ")";
}

// Bytes from the first to the last element, or -1 beyond 63 bits. Strides may be negative.
std::int64_t extent(const View& view, std::int64_t size) {
  std::int64_t elements = 1;
  for (std::size_t axis = 0; axis < view.shape.size(); ++axis) {
    std::int64_t reach = 0;
    const std::int64_t stride = view.strides[axis];
    if (stride == INT64_MIN ||
        __builtin_mul_overflow(view.shape[axis] - 1, std::abs(stride), &reach) ||
        __builtin_add_overflow(elements, reach, &elements)) {
      return -1;
    }
  }
  std::int64_t bytes = 0;
  return __builtin_mul_overflow(elements, size, &bytes) ? -1 : bytes;
}

// Rank, shape and strides as four axes; the second axis of three-dimensional tensors is 1.
View axes_of(const autosam_tensor& tensor, const std::string& name, const std::string& layout) {
  if (tensor.ndim != 3 && tensor.ndim != 4) {
    refuse(name, std::to_string(tensor.ndim) + " axes", layout);
  }
  for (std::int32_t axis = 0; axis < tensor.ndim; ++axis) {
    if (tensor.shape[axis] <= 0) {
      refuse(name, "shape " + shown(tensor.shape, tensor.ndim), layout + ", none of them 0");
    }
  }
  View view;
  const std::size_t skipped = tensor.ndim == 3 ? 1 : 0;
  view.shape = {tensor.shape[0], skipped == 1 ? 1 : tensor.shape[1], tensor.shape[2 - skipped],
                tensor.shape[3 - skipped]};
  const bool none = std::all_of(tensor.strides, tensor.strides + tensor.ndim,
                                [](std::int64_t stride) { return stride == 0; });
  if (!none) {
    view.strides = {tensor.strides[0], skipped == 1 ? 0 : tensor.strides[1],
                    tensor.strides[2 - skipped], tensor.strides[3 - skipped]};
    return view;
  }
  std::int64_t stride = 1;
  for (std::size_t axis = view.shape.size(); axis-- > 0;) {
    view.strides[axis] = stride;
    if (__builtin_mul_overflow(stride, view.shape[axis], &stride)) {
      refuse(name, "shape " + shown(tensor.shape, tensor.ndim), "a size that can be addressed");
    }
  }
  return view;
}

View check_tensor(const autosam_tensor& tensor, const std::string& name,
                  const std::string& layout) {
  if (tensor.data == nullptr) refuse(name, "no data", "a pointer");
  const bool host = tensor.memory == AUTOSAM_HOST && tensor.device_id == 0;
  const bool cuda = tensor.memory == AUTOSAM_CUDA && tensor.device_id >= 0;
  if (!host && !cuda) {
    refuse(
        name,
        "memory " + std::to_string(tensor.memory) + ", device " + std::to_string(tensor.device_id),
        "AUTOSAM_HOST, device 0, or AUTOSAM_CUDA");
  }
  const std::int64_t size = item_size(tensor.dtype);
  if (size == 0) refuse(name, "dtype " + std::to_string(tensor.dtype), "an autosam_dtype");
  View view = axes_of(tensor, name, layout);
  view.data = tensor.data;
  view.device = cuda ? tensor.device_id : -1;
  view.dtype = static_cast<autosam_dtype>(tensor.dtype);
  // Also what a packed float32 copy of it would take.
  std::int64_t elements = 4;
  for (const std::int64_t side : view.shape) {
    if (__builtin_mul_overflow(elements, side, &elements)) elements = -1;
    if (elements < 0) break;
  }
  if (elements < 0 || extent(view, size) < 0) {
    refuse(name,
           "shape " + shown(tensor.shape, tensor.ndim) + ", strides " +
               shown(tensor.strides, tensor.ndim),
           "a size that can be addressed");
  }
  if (reinterpret_cast<std::uintptr_t>(tensor.data) % static_cast<std::uintptr_t>(size) != 0) {
    refuse(name, "an address that is no multiple of " + std::to_string(size),
           "data aligned for its dtype");
  }
  return view;
}

// Whether no two elements share a place: axes, by rising stride, each step over the ones before.
bool distinct(const View& view) {
  std::vector<std::size_t> axes;
  for (std::size_t axis = 0; axis < view.shape.size(); ++axis) {
    if (view.shape[axis] > 1) axes.push_back(axis);
  }
  std::sort(axes.begin(), axes.end(), [&view](std::size_t a, std::size_t b) {
    return std::abs(view.strides[a]) < std::abs(view.strides[b]);
  });
  std::int64_t reach = 0;
  for (const std::size_t axis : axes) {
    const std::int64_t stride = std::abs(view.strides[axis]);
    if (stride <= reach) return false;
    reach += (view.shape[axis] - 1) * stride;
  }
  return true;
}

View check_output(const autosam_tensor& tensor, const std::string& name,
                  const std::array<std::int64_t, 4>& shape, autosam_dtype dtype) {
  const bool flat = shape[1] == 0;
  const std::string layout = flat ? "(" + std::to_string(shape[0]) + ", " +
                                        std::to_string(shape[2]) + ", " + std::to_string(shape[3]) +
                                        ")"
                                  : shown(shape.data(), 4);
  View view = check_tensor(tensor, name, layout);
  std::array<std::int64_t, 4> wanted = shape;
  if (flat) wanted[1] = 1;
  if (view.shape != wanted || (!flat && tensor.ndim != 4)) {
    refuse(name, "shape " + shown(tensor.shape, tensor.ndim), layout);
  }
  if (view.dtype != dtype) {
    refuse(name, "dtype " + std::to_string(tensor.dtype),
           dtype == AUTOSAM_UINT8 ? "AUTOSAM_UINT8" : "AUTOSAM_FLOAT32");
  }
  if (!distinct(view)) {
    refuse(name, "strides " + shown(tensor.strides, tensor.ndim), "a place for every element");
  }
  return view;
}

// Calls `row(data, out)` for every row of some items: the row's first element, and its place among
// packed elements.
template <class Element, class Row>
void for_rows(const View& view, std::int64_t first, std::int64_t count, const Row& row) {
  std::int64_t place = 0;
  for (std::int64_t b = first; b < first + count; ++b) {
    for (std::int64_t c = 0; c < view.shape[1]; ++c) {
      for (std::int64_t y = 0; y < view.shape[2]; ++y) {
        Element* const data = static_cast<Element*>(view.data) + b * view.strides[0] +
                              c * view.strides[1] + y * view.strides[2];
        row(data, place);
        place += view.width();
      }
    }
  }
}

template <class Element>
void gather_as(const View& view, std::int64_t first, std::int64_t count, float* out) {
  const std::int64_t step = view.strides[3];
  const std::int64_t width = view.width();
  for_rows<const Element>(view, first, count, [=](const Element* row, std::int64_t place) {
    float* const to = out + place;
    if (step == 1) {
      for (std::int64_t x = 0; x < width; ++x) to[x] = static_cast<float>(row[x]);
    } else {
      for (std::int64_t x = 0; x < width; ++x) to[x] = static_cast<float>(row[x * step]);
    }
  });
}

template <class Element>
void scatter_as(const Element* items, std::int64_t first, std::int64_t count, const View& view) {
  const std::int64_t step = view.strides[3];
  const std::int64_t width = view.width();
  for_rows<Element>(view, first, count, [=](Element* row, std::int64_t place) {
    for (std::int64_t x = 0; x < width; ++x) row[x * step] = items[place + x];
  });
}

std::int64_t count_not_finite(const float* values, std::int64_t count, std::int64_t step) {
  constexpr std::uint32_t kExponent = 0x7f800000;
  std::int64_t bad = 0;
  // In blocks with a narrow counter: compilers make vector code of it.
  constexpr std::int64_t kBlock = 4096;
  for (std::int64_t begin = 0; begin < count; begin += kBlock) {
    const std::int64_t end = std::min(count, begin + kBlock);
    std::uint32_t found = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      std::uint32_t bits = 0;
      std::memcpy(&bits, values + i * step, sizeof bits);
      found += static_cast<std::uint32_t>((bits & kExponent) == kExponent);
    }
    bad += found;
  }
  return bad;
}

}  // namespace

bool View::packed() const {
  std::int64_t stride = 1;
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    if (shape[axis] > 1 && strides[axis] != stride) return false;
    stride *= shape[axis];
  }
  return true;
}

View check_slices(const autosam_tensor* tensor) {
  if (tensor == nullptr) refuse("slices", "NULL", "a tensor");
  const std::string layout = "(B, 1, H, W) or (B, H, W)";
  View view = check_tensor(*tensor, "slices", layout);
  if (view.shape[1] != 1) refuse("slices", "shape " + shown(tensor->shape, tensor->ndim), layout);
  return view;
}

View check_labels(const autosam_tensor& tensor, const View& slices) {
  return check_output(tensor, "labels", {slices.batch(), 0, slices.height(), slices.width()},
                      AUTOSAM_UINT8);
}

View check_logits(const autosam_tensor& tensor, const View& slices, std::int64_t channels) {
  return check_output(tensor, "logits", {slices.batch(), channels, slices.height(), slices.width()},
                      AUTOSAM_FLOAT32);
}

void check_finite(const View& slices) {
  if (slices.dtype != AUTOSAM_FLOAT32 || slices.on_device()) return;
  std::int64_t bad = 0;
  const std::int64_t all = slices.batch() * slices.item();
  if (slices.packed()) {
    bad = count_not_finite(static_cast<const float*>(slices.data), all, 1);
  } else {
    for_rows<const float>(slices, 0, slices.batch(), [&](const float* row, std::int64_t) {
      bad += count_not_finite(row, slices.width(), slices.strides[3]);
    });
  }
  if (bad > 0) {
    throw Error(AUTOSAM_INVALID_ARGUMENT,
                Message("'slices' holds values that are not finite")
                    .got(std::to_string(bad) + " of " + std::to_string(all))
                    .todo("mask NaN and infinity before segmenting"));
  }
}

void gather(const View& slices, std::int64_t first, std::int64_t count, float* out) {
  switch (slices.dtype) {
    case AUTOSAM_FLOAT32:
      return gather_as<float>(slices, first, count, out);
    case AUTOSAM_UINT8:
      return gather_as<std::uint8_t>(slices, first, count, out);
    case AUTOSAM_INT16:
      return gather_as<std::int16_t>(slices, first, count, out);
    case AUTOSAM_UINT16:
      return gather_as<std::uint16_t>(slices, first, count, out);
  }
}

void scatter(const std::uint8_t* items, std::int64_t first, std::int64_t count, const View& out) {
  scatter_as(items, first, count, out);
}

void scatter(const float* items, std::int64_t first, std::int64_t count, const View& out) {
  scatter_as(items, first, count, out);
}

}  // namespace autosam::core

#include <doctest/doctest.h>

#include <limits>
#include <tensor.hpp>
#include <vector>

#include "checks.hpp"

using autosam::core::check_finite;
using autosam::core::check_labels;
using autosam::core::check_logits;
using autosam::core::check_slices;
using autosam::core::gather;
using autosam::core::scatter;
using autosam::core::View;
using autosam_test::check_fails;

namespace {

autosam_tensor tensor(void* data, std::int32_t dtype, std::vector<std::int64_t> shape,
                      std::vector<std::int64_t> strides = {}) {
  autosam_tensor view{};
  view.data = data;
  view.dtype = dtype;
  view.ndim = static_cast<std::int32_t>(shape.size());
  for (std::size_t i = 0; i < shape.size() && i < 4; ++i) view.shape[i] = shape[i];
  for (std::size_t i = 0; i < strides.size() && i < 4; ++i) view.strides[i] = strides[i];
  return view;
}

template <class Element>
std::vector<float> gathered(const std::vector<Element>& values, std::int32_t dtype,
                            const std::vector<std::int64_t>& strides, std::size_t origin = 0) {
  auto copy = values;
  const autosam_tensor view = tensor(copy.data() + origin, dtype, {2, 2, 3}, strides);
  std::vector<float> found(12, -1);
  const View checked = check_slices(&view);
  gather(checked, 0, 1, found.data());
  gather(checked, 1, 1, found.data() + 6);
  return found;
}

void check_slices_refused(const autosam_tensor& view, const std::string& expression) {
  check_fails([&] { check_slices(&view); }, AUTOSAM_INVALID_ARGUMENT, expression);
}

float buffer[64];

}  // namespace

TEST_CASE("every dtype becomes float32 exactly") {
  std::vector<float> wanted{-32768, -1, 0, 1, 32767, 5, 6, 7, 8, 9, 10, 11};
  std::vector<std::int16_t> shorts(wanted.begin(), wanted.end());
  CHECK(gathered(shorts, AUTOSAM_INT16, {}) == wanted);
  std::vector<std::uint16_t> words{65535, 32768, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  CHECK(gathered(words, AUTOSAM_UINT16, {}) == std::vector<float>(words.begin(), words.end()));
  std::vector<std::uint8_t> bytes{255, 128, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  CHECK(gathered(bytes, AUTOSAM_UINT8, {}) == std::vector<float>(bytes.begin(), bytes.end()));
  std::vector<float> floats{-0.0F, 1e-45F, 3.4e38F, 0.1F, 4, 5, 6, 7, 8, 9, 10, 11};
  CHECK(gathered(floats, AUTOSAM_FLOAT32, {}) == floats);
}

TEST_CASE("padded rows, slices across a volume, images upside down") {
  std::vector<std::int16_t> values(64);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::int16_t>(i);
  CHECK(gathered(values, AUTOSAM_INT16, {20, 8, 1}) ==
        std::vector<float>{0, 1, 2, 8, 9, 10, 20, 21, 22, 28, 29, 30});
  CHECK(gathered(values, AUTOSAM_INT16, {1, 2, 6}) ==
        std::vector<float>{0, 6, 12, 2, 8, 14, 1, 7, 13, 3, 9, 15});
  CHECK(gathered(values, AUTOSAM_INT16, {20, -8, 1}, 8) ==
        std::vector<float>{8, 9, 10, 0, 1, 2, 28, 29, 30, 20, 21, 22});
  CHECK(gathered(values, AUTOSAM_INT16, {0, 0, 1}) ==
        std::vector<float>{0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2});
}

TEST_CASE("results go where strides say, and nowhere else") {
  std::vector<std::uint8_t> place(40, 99);
  const autosam_tensor slices = tensor(buffer, AUTOSAM_FLOAT32, {2, 2, 3});
  const View labels = check_labels(tensor(place.data(), AUTOSAM_UINT8, {2, 2, 3}, {20, 8, 2}),
                                   check_slices(&slices));
  CHECK_FALSE(labels.packed());
  const std::vector<std::uint8_t> items{1, 2, 3, 4, 5, 6};
  scatter(items.data(), 1, 1, labels);
  std::vector<std::uint8_t> wanted(40, 99);
  for (const auto& [at, value] : {std::pair{20, 1}, {22, 2}, {24, 3}, {28, 4}, {30, 5}, {32, 6}}) {
    wanted[static_cast<std::size_t>(at)] = static_cast<std::uint8_t>(value);
  }
  CHECK(place == wanted);
}

TEST_CASE("packed: strides of axes of one element do not matter") {
  const auto packed = [](std::vector<std::int64_t> shape, std::vector<std::int64_t> strides) {
    const autosam_tensor view =
        tensor(buffer, AUTOSAM_FLOAT32, std::move(shape), std::move(strides));
    return check_slices(&view).packed();
  };
  CHECK(packed({2, 3, 4}, {}));
  CHECK(packed({2, 3, 4}, {12, 4, 1}));
  CHECK(packed({2, 1, 3, 4}, {12, 777, 4, 1}));
  CHECK(packed({1, 3, 4}, {-5, 4, 1}));
  CHECK_FALSE(packed({2, 3, 4}, {12, 5, 1}));
  CHECK_FALSE(packed({2, 3, 4}, {12, 4, 2}));
  CHECK_FALSE(packed({2, 3, 4}, {13, 4, 1}));
}

TEST_CASE("wrong slices") {
  check_fails([] { check_slices(nullptr); }, AUTOSAM_INVALID_ARGUMENT, "'slices'; got NULL");
  check_slices_refused(tensor(nullptr, AUTOSAM_FLOAT32, {1, 2, 2}), "got no data");
  check_slices_refused(tensor(buffer, 0, {1, 2, 2}), "got dtype 0; expected an autosam_dtype");
  check_slices_refused(tensor(buffer, 99, {1, 2, 2}), "dtype 99");
  check_slices_refused(tensor(buffer, AUTOSAM_FLOAT32, {2, 2}), "got 2 axes");
  check_slices_refused(tensor(buffer, AUTOSAM_FLOAT32, {1, 1, 1, 2, 2}), "got 5 axes");
  check_slices_refused(tensor(buffer, AUTOSAM_FLOAT32, {1, 2, 2, 2}), "got shape \\(1, 2, 2, 2\\)");
  for (const std::int64_t size : {std::int64_t{0}, std::int64_t{-1}, INT64_MIN}) {
    check_slices_refused(tensor(buffer, AUTOSAM_FLOAT32, {1, size, 2}), "none of them 0");
  }
  autosam_tensor device = tensor(buffer, AUTOSAM_FLOAT32, {1, 2, 2});
  device.memory = 1;
  CHECK(check_slices(&device).device == 0);
  device.memory = 2;
  check_slices_refused(device, "got memory 2, device 0; expected AUTOSAM_HOST");
  device.memory = AUTOSAM_HOST;
  device.device_id = 3;
  check_slices_refused(device, "device 3");
  auto* const odd = reinterpret_cast<char*>(buffer) + 1;
  check_slices_refused(tensor(odd, AUTOSAM_FLOAT32, {1, 2, 2}),
                       "multiple of 4; expected data aligned");
  check_slices_refused(tensor(odd, AUTOSAM_INT16, {1, 2, 2}), "multiple of 2");
}

TEST_CASE("sizes beyond what can be addressed") {
  constexpr std::int64_t kMost = INT64_MAX;
  const std::vector<std::vector<std::int64_t>> shapes{
      {kMost, 1, 1},     {1, kMost, kMost},         {kMost / 4, 2, 1},
      {kMost / 2, 1, 1}, {1LL << 31, 1LL << 31, 2}, {1LL << 32, 1LL << 32, 1LL << 32}};
  for (const auto& shape : shapes) {
    for (const std::int32_t dtype : {AUTOSAM_FLOAT32, AUTOSAM_UINT8}) {
      check_slices_refused(tensor(buffer, dtype, shape), "a size that can be addressed");
    }
  }
  for (const std::int64_t stride : {kMost, INT64_MIN, -kMost, kMost / 3}) {
    check_slices_refused(tensor(buffer, AUTOSAM_FLOAT32, {3, 2, 2}, {stride, 2, 1}),
                         "a size that can be addressed");
  }
}

TEST_CASE("wrong outputs") {
  const autosam_tensor slices = tensor(buffer, AUTOSAM_FLOAT32, {2, 3, 4});
  const View view = check_slices(&slices);
  const auto labels_refused = [&](const autosam_tensor& out, const std::string& expression) {
    check_fails([&] { check_labels(out, view); }, AUTOSAM_INVALID_ARGUMENT, expression);
  };
  const auto logits_refused = [&](const autosam_tensor& out, const std::string& expression) {
    check_fails([&] { check_logits(out, view, 2); }, AUTOSAM_INVALID_ARGUMENT, expression);
  };
  CHECK(check_labels(tensor(buffer, AUTOSAM_UINT8, {2, 3, 4}), view).packed());
  CHECK(check_labels(tensor(buffer, AUTOSAM_UINT8, {2, 1, 3, 4}), view).packed());
  CHECK(check_logits(tensor(buffer, AUTOSAM_FLOAT32, {2, 2, 3, 4}), view, 2).packed());
  labels_refused(tensor(buffer, AUTOSAM_UINT8, {2, 4, 3}),
                 "'labels'; got shape .2, 4, 3.; expected .2, 3, 4");
  labels_refused(tensor(buffer, AUTOSAM_FLOAT32, {2, 3, 4}), "expected AUTOSAM_UINT8");
  labels_refused(tensor(nullptr, AUTOSAM_UINT8, {2, 3, 4}), "no data");
  labels_refused(tensor(buffer, AUTOSAM_UINT8, {2, 3, 4}, {12, 3, 1}), "a place for every element");
  labels_refused(tensor(buffer, AUTOSAM_UINT8, {2, 3, 4}, {11, 4, 1}), "a place for every element");
  labels_refused(tensor(buffer, AUTOSAM_UINT8, {2, 3, 4}, {0, 4, 1}), "a place for every element");
  logits_refused(tensor(buffer, AUTOSAM_FLOAT32, {2, 3, 3, 4}), "expected .2, 2, 3, 4");
  logits_refused(tensor(buffer, AUTOSAM_FLOAT32, {2, 3, 4}), "shape");
  logits_refused(tensor(buffer, AUTOSAM_UINT8, {2, 2, 3, 4}), "expected AUTOSAM_FLOAT32");
}

TEST_CASE("values that are not finite are counted, wherever they are") {
  std::vector<float> values(10'000, 1.0F);
  values[0] = std::numeric_limits<float>::max();
  values[1] = std::numeric_limits<float>::denorm_min();
  const autosam_tensor packed = tensor(values.data(), AUTOSAM_FLOAT32, {10, 10, 100});
  const autosam_tensor padded =
      tensor(values.data(), AUTOSAM_FLOAT32, {10, 10, 99}, {1000, 100, 1});
  check_finite(check_slices(&packed));
  values[4096] = std::numeric_limits<float>::quiet_NaN();
  values[9998] = -std::numeric_limits<float>::infinity();
  values[9999] = std::numeric_limits<float>::infinity();
  check_fails([&] { check_finite(check_slices(&packed)); }, AUTOSAM_INVALID_ARGUMENT,
              "not finite; got 3 of 10000");
  check_fails([&] { check_finite(check_slices(&padded)); }, AUTOSAM_INVALID_ARGUMENT,
              "not finite; got 2 of 9900");
}

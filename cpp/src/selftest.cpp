// Golden self-test: does this engine, here and now, give what the segmenter gave at export?
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "error.hpp"
#include "fields.hpp"
#include "npy.hpp"
#include "session.hpp"

namespace autosam::core {
namespace {

constexpr std::size_t kLargestRecord = std::size_t{4} << 20;
constexpr std::size_t kLargestGolden = std::size_t{1} << 30;

// An array of a golden case.
template <class Element>
struct Golden {
  std::vector<std::int64_t> shape;
  std::vector<Element> values;
};

template <class Element>
Golden<Element> read_golden(const Bundle& bundle, const FileRef& ref, const std::string& dtype) {
  const std::string content = bundle.read(ref, kLargestGolden);
  const std::string what = "golden file '" + ref.path + "'";
  try {
    const NpyHeader header = parse_npy(content);
    if (header.dtype != dtype) {
      throw Error(AUTOSAM_BAD_BUNDLE, Message(what).got(header.dtype).expected(dtype));
    }
    Golden<Element> golden;
    golden.shape = header.shape;
    golden.values.resize((content.size() - header.offset) / sizeof(Element));
    std::memcpy(golden.values.data(), content.data() + header.offset,
                content.size() - header.offset);
    return golden;
  } catch (const std::invalid_argument& error) {
    throw Error(AUTOSAM_BAD_BUNDLE, Message(what + " cannot be read").got(error.what()));
  }
}

void check_shape(const FileRef& ref, const std::vector<std::int64_t>& found,
                 const std::vector<std::int64_t>& wanted) {
  if (found == wanted) return;
  const auto shown = [](const std::vector<std::int64_t>& shape) {
    std::string text;
    for (const std::int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
    return "(" + text + ")";
  };
  throw Error(AUTOSAM_BAD_BUNDLE, Message("golden file '" + ref.path + "'")
                                      .got("shape " + shown(found))
                                      .expected(shown(wanted)));
}

autosam_tensor tensor_of(void* data, autosam_dtype dtype, const std::vector<std::int64_t>& shape) {
  autosam_tensor tensor{};
  tensor.data = data;
  tensor.dtype = dtype;
  tensor.ndim = static_cast<std::int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), tensor.shape);
  return tensor;
}

struct Comparison {
  std::string precision;
  double gate = 0.0;
};

Comparison read_comparison(const Json& value, const Place& place) {
  Fields fields(value, place);
  Comparison comparison;
  comparison.precision = fields.text("precision");
  comparison.gate = fields.number("gate");
  if (!(comparison.gate >= 0)) fields.at("gate").refuse("a negative number", "0 or more");
  return comparison;
}

// The gate that export held a precision to.
double gate_of(const Bundle& bundle, const std::string& precision) {
  const FileRef& ref = bundle.manifest.parity;
  const Json json = parse_json(bundle.read(ref, kLargestRecord), ref.path);
  Fields fields(json, {ref.path, ""});
  const auto comparisons = read_list<Comparison>(fields.required("comparisons"),
                                                 fields.at("comparisons"), 1, read_comparison);
  for (const Comparison& one : comparisons) {
    if (one.precision == precision) return one.gate;
  }
  throw Error(AUTOSAM_BAD_BUNDLE, Message("the bundle's record has no gate for " + precision)
                                      .todo("export the bundle again in this precision"));
}

// The largest |difference|; not a number if there is one.
double largest_difference(const std::vector<float>& found, const std::vector<float>& wanted) {
  double largest = 0.0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double difference = std::abs(found[i] - wanted[i]);
    if (std::isnan(difference)) return difference;
    largest = std::max(largest, difference);
  }
  return largest;
}

// By how much the truth preferred its label to the next, at a pixel.
double margin_at(const Golden<float>& logits, std::int64_t pixel) {
  const std::int64_t classes = logits.shape[1];
  const std::int64_t pixels = logits.shape[2] * logits.shape[3];
  const std::int64_t begin = pixel / pixels * classes * pixels + pixel % pixels;
  float first = -std::numeric_limits<float>::infinity();
  float second = first;
  for (std::int64_t k = 0; k < classes; ++k) {
    const float value = logits.values[static_cast<std::size_t>(begin + k * pixels)];
    second = std::max(second, std::min(first, value));
    first = std::max(first, value);
  }
  return first - second;
}

}  // namespace

SelftestResult Session::selftest() const {
  const ModelSpec& model = bundle_.manifest.model;
  SelftestResult result;
  result.gate = gate_of(bundle_, info().precision);
  for (const GoldenCase& one : bundle_.manifest.golden) {
    auto slices = read_golden<float>(bundle_, one.slices, "float32");
    const auto labels = read_golden<std::uint8_t>(bundle_, one.labels, "uint8");
    const auto logits = read_golden<float>(bundle_, one.logits, "float32");
    if (slices.shape.size() != 4) check_shape(one.slices, slices.shape, {1, 1, 1, 1});
    const std::int64_t count = slices.shape[0];
    const std::int64_t height = slices.shape[2];
    const std::int64_t width = slices.shape[3];
    check_shape(one.slices, slices.shape, {count, 1, height, width});
    check_shape(one.labels, labels.shape, {count, height, width});
    check_shape(one.logits, logits.shape, {count, model.num_classes, height, width});

    std::vector<std::uint8_t> found_labels(labels.values.size());
    std::vector<float> found_logits(logits.values.size());
    const autosam_tensor input = tensor_of(slices.values.data(), AUTOSAM_FLOAT32, slices.shape);
    const autosam_tensor label_out = tensor_of(found_labels.data(), AUTOSAM_UINT8, labels.shape);
    const autosam_tensor logit_out = tensor_of(found_logits.data(), AUTOSAM_FLOAT32, logits.shape);
    const bool has_logits = model.has_output("logits");
    RunOptions options;
    options.max_batch = -1;
    run(&input, &label_out, has_logits ? &logit_out : nullptr, options);

    std::int64_t wrong = 0;
    double margin = 0.0;
    for (std::size_t i = 0; i < found_labels.size(); ++i) {
      if (found_labels[i] == labels.values[i]) continue;
      ++wrong;
      margin = std::max(margin, margin_at(logits, static_cast<std::int64_t>(i)));
    }
    const double share = static_cast<double>(wrong) / static_cast<double>(found_labels.size());
    result.agreement = std::min(result.agreement, 1.0 - share);
    result.largest_wrong_margin = std::max(result.largest_wrong_margin, margin);
    // Logits decide where there are any. Labels alone may differ where logits nearly tie: two that
    // are each within the gate can swap places when they lie within twice of it.
    bool passed = margin <= 2 * result.gate;
    if (has_logits) {
      const double difference = largest_difference(found_logits, logits.values);
      passed = difference <= result.gate;
      const bool nan = std::isnan(result.max_logit_difference);
      if (!nan && !(difference <= result.max_logit_difference)) {
        result.max_logit_difference = difference;
      }
    }
    ++result.cases;
    result.passed += passed ? 1 : 0;
  }
  return result;
}

}  // namespace autosam::core

#include "plan.hpp"

#include <algorithm>

#include "../sha256.hpp"

namespace autosam::core {
namespace {

std::string read_plan(const Bundle& bundle, const FileRef& ref) {
  std::string plan = bundle.read(ref, static_cast<std::size_t>(ref.bytes));
  const std::string digest = sha256(plan.data(), plan.size());
  if (digest != ref.sha256) {
    throw Error(
        AUTOSAM_BAD_BUNDLE,
        Message("engine '" + ref.path + "' of '" + bundle.folder.string() + "' was altered")
            .got(std::to_string(plan.size()) + " bytes, sha256 " + digest.substr(0, 16) + "...")
            .expected(std::to_string(ref.bytes) + " bytes, " + ref.sha256.substr(0, 16) + "...")
            .todo("copy the bundle or build the engine again"));
  }
  return plan;
}

// "in float32 slices (-1, 1, -1, -1)", sorted by name: the order of an engine's tensors is its own.
std::string shown(std::vector<std::string> tensors) {
  std::sort(tensors.begin(), tensors.end());
  std::string text;
  for (const std::string& tensor : tensors) text += (text.empty() ? "" : "; ") + tensor;
  return text;
}

std::string shape_of(const std::int64_t* sizes, std::int32_t rank) {
  std::string text;
  for (std::int32_t axis = 0; axis < rank; ++axis) {
    text += (axis == 0 ? "" : ", ") + std::to_string(sizes[axis]);
  }
  return "(" + text + ")";
}

}  // namespace

Plan::Plan(const TrtLibrary& library, const Bundle& bundle, const EngineChoice& choice)
    : library_(library),
      engine_info_(*choice.artefact->engine),
      outputs_(bundle.manifest.outputs),
      again_(rebuild_engine(engine_info_.family,
                            static_cast<int>(engine_info_.compute_capabilities.front()), bundle)),
      engine_(nullptr, library.call().unload) {
  const std::string plan = read_plan(bundle, choice.artefact->file);
  const std::uint64_t since = library.call().mark();
  engine_.reset(library.call().load(plan.data(), plan.size()));
  if (engine_ == nullptr) {
    throw library.failure(
        std::string(title()) + " cannot load '" + choice.artefact->file.path + "'", since,
        rebuild_engine(engine_info_.family, 0, bundle));
  }
  check_tensors(bundle.manifest);
  check_profile(bundle.manifest);
}

void Plan::check_tensors(const Manifest& manifest) const {
  std::vector<std::string> found;
  for (std::int32_t i = 0; i < library_.call().tensors(engine_.get()); ++i) {
    autosam_trt_tensor tensor{};
    if (library_.call().tensor(engine_.get(), i, &tensor) == 0) {
      throw Error(AUTOSAM_RUNTIME_ERROR,
                  Message(std::string(title()) + " cannot describe a tensor"));
    }
    found.push_back((tensor.is_output == 1 ? "out " : "in ") + std::string(tensor.dtype) + " " +
                    tensor.name + " " + shape_of(tensor.shape, tensor.rank));
  }
  std::vector<std::string> wanted;
  const auto add = [&wanted](const std::string& way, const std::vector<TensorSpec>& tensors) {
    for (const TensorSpec& tensor : tensors) {
      std::vector<std::int64_t> sizes;
      for (const auto& size : tensor.shape) {
        sizes.push_back(std::holds_alternative<std::string>(size) ? -1
                                                                  : std::get<std::int64_t>(size));
      }
      wanted.push_back(way + " " + tensor.dtype + " " + tensor.name + " " +
                       shape_of(sizes.data(), static_cast<std::int32_t>(sizes.size())));
    }
  };
  add("in", manifest.inputs);
  add("out", manifest.outputs);
  if (shown(found) == shown(wanted)) return;
  throw Error(
      AUTOSAM_RUNTIME_ERROR,
      Message("the engine contradicts the manifest").got(shown(found)).expected(shown(wanted)));
}

// One optimisation profile, and it is the recorded one.
void Plan::check_profile(const Manifest& manifest) const {
  const std::int32_t profiles = library_.call().profiles(engine_.get());
  if (profiles != 1) {
    throw Error(AUTOSAM_RUNTIME_ERROR, Message("the engine has several optimisation profiles")
                                           .got(std::to_string(profiles))
                                           .expected("1"));
  }
  const TensorSpec& slices = manifest.inputs.front();
  autosam_trt_tensor tensor{};
  for (std::int32_t i = 0; tensor.name == nullptr || tensor.name != slices.name; ++i) {
    static_cast<void>(library_.call().tensor(engine_.get(), i, &tensor));
  }
  std::string found;
  std::string wanted;
  for (std::size_t at = 0; at < 3; ++at) {
    std::vector<std::int64_t> sizes;
    for (const auto& size : slices.shape) {
      sizes.push_back(std::holds_alternative<std::string>(size)
                          ? limits(std::get<std::string>(size))[at]
                          : std::get<std::int64_t>(size));
    }
    found += shape_of(tensor.profile[at], tensor.rank);
    wanted += shape_of(sizes.data(), static_cast<std::int32_t>(sizes.size()));
  }
  if (found == wanted) return;
  throw Error(AUTOSAM_RUNTIME_ERROR,
              Message("the engine's profile contradicts its record").got(found).expected(wanted));
}

std::array<std::int64_t, 3> Plan::limits(const std::string& axis) const {
  const auto found = engine_info_.profile.find(axis);
  if (found != engine_info_.profile.end()) return found->second;
  throw Error(
      AUTOSAM_RUNTIME_ERROR,
      Message("the engine's record has no sizes for an axis").expected("a profile with " + axis));
}

std::vector<std::int64_t> Plan::parts(std::int64_t count, std::int64_t height,
                                      std::int64_t width) const {
  const auto inside = [this](const std::string& axis, std::int64_t size) {
    const auto sizes = limits(axis);
    return size >= sizes[0] && size <= sizes[2];
  };
  const auto batches = limits("B");
  auto parts = split_batch(count, batches[0], batches[2]);
  if (parts && inside("H", height) && inside("W", width)) return std::move(*parts);
  std::string known;
  for (const auto& [axis, sizes] : engine_info_.profile) {
    known += (known.empty() ? "" : ", ") + axis + " " + std::to_string(sizes[0]) + " to " +
             std::to_string(sizes[2]);
  }
  throw Error(AUTOSAM_INVALID_ARGUMENT,
              Message("slices are outside the engine's profile")
                  .got("B " + std::to_string(count) + ", H " + std::to_string(height) + ", W " +
                       std::to_string(width))
                  .expected(known)
                  .todo(again_ + " with --batch and --size that hold them, or use backend "
                                 "onnxruntime"));
}

std::optional<std::vector<std::int64_t>> split_batch(std::int64_t count, std::int64_t low,
                                                     std::int64_t high) {
  const std::int64_t parts = (count + high - 1) / high;
  const std::int64_t base = count / parts;
  if (base < low) return std::nullopt;
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(parts), base);
  std::fill_n(sizes.begin(), count % parts, base + 1);
  return sizes;
}

}  // namespace autosam::core

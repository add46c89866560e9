// The manifest: everything that a host must know about a bundle, strict and versioned.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model_spec.hpp"

namespace autosam::core {

constexpr std::int64_t kSchemaVersion = 2;
constexpr const char* kManifestName = "manifest.json";

// A member of the bundle, bound by its content.
struct FileRef {
  std::string path;  // POSIX, relative, inside the bundle
  std::string sha256;
  std::int64_t bytes = 0;
};

// Smallest, best and largest size by the symbol of an axis ("B", "H", "W").
using Profile = std::map<std::string, std::array<std::int64_t, 3>>;

// What an engine was built with and for; it runs nowhere else.
struct EngineInfo {
  std::string family;                              // tensorrt, tensorrt_rtx
  std::string version;                             // of the library, all its parts
  std::string platform;                            // linux-x86_64
  std::vector<std::int64_t> compute_capabilities;  // 89 is sm89
  std::string graph_sha256;
  Profile profile;
  std::optional<FileRef> log;  // what its builder said
};

// One executable form of the model.
struct Artefact {
  std::string kind;       // onnx, weights, engine
  std::string precision;  // fp32, fp16, bf16, int8
  FileRef file;
  std::optional<FileRef> external_data;
  std::optional<EngineInfo> engine;
};

// Raw slices (B, 1, H, W) float32 and what the segmenter makes of them, as .npy files.
struct GoldenCase {
  std::string name;
  FileRef slices;
  FileRef labels;
  FileRef logits;
};

struct Manifest {
  std::string name;
  bool trained = false;
  std::string intended_use;
  ModelSpec model;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::vector<Artefact> artefacts;
  std::vector<GoldenCase> golden;
  FileRef parity;

  // Every member file that the manifest names.
  [[nodiscard]] std::vector<const FileRef*> files() const;
  // The first artefact of a kind and precision, or NULL.
  [[nodiscard]] const Artefact* find(const std::string& kind, const std::string& precision) const;
};

// Validate the UTF-8 text of a manifest; touches no file.
//
// Throws Error(BAD_BUNDLE): no JSON, another schema version, unknown or missing keys, unsafe paths,
// entries that contradict each other.
Manifest parse_manifest(std::string_view text, const std::string& name = kManifestName);

}  // namespace autosam::core

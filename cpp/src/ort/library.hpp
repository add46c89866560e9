// ONNX Runtime through its C table: one binary works with every runtime from 1.20 on.
#pragma once

#include <onnxruntime_c_api.h>

#include <memory>
#include <string>
#include <vector>

#include "../error.hpp"

namespace autosam::core {

// One loaded ONNX Runtime and its environment; they live as long as the process.
class OrtLibrary {
 public:
  // Load a runtime, once for each file.
  //
  // Throws Error(BACKEND_UNAVAILABLE): missing, no ONNX Runtime, or older than 1.20.
  static const OrtLibrary& open(const std::string& asked);

  [[nodiscard]] const OrtApi& api() const { return *api_; }
  // The table that has plugins of providers, or NULL where ONNX Runtime is older (1.23).
  [[nodiscard]] const OrtApi* plugin_table() const { return plugin_table_; }
  [[nodiscard]] OrtEnv& env() const { return *env_; }
  [[nodiscard]] const std::string& version() const { return version_; }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::vector<std::string> providers() const;

  // Turn a failure into an Error of that status; one that means a full memory is OUT_OF_MEMORY.
  void check(OrtStatus* status, const std::string& what,
             autosam_status kind = AUTOSAM_RUNTIME_ERROR) const;

 private:
  OrtLibrary(const OrtApi* api, const OrtApi* plugin_table, std::string version, std::string path);

  const OrtApi* api_;
  const OrtApi* plugin_table_;
  OrtEnv* env_ = nullptr;
  std::string version_;
  std::string path_;
};

// Owns an object of the runtime.
template <class Object>
class OrtOwned {
 public:
  using Release = void(ORT_API_CALL*)(Object*);
  explicit OrtOwned(Release release) : object_(nullptr, release) {}
  // For functions that hand an object over through a pointer; called at most once.
  Object** out() { return &raw_; }
  // To be called after a function succeeded.
  void adopt() { object_.reset(raw_); }
  [[nodiscard]] Object* get() const { return object_.get(); }

 private:
  Object* raw_ = nullptr;
  std::unique_ptr<Object, Release> object_;
};

}  // namespace autosam::core

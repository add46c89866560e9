// OpenVINO through its C functions, opened at run time: one binary works with every release from
// 2025.0 on. What is declared here is as much of the C interface as is used (OpenVINO's
// documentation, "OpenVINO C API Reference"); numbers of element types differ between releases and
// are asked of the model instead.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../error.hpp"
#include "../shared_library.hpp"

namespace autosam::core {

struct OvCore;
struct OvModel;
struct OvCompiled;
struct OvRequest;
struct OvTensor;
struct OvPort;

struct OvVersion {
  const char* build = nullptr;
  const char* description = nullptr;
};
struct OvDimension {
  std::int64_t least = 0;
  std::int64_t most = 0;  // -1: no end
};
struct OvPartialShape {
  OvDimension rank;
  OvDimension* sizes = nullptr;
};
struct OvShape {
  std::int64_t rank = 0;
  std::int64_t* sizes = nullptr;
};

constexpr int kOvCancelled = -13;

// Functions that return a number return 0 on success.
struct OvFunctions {
  int (*get_version)(OvVersion*);
  void (*free_version)(OvVersion*);
  const char* (*last_error)();  // a copy, to be freed
  void (*free_text)(const char*);
  int (*core_create)(OvCore**);
  int (*core_property)(const OvCore*, const char*, const char*, char**);
  int (*read_model)(const OvCore*, const char*, const char*, OvModel**);
  void (*free_model)(OvModel*);
  // The count is that of the texts behind it: keys and values by turns.
  int (*compile)(const OvCore*, const OvModel*, const char*, std::size_t, OvCompiled**, ...);
  void (*free_compiled)(OvCompiled*);
  int (*compiled_property)(const OvCompiled*, const char*, char**);
  int (*inputs_size)(const OvCompiled*, std::size_t*);
  int (*outputs_size)(const OvCompiled*, std::size_t*);
  int (*input_at)(const OvCompiled*, std::size_t, OvPort**);
  int (*output_at)(const OvCompiled*, std::size_t, OvPort**);
  void (*free_port)(OvPort*);
  int (*port_type)(const OvPort*, std::int32_t*);
  int (*port_name)(const OvPort*, char**);
  int (*port_shape)(const OvPort*, OvPartialShape*);
  void (*free_shape)(OvPartialShape*);
  int (*create_request)(const OvCompiled*, OvRequest**);
  void (*free_request)(OvRequest*);
  int (*set_tensor)(OvRequest*, const char*, const OvTensor*);
  int (*get_tensor)(const OvRequest*, const char*, OvTensor**);
  int (*start)(OvRequest*);
  int (*wait)(OvRequest*);
  int (*cancel)(OvRequest*);
  int (*tensor_create)(std::int32_t, OvShape, OvTensor**);
  int (*tensor_over)(std::int32_t, OvShape, void*, OvTensor**);
  int (*tensor_bytes)(const OvTensor*, std::size_t*);
  int (*tensor_data)(const OvTensor*, void**);
  void (*free_tensor)(OvTensor*);
};

// Owns an object of the runtime.
template <class Object>
using OvOwned = std::unique_ptr<Object, void (*)(Object*)>;

// One loaded OpenVINO and its core; they live as long as the process.
class OvLibrary {
 public:
  // Load it, once for each file.
  //
  // Throws Error(BACKEND_UNAVAILABLE): missing, no OpenVINO, or older than 2025.0.
  static const OvLibrary& open(const std::string& asked);

  [[nodiscard]] const OvFunctions& call() const { return functions_; }
  [[nodiscard]] const OvCore* core() const { return core_; }
  [[nodiscard]] const std::string& version() const { return version_; }
  [[nodiscard]] const std::string& path() const { return path_; }

  // Turn a failure into an Error of that status; one that means a full memory is OUT_OF_MEMORY.
  void check(int status, const std::string& what,
             autosam_status kind = AUTOSAM_RUNTIME_ERROR) const;
  // A text that the runtime allocated; it is freed.
  [[nodiscard]] std::string take(char* text) const;

 private:
  OvLibrary(const SharedLibrary& library, const OvFunctions& functions, std::string version);

  OvFunctions functions_;
  OvCore* core_ = nullptr;
  std::string version_;
  std::string path_;
};

}  // namespace autosam::core

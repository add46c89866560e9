#include "library.hpp"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <sstream>

#include "../backend.hpp"

namespace autosam::core {
namespace {

constexpr int kFloor = 2025;

template <class Function>
void find(const SharedLibrary& library, Function& function, const char* name) {
  function = reinterpret_cast<Function>(library.symbol(name));
  if (function == nullptr) {
    throw Error(AUTOSAM_BACKEND_UNAVAILABLE, Message("'" + library.path() + "' is no OpenVINO")
                                                 .got(std::string("a library without ") + name)
                                                 .expected("libopenvino_c.so of 2025.0 or later"));
  }
}

OvFunctions find_all(const SharedLibrary& library) {
  OvFunctions all{};
  find(library, all.free_version, "ov_version_free");
  find(library, all.last_error, "ov_get_last_err_msg");
  find(library, all.free_text, "ov_free");
  find(library, all.core_create, "ov_core_create");
  find(library, all.core_property, "ov_core_get_property");
  find(library, all.read_model, "ov_core_read_model");
  find(library, all.free_model, "ov_model_free");
  find(library, all.compile, "ov_core_compile_model");
  find(library, all.free_compiled, "ov_compiled_model_free");
  find(library, all.compiled_property, "ov_compiled_model_get_property");
  find(library, all.inputs_size, "ov_compiled_model_inputs_size");
  find(library, all.outputs_size, "ov_compiled_model_outputs_size");
  find(library, all.input_at, "ov_compiled_model_input_by_index");
  find(library, all.output_at, "ov_compiled_model_output_by_index");
  find(library, all.free_port, "ov_output_const_port_free");
  find(library, all.port_type, "ov_port_get_element_type");
  find(library, all.port_name, "ov_port_get_any_name");
  find(library, all.port_shape, "ov_port_get_partial_shape");
  find(library, all.free_shape, "ov_partial_shape_free");
  find(library, all.create_request, "ov_compiled_model_create_infer_request");
  find(library, all.free_request, "ov_infer_request_free");
  find(library, all.set_tensor, "ov_infer_request_set_tensor");
  find(library, all.get_tensor, "ov_infer_request_get_tensor");
  find(library, all.start, "ov_infer_request_start_async");
  find(library, all.wait, "ov_infer_request_wait");
  find(library, all.cancel, "ov_infer_request_cancel");
  find(library, all.tensor_create, "ov_tensor_create");
  find(library, all.tensor_over, "ov_tensor_create_from_host_ptr");
  find(library, all.tensor_bytes, "ov_tensor_get_byte_size");
  find(library, all.tensor_data, "ov_tensor_data");
  find(library, all.free_tensor, "ov_tensor_free");
  return all;
}

// "2026.4.1-22982" of "2026.4.1-22982-e213a147257-releases/2026/4", or "" if it cannot be told.
std::string version_of(const SharedLibrary& library) {
  int (*get)(OvVersion*) = nullptr;
  find(library, get, "ov_get_openvino_version");
  OvVersion version;
  if (get(&version) != 0 || version.build == nullptr) return "";
  const std::string build = version.build;
  void (*release)(OvVersion*) = nullptr;
  find(library, release, "ov_version_free");
  release(&version);
  return build.substr(0, build.find('-', std::min(build.size(), build.find('-') + 1)));
}

// Without the lines of OpenVINO's own source places, and no page of the others.
std::string shortened(const std::string& text) {
  constexpr std::size_t kLongest = 300;
  std::istringstream lines(text);
  std::string line;
  std::string kept;
  while (std::getline(lines, line)) {
    if (line.rfind("Exception from", 0) != 0 && !line.empty()) kept += " " + line;
  }
  return kept.size() > kLongest ? kept.substr(kept.size() - kLongest) : kept;
}

}  // namespace

OvLibrary::OvLibrary(const SharedLibrary& library, const OvFunctions& functions,
                     std::string version)
    : functions_(functions), version_(std::move(version)), path_(library.path()) {
  check(functions_.core_create(&core_), "OpenVINO cannot start", AUTOSAM_BACKEND_UNAVAILABLE);
}

const OvLibrary& OvLibrary::open(const std::string& asked) {
  // Packages without development files carry the release in the name alone (libopenvino_c.so.2641):
  // in a folder it is found by its beginning.
  const SharedLibrary library =
      SharedLibrary::find("OpenVINO", asked, "AUTOSAM_OPENVINO_LIB", {"libopenvino_c.so"});
  static std::mutex mutex;
  // Never destroyed: sessions may outlive everything else in a process that ends.
  static auto* const loaded = new std::map<void*, std::unique_ptr<OvLibrary>>();
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<OvLibrary>& entry = (*loaded)[library.handle()];
  if (entry != nullptr) return *entry;
  const std::string version = version_of(library);
  if (std::atoi(version.c_str()) < kFloor) {
    throw Error(AUTOSAM_BACKEND_UNAVAILABLE,
                Message("OpenVINO '" + library.path() + "' cannot be used")
                    .got(version.empty() ? "no version" : "version " + version)
                    .expected("2025.0 or later"));
  }
  entry.reset(new OvLibrary(library, find_all(library), version));
  return *entry;
}

std::string OvLibrary::take(char* text) const {
  const std::unique_ptr<char, void (*)(const char*)> owned(text, functions_.free_text);
  return text == nullptr ? "" : text;
}

void OvLibrary::check(int status, const std::string& what, autosam_status kind) const {
  if (status == 0) return;
  // OpenVINO keeps one text for all threads: where two fail at once it may be the other's.
  const std::unique_ptr<const char, void (*)(const char*)> owned(functions_.last_error(),
                                                                 functions_.free_text);
  const std::string text = owned == nullptr ? "" : shortened(owned.get());
  const std::string got = text.empty() ? "status " + std::to_string(status) : text;
  if (means_out_of_memory(text)) {
    throw Error(
        AUTOSAM_OUT_OF_MEMORY,
        Message("the batch does not fit into memory").got(got).todo("use a smaller max_batch"));
  }
  throw Error(kind, Message(what).got(got));
}

}  // namespace autosam::core

// The C boundary: structs of any version in, statuses out, no exception beyond.
#include <autosam.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <new>
#include <string>

#include "error.hpp"
#include "handles.hpp"
#include "session.hpp"
#include "version.hpp"

namespace {

using autosam::core::Error;
using autosam::core::guarded;
using autosam::core::Handles;
using autosam::core::Message;
using autosam::core::Session;
using autosam::core::Token;

// An object in static memory whose destructor is never run: hosts close sessions in destructors of
// static objects too. It needs no memory of the heap, so getting it cannot fail.
template <class Object>
class Immortal {
 public:
  explicit Immortal(const char* name) { new (&storage_) Object(name); }
  Object& get() { return *std::launder(reinterpret_cast<Object*>(&storage_)); }

 private:
  alignas(Object) unsigned char storage_[sizeof(Object)];
};

Handles<Session, autosam_session>& sessions() {
  static Immortal<Handles<Session, autosam_session>> all("session");
  return all.get();
}

Handles<Token, autosam_token>& tokens() {
  static Immortal<Handles<Token, autosam_token>> all("token");
  return all.get();
}

[[noreturn]] void refuse(const std::string& what, const std::string& got,
                         const std::string& expected) {
  throw Error(AUTOSAM_INVALID_ARGUMENT, Message(what).got(got).expected(expected));
}

template <class Pointer>
Pointer* not_null(Pointer* pointer, const char* name) {
  if (pointer == nullptr) refuse(std::string("'") + name + "'", "NULL", "a pointer");
  return pointer;
}

// The size that a struct had in the first version of the library.
template <class Struct>
constexpr std::size_t kFirstSize = sizeof(Struct);
template <>
constexpr std::size_t kFirstSize<autosam_options> = offsetof(autosam_options, provider_library);
template <>
constexpr std::size_t kFirstSize<autosam_run_options> = offsetof(autosam_run_options, cuda_stream);

// A struct of another version's size: an older one lacks members at the end; a newer one may have
// members that are not known here, as long as they are zero.
template <class Struct>
void check_size(const Struct& given, const char* name) {
  constexpr std::size_t kMost = 4096;
  const std::size_t size = given.struct_size;
  if (size != kFirstSize<Struct> && (size < sizeof(Struct) || size > kMost)) {
    refuse(std::string("struct_size of ") + name, std::to_string(size),
           std::to_string(sizeof(Struct)) + " or more");
  }
}

template <class Struct>
Struct read_struct(const Struct* given, const char* name) {
  check_size(*given, name);
  Struct copy{};
  std::memcpy(&copy, given, std::min(sizeof copy, given->struct_size));
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  const bool more = given->struct_size > sizeof copy &&
                    std::any_of(bytes + sizeof copy, bytes + given->struct_size,
                                [](unsigned char byte) { return byte != 0; });
  if (more) {
    refuse(std::string(name) + " of a newer version", "members that this library does not know",
           "members of version " AUTOSAM_VERSION_TEXT);
  }
  return copy;
}

template <class Struct>
void write_struct(Struct value, Struct* target, const char* name) {
  check_size(*target, name);
  value.struct_size = target->struct_size;
  std::memcpy(target, &value, std::min(sizeof value, value.struct_size));
}

std::string word(const char* text) {
  return text == nullptr ? "auto" : text;
}

autosam::core::Request request_of(const autosam_options& options) {
  constexpr std::int32_t kMostThreads = 4096;
  if (options.threads < 0 || options.threads > kMostThreads) {
    refuse("threads", std::to_string(options.threads), "1 or more, 0 for every usable core");
  }
  autosam::core::Request request;
  request.device = word(options.device);
  request.precision = word(options.precision);
  request.provider = word(options.provider);
  if (options.runtime_library != nullptr) request.runtime_library = options.runtime_library;
  if (options.provider_library != nullptr) request.provider_library = options.provider_library;
  request.threads = options.threads;
  request.log = {options.log, options.log_user};
  return request;
}

std::shared_ptr<Session> open(const char* path, const autosam_options& options) {
  const autosam::core::Request request = request_of(options);
  if (request.device != "auto") autosam::core::parse_device(request.device);
  auto bundle = autosam::core::Bundle::open(not_null(path, "path"), options.verify != 0);
  for (const std::string& note : bundle.notes) {
    request.log.warning("bundle '" + bundle.folder.string() + "': " + note + "; it is ignored");
  }
  auto backend = autosam::core::open_backend(word(options.backend), bundle, request);
  auto session = std::make_shared<Session>(std::move(bundle), std::move(backend), request.log);
  const auto& info = session->info();
  request.log.info("opened '" + session->bundle().manifest.name + "' with " + info.backend + " " +
                   info.runtime_version + " on " + info.device + " in " + info.precision + ": " +
                   info.reason);
  return session;
}

autosam_info describe(const Session& session) {
  const auto& manifest = session.bundle().manifest;
  const auto& used = session.info();
  autosam_info info{};
  info.name = manifest.name.c_str();
  info.intended_use = manifest.intended_use.c_str();
  info.backend = used.backend.c_str();
  info.device = used.device.c_str();
  info.provider = used.provider.c_str();
  info.precision = used.precision.c_str();
  info.artefact = used.artefact.c_str();
  info.reason = used.reason.c_str();
  info.runtime_version = used.runtime_version.c_str();
  info.runtime_library = used.runtime_library.c_str();
  info.slice_axis = manifest.model.slice_axis.c_str();
  info.manifest_sha256 = session.bundle().manifest_sha256.c_str();
  info.trained = manifest.trained ? 1 : 0;
  info.fell_back = used.fell_back ? 1 : 0;
  info.threads = used.threads;
  info.num_classes = static_cast<std::int32_t>(manifest.model.num_classes);
  info.has_logits = manifest.model.has_output("logits") ? 1 : 0;
  info.image_height = static_cast<std::int32_t>(manifest.model.image_size[0]);
  info.image_width = static_cast<std::int32_t>(manifest.model.image_size[1]);
  info.auto_batch = session.auto_batch();
  info.largest_batch = session.largest_batch();
  return info;
}

}  // namespace

const char* autosam_version(void) noexcept {
  return AUTOSAM_VERSION_TEXT;
}

uint32_t autosam_abi_version(void) noexcept {
  return AUTOSAM_ABI_VERSION;
}

const char* autosam_status_name(int32_t status) noexcept {
  switch (status) {
    case AUTOSAM_OK:
      return "AUTOSAM_OK";
    case AUTOSAM_INVALID_ARGUMENT:
      return "AUTOSAM_INVALID_ARGUMENT";
    case AUTOSAM_BUNDLE_NOT_FOUND:
      return "AUTOSAM_BUNDLE_NOT_FOUND";
    case AUTOSAM_BAD_BUNDLE:
      return "AUTOSAM_BAD_BUNDLE";
    case AUTOSAM_BACKEND_UNAVAILABLE:
      return "AUTOSAM_BACKEND_UNAVAILABLE";
    case AUTOSAM_DEVICE_UNAVAILABLE:
      return "AUTOSAM_DEVICE_UNAVAILABLE";
    case AUTOSAM_OUT_OF_MEMORY:
      return "AUTOSAM_OUT_OF_MEMORY";
    case AUTOSAM_CANCELLED:
      return "AUTOSAM_CANCELLED";
    case AUTOSAM_SELFTEST_FAILED:
      return "AUTOSAM_SELFTEST_FAILED";
    case AUTOSAM_RUNTIME_ERROR:
      return "AUTOSAM_RUNTIME_ERROR";
    case AUTOSAM_UNSUPPORTED:
      return "AUTOSAM_UNSUPPORTED";
    case AUTOSAM_INTERNAL:
      return "AUTOSAM_INTERNAL";
    default:
      return "unknown status";
  }
}

const char* autosam_last_error(void) noexcept {
  return autosam::core::last_error();
}

void autosam_options_init(autosam_options* options) noexcept {
  if (options == nullptr) return;
  *options = {};
  options->struct_size = sizeof *options;
  options->backend = options->device = options->precision = options->provider = "auto";
  options->verify = 1;
}

void autosam_run_options_init(autosam_run_options* options) noexcept {
  if (options == nullptr) return;
  *options = {};
  options->struct_size = sizeof *options;
}

autosam_status autosam_session_create(const char* path, const autosam_options* options,
                                      autosam_session** session) noexcept {
  return guarded([&] {
    *not_null(session, "session") = nullptr;
    autosam_options used;
    autosam_options_init(&used);
    if (options != nullptr) used = read_struct(options, "autosam_options");
    *session = sessions().add(open(path, used));
  });
}

void autosam_session_destroy(autosam_session* session) noexcept {
  sessions().remove(session);
}

autosam_status autosam_session_info(const autosam_session* session, autosam_info* info) noexcept {
  return guarded([&] {
    const auto found = sessions().get(session);
    write_struct(describe(*found), not_null(info, "info"), "autosam_info");
  });
}

autosam_status autosam_session_class(const autosam_session* session, int32_t label,
                                     const char** name, const char** colour) noexcept {
  return guarded([&] {
    const auto found = sessions().get(session);
    const auto& classes = found->bundle().manifest.model.classes;
    if (label < 0 || static_cast<std::size_t>(label) >= classes.size()) {
      refuse("label", std::to_string(label), "0 to " + std::to_string(classes.size() - 1));
    }
    const auto& one = classes[static_cast<std::size_t>(label)];
    if (name != nullptr) *name = one.name.c_str();
    if (colour != nullptr) *colour = one.colour.c_str();
  });
}

autosam_status autosam_token_create(autosam_token** token) noexcept {
  return guarded([&] {
    *not_null(token, "token") = nullptr;
    *token = tokens().add(std::make_shared<Token>());
  });
}

// A token that is none is ignored: these functions have no way to say so.
void autosam_token_cancel(autosam_token* token) noexcept {
  try {
    tokens().get(token)->cancel();
  } catch (...) {
    return;
  }
}

void autosam_token_reset(autosam_token* token) noexcept {
  try {
    tokens().get(token)->reset();
  } catch (...) {
    return;
  }
}

void autosam_token_destroy(autosam_token* token) noexcept {
  tokens().remove(token);
}

autosam_status autosam_run(autosam_session* session, const autosam_tensor* slices,
                           const autosam_tensor* labels, const autosam_tensor* logits,
                           const autosam_run_options* options) noexcept {
  return guarded([&] {
    const auto found = sessions().get(session);
    autosam::core::RunOptions used;
    std::shared_ptr<Token> token;
    if (options != nullptr) {
      const autosam_run_options given = read_struct(options, "autosam_run_options");
      if (given.token != nullptr) token = tokens().get(given.token);
      if (given.asynchronous != 0 && given.asynchronous != 1) {
        refuse("asynchronous", std::to_string(given.asynchronous), "0 or 1");
      }
      used = {given.max_batch, given.progress,    given.progress_user,
              token.get(),     given.cuda_stream, given.asynchronous == 1};
    }
    found->run(slices, labels, logits, used);
  });
}

autosam_status autosam_session_warmup(autosam_session* session, int64_t batch, int64_t height,
                                      int64_t width) noexcept {
  return guarded([&] { sessions().get(session)->warmup(batch, height, width); });
}

autosam_status autosam_session_selftest(autosam_session* session,
                                        autosam_selftest* result) noexcept {
  return guarded([&] {
    const auto found = sessions().get(session);
    if (result != nullptr) check_size(*result, "autosam_selftest");
    const autosam::core::SelftestResult test = found->selftest();
    if (result != nullptr) {
      write_struct({0, test.cases, test.passed, test.gate, test.max_logit_difference,
                    test.largest_wrong_margin, test.agreement},
                   result, "autosam_selftest");
    }
    if (test.passed == test.cases) return;
    throw Error(AUTOSAM_SELFTEST_FAILED,
                Message("golden slices give other results than at export")
                    .got(std::to_string(test.passed) + " of " + std::to_string(test.cases) +
                         " cases within the gate; logit difference " +
                         std::to_string(test.max_logit_difference))
                    .expected("at most " + std::to_string(test.gate))
                    .todo("do not use this machine's labels"));
  });
}

#include "options.hpp"

#include <functional>
#include <map>
#include <stdexcept>

const char* const kUsage =
    R"(usage: autosam-run BUNDLE INPUT OUTPUT [options]
       autosam-run BUNDLE --selftest | --info [options]

Labels slices with an autosam-deploy bundle. INPUT and OUTPUT are .npy files, or raw bytes without
a header, slice after slice, row after row. Slices: (B, H, W) or (B, 1, H, W). Labels: (B, H, W).

  --shape B,H,W     of raw input (required for it)
  --dtype NAME      of raw input: float32 (default), uint8, int16, uint16
  --logits FILE     write logits (B, K, H, W) float32 too
  --batch N         slices per run; 0 sizes it by the model (default), -1 means all
  --backend B       auto (default), onnxruntime, openvino, tensorrt
  --device D        auto (default), cpu, cuda, cuda:N
  --precision P     auto (default), fp32, fp16, bf16, int8
  --provider P      of ONNX Runtime: auto (default), cpu, cuda, tensorrt, rtx
  --threads N       of the CPU; 0 means every usable core (default)
  --runtime PATH    the backend's library, or the folder that holds it
  --plugin PATH     the library of provider rtx, or the folder that holds it
  --no-verify       do not hash the bundle's files
  --selftest        run the bundle's golden slices
  --info            say what is in use
  --quiet           no progress
)";

namespace {

std::int64_t integer(const std::string& option, const std::string& text) {
  std::size_t used = 0;
  std::int64_t value = 0;
  try {
    value = std::stoll(text, &used);
  } catch (const std::logic_error&) {
    used = 0;
  }
  if (text.empty() || used != text.size()) {
    throw std::invalid_argument(option + "; got '" + text + "'; expected a whole number");
  }
  return value;
}

std::vector<std::int64_t> integers(const std::string& option, const std::string& text) {
  std::vector<std::int64_t> values;
  std::size_t begin = 0;
  while (begin <= text.size()) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    values.push_back(integer(option, text.substr(begin, end - begin)));
    begin = end + 1;
  }
  return values;
}

}  // namespace

Arguments parse_arguments(int count, const char* const* words) {
  Arguments given;
  std::string threads = "0";
  std::string batch = "0";
  std::string shape;
  const std::map<std::string, std::string*> texts{{"--shape", &shape},
                                                  {"--dtype", &given.dtype},
                                                  {"--logits", &given.logits},
                                                  {"--batch", &batch},
                                                  {"--backend", &given.session.backend},
                                                  {"--device", &given.session.device},
                                                  {"--precision", &given.session.precision},
                                                  {"--provider", &given.session.provider},
                                                  {"--threads", &threads},
                                                  {"--runtime", &given.session.runtime_library},
                                                  {"--plugin", &given.session.provider_library}};
  bool no_verify = false;
  const std::map<std::string, bool*> switches{
      {"--no-verify", &no_verify}, {"--selftest", &given.selftest}, {"--info", &given.info},
      {"--quiet", &given.quiet},   {"--help", &given.help},         {"-h", &given.help}};
  std::vector<std::string> places;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (const auto found = switches.find(word); found != switches.end()) {
      *found->second = true;
    } else if (const auto text = texts.find(word); text != texts.end()) {
      if (++i == count) throw std::invalid_argument(word + " needs a value");
      *text->second = words[i];
    } else if (word.size() > 1 && word[0] == '-') {
      throw std::invalid_argument("unknown option '" + word + "'; see autosam-run --help");
    } else {
      places.push_back(word);
    }
  }
  if (given.help) return given;
  const std::size_t wanted = given.selftest || given.info ? 1 : 3;
  if (places.size() != wanted) {
    throw std::invalid_argument("got " + std::to_string(places.size()) + " arguments; expected " +
                                (wanted == 1 ? "BUNDLE" : "BUNDLE INPUT OUTPUT") +
                                "; see autosam-run --help");
  }
  given.bundle = places[0];
  if (wanted == 3) {
    given.input = places[1];
    given.output = places[2];
  }
  given.session.threads = static_cast<int>(integer("--threads", threads));
  given.session.verify = !no_verify;
  given.batch = integer("--batch", batch);
  if (!shape.empty()) given.shape = integers("--shape", shape);
  return given;
}

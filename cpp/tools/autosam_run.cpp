// autosam-run: labels for slices in .npy or raw files. One line on stderr and exit code 2 on error.
#include <csignal>
#include <cstdio>
#include <exception>
#include <stdexcept>

#include "images.hpp"
#include "options.hpp"

namespace {

void print_info(const autosam::Session& session) {
  const autosam_info info = session.info();
  std::printf("bundle      %s (%s)\n", info.name, info.trained != 0 ? "trained" : "untrained");
  std::printf("use         %s\n", info.intended_use);
  std::printf("backend     %s %s (%s)\n", info.backend, info.runtime_version, info.runtime_library);
  std::printf("device      %s, %s, %d threads\n", info.device, info.provider, info.threads);
  std::printf("precision   %s (%s)\n", info.precision, info.artefact);
  std::printf("reason      %s\n", info.reason);
  std::printf("image size  %d x %d, slices along axis %s\n", info.image_height, info.image_width,
              info.slice_axis);
  int label = 0;
  for (const autosam::ClassInfo& one : session.classes()) {
    std::printf("label %-5d %s %s\n", label++, one.colour.c_str(), one.name.c_str());
  }
}

void print_selftest(const autosam::Session& session) {
  const autosam_selftest test = session.selftest();
  std::printf("passed %d of %d golden cases; logit difference %g (gate %g); equal labels %.4f%%\n",
              test.passed, test.cases, test.max_logit_difference, test.gate, 100 * test.agreement);
}

autosam_tensor view(const Image& image) {
  const auto* const bytes = reinterpret_cast<const std::uint8_t*>(image.values());
  autosam_tensor tensor = autosam::slices(bytes, image.shape[0], image.shape[1], image.shape[2]);
  tensor.dtype = image.dtype == "float32" ? AUTOSAM_FLOAT32
                 : image.dtype == "uint8" ? AUTOSAM_UINT8
                 : image.dtype == "int16" ? AUTOSAM_INT16
                                          : AUTOSAM_UINT16;
  return tensor;
}

void label(const autosam::Session& session, const Arguments& given) {
  const Image image = read_image(given.input, given.dtype, given.shape);
  std::size_t pixels = 1;
  for (const std::int64_t size : image.shape) pixels *= static_cast<std::size_t>(size);
  std::vector<std::uint8_t> labels(pixels);
  const std::vector<std::int64_t>& shape = image.shape;
  const autosam_tensor slices = view(image);
  const autosam_tensor out = autosam::slices(labels.data(), shape[0], shape[1], shape[2]);
  const std::int64_t classes = session.info().num_classes;
  std::vector<float> logits(given.logits.empty() ? 0 : pixels * static_cast<std::size_t>(classes));
  const autosam_tensor logits_out =
      autosam::tensor(logits.data(), {shape[0], classes, shape[1], shape[2]});
  autosam::RunOptions options;
  options.max_batch = given.batch;
  if (!given.quiet) {
    options.progress = [](std::int64_t done, std::int64_t all) {
      std::fprintf(stderr, "\r%lld of %lld slices%s", static_cast<long long>(done),
                   static_cast<long long>(all), done == all ? "\n" : "");
      return true;
    };
  }
  session.run(&slices, &out, given.logits.empty() ? nullptr : &logits_out, options);
  write_image(given.output, "uint8", shape, labels.data(), labels.size());
  if (!given.logits.empty()) {
    write_image(given.logits, "float32", {shape[0], classes, shape[1], shape[2]}, logits.data(),
                logits.size() * sizeof(float));
  }
}

int run(int count, const char* const* words) {
  Arguments given = parse_arguments(count, words);
  if (given.help) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  given.session.log = [](int level, const char* text) {
    if (level >= AUTOSAM_LOG_WARNING) std::fprintf(stderr, "autosam-run: warning: %s\n", text);
  };
  const autosam::Session session(given.bundle, given.session);
  if (given.info) print_info(session);
  if (given.selftest) print_selftest(session);
  if (!given.input.empty()) label(session, given);
  return 0;
}

}  // namespace

int main(int count, char** words) {
  try {
    return run(count, words);
  } catch (const std::bad_alloc&) {
    std::fputs("autosam-run: out of memory; use fewer slices\n", stderr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "autosam-run: %s\n", error.what());
  }
  return 2;
}

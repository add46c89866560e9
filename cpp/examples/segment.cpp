// The C++ wrapper: open a bundle, test it, label a volume along another axis without a copy.
//
//     segment_cpp BUNDLE [DEVICE]
#include <autosam.hpp>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <vector>

namespace {

constexpr std::int64_t kDepth = 6;
constexpr std::int64_t kHeight = 64;
constexpr std::int64_t kWidth = 48;

// A ball in a volume (z, y, x).
std::vector<std::int16_t> ball() {
  std::vector<std::int16_t> volume;
  for (std::int64_t z = 0; z < kDepth; ++z) {
    for (std::int64_t y = 0; y < kHeight; ++y) {
      for (std::int64_t x = 0; x < kWidth; ++x) {
        const std::int64_t dz = 6 * (z - kDepth / 2);
        const std::int64_t dy = y - kHeight / 2;
        const std::int64_t dx = x - kWidth / 2;
        volume.push_back(dz * dz + dy * dy + dx * dx < 400 ? 900 : 20);
      }
    }
  }
  return volume;
}

void segment(const char* bundle, const char* device) {
  autosam::Options options;
  options.device = device;
  options.log = [](int level, const char* text) {
    std::printf("%s%s\n", level == AUTOSAM_LOG_WARNING ? "warning: " : "", text);
  };
  const autosam::Session session(bundle, options);
  const autosam_selftest test = session.selftest();
  std::printf("self-test: %d of %d golden cases\n", test.passed, test.cases);

  const std::vector<std::int16_t> volume = ball();
  std::vector<std::uint8_t> labels(volume.size());
  // Coronal slices: (B, H, W) = (y, z, x). Labels land in the volume's own order.
  const autosam_tensor in =
      autosam::tensor(volume.data(), {kHeight, kDepth, kWidth}, {kWidth, kHeight * kWidth, 1});
  const autosam_tensor out =
      autosam::tensor(labels.data(), {kHeight, kDepth, kWidth}, {kWidth, kHeight * kWidth, 1});
  autosam::RunOptions run;
  run.max_batch = 16;
  run.progress = [](std::int64_t done, std::int64_t all) {
    std::printf("%lld of %lld slices\n", static_cast<long long>(done), static_cast<long long>(all));
    return true;
  };
  session.run(in, out, run);

  std::vector<std::size_t> counts(256);
  for (const std::uint8_t label : labels) ++counts[label];
  std::size_t label = 0;
  for (const autosam::ClassInfo& one : session.classes()) {
    std::printf("%3zu %s %-16s %8zu voxels\n", label, one.colour.c_str(), one.name.c_str(),
                counts[label]);
    ++label;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    std::fprintf(stderr, "usage: %s BUNDLE [DEVICE]\n", argv[0]);
    return 2;
  }
  try {
    segment(argv[1], argc == 3 ? argv[2] : "auto");
    return 0;
  } catch (const autosam::Error& error) {
    std::fprintf(stderr, "%s: %s\n", autosam_status_name(error.status()), error.what());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  return 1;
}

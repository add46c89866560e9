// consumer BUNDLE IN.raw B H W OUT.raw: labels of float32 slices.
#include <autosam.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  const long long batch = std::atoll(argv[3]);
  const long long height = std::atoll(argv[4]);
  const long long width = std::atoll(argv[5]);
  std::vector<float> slices(static_cast<std::size_t>(batch * height * width));
  std::ifstream in(argv[2], std::ios::binary);
  if (!in.read(reinterpret_cast<char*>(slices.data()),
               static_cast<std::streamsize>(slices.size() * sizeof(float)))) {
    return 2;
  }
  try {
    const autosam::Session session(argv[1]);
    const auto labels = session.labels(autosam::slices(slices.data(), batch, height, width));
    std::ofstream(argv[6], std::ios::binary)
        .write(reinterpret_cast<const char*>(labels.data()),
               static_cast<std::streamsize>(labels.size()));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

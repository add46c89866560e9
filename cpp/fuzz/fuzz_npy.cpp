// Any bytes as a .npy file: what is accepted lies whole inside them.
#include <cstdint>
#include <cstdlib>
#include <npy.hpp>
#include <stdexcept>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const autosam::core::NpyHeader header =
        autosam::core::parse_npy({reinterpret_cast<const char*>(data), size});
    std::size_t bytes = header.item_size;
    for (const std::int64_t count : header.shape) bytes *= static_cast<std::size_t>(count);
    if (header.offset + bytes != size) std::abort();
  } catch (const std::invalid_argument&) {
    return 0;
  }
  return 0;
}

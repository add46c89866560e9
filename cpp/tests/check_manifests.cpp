// Reads manifests, one a line, and says of each "ok" or why it is refused, one a line; the Python
// tests compare that with their own reader.
#include <error.hpp>
#include <iostream>
#include <manifest.hpp>
#include <string>

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    try {
      autosam::core::parse_manifest(line);
      std::cout << "ok\n";
    } catch (const autosam::core::Error& error) {
      std::cout << error.what() << "\n";
    }
  }
  return 0;
}

#include "error.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <stdexcept>

namespace autosam::core {
namespace {

constexpr std::size_t kLongest = 2048;
thread_local std::array<char, kLongest> last_text{};

}  // namespace

Message& Message::part(const char* between, const std::string& text) {
  text_ += between;
  bool blank = false;
  bool begun = false;
  for (const char letter : text) {
    // Control characters too: messages quote names out of files that nobody has checked yet.
    if (static_cast<unsigned char>(letter) <= ' ' || letter == '\x7f') {
      blank = begun;
      continue;
    }
    if (blank) text_ += ' ';
    blank = false;
    begun = true;
    text_ += letter;
  }
  return *this;
}

void set_last_error(const char* text) noexcept {
  std::size_t size = std::min(std::strlen(text), kLongest - 1);
  // Not in the middle of a UTF-8 character.
  while (size > 0 && text[size] != '\0' &&
         (static_cast<unsigned char>(text[size]) & 0xC0U) == 0x80) {
    --size;
  }
  std::copy_n(text, size, last_text.begin());
  last_text[size] = '\0';
}

const char* last_error() noexcept {
  return last_text.data();
}

autosam_status report_exception() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    set_last_error(error.what());
    return error.status();
  } catch (const std::bad_alloc&) {
    set_last_error("out of memory in the host process; use a smaller batch or free memory");
    return AUTOSAM_OUT_OF_MEMORY;
  } catch (const std::length_error&) {
    set_last_error("out of memory: a size is beyond what this process can address");
    return AUTOSAM_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    set_last_error(error.what());
    return AUTOSAM_INTERNAL;
  } catch (...) {
    set_last_error("an exception of unknown type");
    return AUTOSAM_INTERNAL;
  }
}

}  // namespace autosam::core

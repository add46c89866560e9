// operator new that fails when it is told to; a file of its own, so that compilers cannot look into
// one half of a pair alone.
#include "allocation.hpp"

#include <cstdlib>
#include <new>

// Where this program's code begins and ends; the linker defines them.
extern "C" const char __executable_start;  // NOLINT(bugprone-reserved-identifier)
extern "C" const char etext;

thread_local long autosam_test::allowed = -1;

thread_local bool autosam_test::only_own = false;

namespace {

using autosam_test::allowed;
using autosam_test::only_own;

void* allocate(std::size_t size, const void* caller) {
  const auto* const at = static_cast<const char*>(caller);
  const bool own = at >= &__executable_start && at < &etext;
  if (allowed >= 0 && (own || !only_own)) {
    if (allowed == 0) throw std::bad_alloc();
    --allowed;
  }
  void* memory = std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t size) {
  return allocate(size, __builtin_return_address(0));
}
void* operator new[](std::size_t size) {
  return allocate(size, __builtin_return_address(0));
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete[](void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t /*size*/) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t /*size*/) noexcept {
  std::free(memory);
}

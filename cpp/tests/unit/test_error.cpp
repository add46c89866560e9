#include <doctest/doctest.h>

#include <backend.hpp>
#include <error.hpp>
#include <handles.hpp>
#include <new>
#include <stdexcept>
#include <thread>

#include "checks.hpp"

using autosam::core::Error;
using autosam::core::guarded;
using autosam::core::Handles;
using autosam::core::last_error;
using autosam::core::Message;
using autosam_test::check_fails;

TEST_CASE("messages are one line, whatever is quoted into them") {
  CHECK(Message(" a\n b").got("c\t\td\x7f").expected("e").todo("f\r\n").line() ==
        "a b; got c d; expected e; f");
}

TEST_CASE("exceptions become statuses") {
  CHECK(guarded([] {}) == AUTOSAM_OK);
  CHECK(guarded([] { throw Error(AUTOSAM_BAD_BUNDLE, Message("x")); }) == AUTOSAM_BAD_BUNDLE);
  CHECK(std::string(last_error()) == "x");
  CHECK(guarded([] { throw std::bad_alloc(); }) == AUTOSAM_OUT_OF_MEMORY);
  CHECK(guarded([] { throw std::length_error("y"); }) == AUTOSAM_OUT_OF_MEMORY);
  CHECK(guarded([] { throw std::runtime_error("y"); }) == AUTOSAM_INTERNAL);
  CHECK(std::string(last_error()) == "y");
  CHECK(guarded([] { throw 5; }) == AUTOSAM_INTERNAL);
  CHECK(std::string(last_error()) == "an exception of unknown type");
}

TEST_CASE("the text is the thread's own, and cut between characters") {
  autosam::core::set_last_error("mine");
  std::string other = "?";
  std::thread([&other] { other = last_error(); }).join();
  CHECK(other.empty());
  CHECK(std::string(last_error()) == "mine");
  for (const char* before : {"", "a"}) {
    std::string text = before;
    for (int i = 0; i < 2000; ++i) text += "\xC3\xA8";
    autosam::core::set_last_error(text.c_str());
    const std::string kept = last_error();
    CHECK(kept.size() > 2000);
    CHECK((kept.size() - std::string(before).size()) % 2 == 0);
    CHECK(text.rfind(kept, 0) == 0);
  }
}

TEST_CASE("handles are found out when they are gone or made up") {
  struct Opaque;
  Handles<int, Opaque> handles("number");
  Opaque* first = handles.add(std::make_shared<int>(1));
  Opaque* second = handles.add(std::make_shared<int>(2));
  CHECK(*handles.get(first) == 1);
  CHECK(*handles.get(second) == 2);
  const std::shared_ptr<int> held = handles.get(first);
  handles.remove(first);
  handles.remove(first);
  handles.remove(nullptr);
  CHECK(*held == 1);
  const std::string gone = "the number; got one that was destroyed or never made";
  check_fails([&] { handles.get(first); }, AUTOSAM_INVALID_ARGUMENT, gone);
  check_fails([&] { handles.get(nullptr); }, AUTOSAM_INVALID_ARGUMENT, "got NULL");
  auto* const inside = reinterpret_cast<Opaque*>(reinterpret_cast<std::uintptr_t>(second) + 1);
  check_fails([&] { handles.get(inside); }, AUTOSAM_INVALID_ARGUMENT, gone);
  CHECK(handles.add(std::make_shared<int>(3)) != first);
}

TEST_CASE("the words of full memories") {
  using autosam::core::means_out_of_memory;
  CHECK(means_out_of_memory("std::bad_alloc"));
  CHECK(means_out_of_memory("CUDA error: Out Of Memory"));
  CHECK(means_out_of_memory("Failed to allocate memory for requested buffer of size 8"));
  CHECK_FALSE(means_out_of_memory("invalid argument"));
}

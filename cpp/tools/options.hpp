// The command line of autosam-run.
#pragma once

#include <autosam.hpp>
#include <cstdint>
#include <string>
#include <vector>

struct Arguments {
  std::string bundle;
  std::string input;                // .npy, or raw bytes
  std::string output;               // .npy, or raw bytes
  std::string logits;               // "" for none
  std::string dtype = "float32";    // of raw input
  std::vector<std::int64_t> shape;  // of raw input: B,H,W
  std::int64_t batch = 0;
  bool selftest = false;
  bool info = false;
  bool quiet = false;
  bool help = false;
  autosam::Options session;
};

// Throws std::invalid_argument with one line.
Arguments parse_arguments(int count, const char* const* words);

extern const char* const kUsage;

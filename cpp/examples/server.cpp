// Many threads on one session, as in a server: requests come from a queue, each worker labels them
// into memory of its own, and a deadline cancels what takes too long.
//
//     server BUNDLE [WORKERS [REQUESTS]]
#include <atomic>
#include <autosam.hpp>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <thread>
#include <vector>

namespace {

constexpr std::int64_t kSide = 64;
constexpr auto kDeadline = std::chrono::seconds(60);

struct Totals {
  std::atomic<int> next{0};
  std::atomic<int> done{0};
  std::atomic<int> failed{0};
};

std::vector<std::uint16_t> request(int number) {
  std::vector<std::uint16_t> slice(kSide * kSide);
  for (std::size_t i = 0; i < slice.size(); ++i) {
    slice[i] = static_cast<std::uint16_t>((i * static_cast<std::size_t>(number + 1)) % 1000);
  }
  return slice;
}

void work(const autosam::Session& session, const autosam::Token& token, int requests,
          Totals& totals) {
  std::vector<std::uint8_t> labels(kSide * kSide);
  const autosam_tensor out = autosam::slices(labels.data(), 1, kSide, kSide);
  autosam::RunOptions options;
  options.token = &token;
  for (int number = totals.next++; number < requests; number = totals.next++) {
    try {
      const std::vector<std::uint16_t> slice = request(number);
      session.run(autosam::slices(slice.data(), 1, kSide, kSide), out, options);
      ++totals.done;
    } catch (const std::exception& error) {
      ++totals.failed;
      std::fprintf(stderr, "request %d: %s\n", number, error.what());
    }
  }
}

int serve(const char* bundle, int workers, int requests) {
  autosam::Options options;
  // Workers run at the same time; more threads inside each run would only get in their way.
  options.threads = 1;
  const autosam::Session session(bundle, options);
  session.warmup(1, kSide, kSide);
  const autosam::Token token;
  Totals totals;
  const auto begin = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  threads.reserve(static_cast<std::size_t>(workers));
  for (int i = 0; i < workers; ++i) {
    threads.emplace_back([&] { work(session, token, requests, totals); });
  }
  while (totals.done + totals.failed < requests) {
    if (std::chrono::steady_clock::now() - begin > kDeadline) token.cancel();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  for (std::thread& thread : threads) thread.join();
  std::printf("%d requests done, %d failed, %d workers\n", totals.done.load(), totals.failed.load(),
              workers);
  return totals.failed == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 4) {
    std::fprintf(stderr, "usage: %s BUNDLE [WORKERS [REQUESTS]]\n", argv[0]);
    return 2;
  }
  try {
    const int workers = argc > 2 ? std::atoi(argv[2]) : 4;
    const int requests = argc > 3 ? std::atoi(argv[3]) : 100;
    return serve(argv[1], workers < 1 ? 1 : workers, requests);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  return 1;
}

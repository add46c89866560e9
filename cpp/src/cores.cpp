#include "cores.hpp"

#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <set>
#include <string>
#include <thread>

namespace autosam::core {
namespace {

namespace fs = std::filesystem;

// The first line of a file, "" if there is none.
std::string first_line(const fs::path& path) {
  std::ifstream stream(path);
  std::string line;
  std::getline(stream, line);
  return line;
}

// The number that a text consists of, or -1.
std::int64_t number(const std::string& text) {
  constexpr std::size_t kMostDigits = 15;
  const bool digits = !text.empty() && text.size() <= kMostDigits &&
                      text.find_first_not_of("0123456789") == std::string::npos;
  return digits ? std::stoll(text) : -1;
}

// CPUs' worth of time that a container may use (cgroup v2, then v1), or 0 without a limit.
int quota(const fs::path& cgroup) {
  const std::string line = first_line(cgroup / "cpu.max");
  const std::size_t blank = std::min(line.find(' '), line.size());
  std::string limit = line.substr(0, blank);
  std::string period = line.substr(std::min(line.size(), blank + 1));
  if (limit.empty()) {
    limit = first_line(cgroup / "cpu" / "cpu.cfs_quota_us");
    period = first_line(cgroup / "cpu" / "cpu.cfs_period_us");
  }
  if (number(limit) < 0 || number(period) <= 0) return 0;
  return static_cast<int>(std::max(std::int64_t{1}, number(limit) / number(period)));
}

}  // namespace

int usable_cores(const fs::path& cpus, const fs::path& cgroup) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  std::set<std::string> cores;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &allowed)) continue;
      const std::string name = std::to_string(cpu);
      // Hardware threads of one core share this text.
      const std::string siblings =
          first_line(cpus / ("cpu" + name) / "topology" / "thread_siblings_list");
      cores.insert(siblings.empty() ? name : siblings);
    }
  }
  const int all = cores.empty() ? static_cast<int>(std::thread::hardware_concurrency())
                                : static_cast<int>(cores.size());
  const int limit = quota(cgroup);
  return std::max(1, limit > 0 ? std::min(all, limit) : all);
}

}  // namespace autosam::core

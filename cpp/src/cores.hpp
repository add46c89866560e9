// How many threads are worth starting: physical cores, as far as this process may use them.
#pragma once

#include <filesystem>

namespace autosam::core {

// Counts each core of the process's CPU affinity once, however many hardware threads it has, and
// no more than a container's CPU quota; at least 1. The folders are Linux's description of the
// processors and the root of the control groups.
int usable_cores(const std::filesystem::path& cpus = "/sys/devices/system/cpu",
                 const std::filesystem::path& cgroup = "/sys/fs/cgroup");

}  // namespace autosam::core

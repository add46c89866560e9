"""The machine record that heads every measurement."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("autosam-deploy", "torch", "onnxruntime-gpu", "onnxruntime", "openvino", "onnx", "numpy"),
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt_rtx", "triton"),
)
_CPU = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")
#: Bytes; a cgroup without a limit says "max" (v2) or a number near 2^63 (v1).
_NO_LIMIT = 1 << 60


def machine_record(*, threads: int) -> dict[str, Any]:
    """Return what a number depends on: processor, memory, system, versions, threads, load."""
    return {
        "processor": _processor(),
        "features": _features(),
        "cores": os.cpu_count(),
        "memory_gib": round(_memory() / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "threads": threads,
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def clock_mhz() -> float | None:
    """Return the mean clock of the processor's cores now, where the system says it."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return None
    found = [
        float(line.partition(":")[2])
        for line in path.read_text("utf-8").splitlines()
        if line.startswith("cpu MHz")
    ]
    return round(sum(found) / len(found), 1) if found else None


def governor() -> str | None:
    """Return the rule by which Linux chooses the clock ("performance", "powersave", ...)."""
    return _read(_CPU / "cpu0/cpufreq/scaling_governor") or None


def throttle_count() -> int:
    """Return how often cores were slowed down for heat since the system started (Intel alone)."""
    counts = _CPU.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    return sum(int(text) for path in counts if (text := _read(path)).isdecimal())


def available_bytes() -> int | None:
    """Return the memory that new processes may take, a container's limit included."""
    found = []
    meminfo = _read(Path("/proc/meminfo"))
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most, now = _read(_CGROUP / limit), _read(_CGROUP / used)
        if most.isdecimal() and now.isdecimal() and int(most) < _NO_LIMIT:
            found.append(int(most) - int(now))
    return min(found) if found else None


def gpu_query(*fields: str) -> list[list[str]]:
    """Return fields of every NVIDIA GPU as `nvidia-smi --query-gpu` gives them; none without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    asked = f"--query-gpu={','.join(fields)}"
    done = subprocess.run(
        [program, asked, "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    if done.returncode:
        return []
    return [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines() if line]


def gpu_used_mib() -> float | None:
    """Return the memory in use on the first GPU, by all processes together."""
    return _gpu_number("memory.used")


def gpu_free_mib() -> float | None:
    """Return the memory that is left on the first GPU."""
    return _gpu_number("memory.free")


def _gpu_number(field: str) -> float | None:
    rows = gpu_query(field)
    return float(rows[0][0]) if rows and rows[0][0].replace(".", "").isdecimal() else None


def peak_rss() -> int:
    """Return this process's largest resident set so far in bytes.

    Linux keeps `getrusage`'s figure over exec, so that a child would begin with its parent's.
    """
    for line in _read(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    factor = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * factor


def cpu_times() -> tuple[float, float] | None:
    """Return seconds that all cores together were busy, and stolen by the host, since boot."""
    first = _read(Path("/proc/stat")).partition("\n")[0].split()
    if len(first) < 9 or first[0] != "cpu":
        return None
    user, nice, system, _, _, irq, soft, steal = (float(part) for part in first[1:9])
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + soft) / ticks, steal / ticks


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _features() -> list[str]:
    """Return the instruction sets that decide the speed of matrix products."""
    flags = set(_cpuinfo("flags").split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return [flag for flag in wanted if flag in flags]


def _memory() -> int:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0

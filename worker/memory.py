"""Peak memory of this process and how much it may have: on the accelerator if used, else RAM. What
it holds, or another process, and how what nobody needs is given back.

Imports no torch: asks it only if the model has loaded it already.
"""

import contextlib
import ctypes
import gc
import os
import resource
import sys
from pathlib import Path
from typing import Any, NamedTuple

MEBIBYTE = 2**20


def reset_peak_memory() -> None:
    """Begin a new measurement; where the system forbids it the old peak stands."""
    if cuda := _cuda_in_use():
        cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # 5 resets VmHWM, see proc(5)


def peak_memory_mb() -> float:
    """MiB at the highest point since the last reset."""
    if cuda := _cuda_in_use():
        return round(float(cuda.max_memory_allocated()) / MEBIBYTE, 1)
    peak = _field_mb("/proc/self/status", "VmHWM:")
    if peak is not None:
        return round(peak, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def capacity_mb(limit_mb: int = 0) -> float | None:
    """MiB that a job's peak may reach here: what is free, and what this process has already.

    limit_mb  of address space, as configured; 0: none
    returns   None if the system does not tell
    """
    if cuda := _cuda_in_use():
        free, _ = cuda.mem_get_info()
        return round((float(free) + float(cuda.memory_reserved())) / MEBIBYTE, 1)
    available = _field_mb("/proc/meminfo", "MemAvailable:")
    resident = _field_mb("/proc/self/status", "VmRSS:")
    if available is None or resident is None:
        return None
    limits = [available, *([left] if (left := _container_mb()) is not None else [])]
    free_mb = min(limits) + resident
    return round(min(free_mb, limit_mb or free_mb), 1)


class Holding(NamedTuple):
    """What a process holds at a moment."""

    accelerated: bool  # on the accelerator, else in main memory
    mb: float

    def since(self, before: "Holding") -> float:
        """MiB that were added; all of it if the accelerator was first used meanwhile."""
        known_mb = before.mb if before.accelerated is self.accelerated else 0.0
        return max(0.0, self.mb - known_mb)


def holding() -> Holding:
    """What this process holds right now; nothing if the system does not tell."""
    if cuda := _cuda_in_use():
        return Holding(True, float(cuda.memory_allocated()) / MEBIBYTE)
    return Holding(False, resident_mb(os.getpid()) or 0.0)


def release_memory() -> None:
    """Give back to the system what nothing refers to any more."""
    gc.collect()
    if cuda := _cuda_in_use():
        cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # not every system's library has it
        ctypes.CDLL(None).malloc_trim(0)


def resident_mb(pid: int) -> float | None:
    """MiB of main memory that a process holds right now; None if the system does not tell."""
    return _field_mb(f"/proc/{pid}/status", "VmRSS:")


def _field_mb(path: str, name: str) -> float | None:
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
    return None


def _container_mb() -> float | None:
    """MiB left of the container's own limit, if it has one (cgroup v2)."""
    folder = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        limit = int((folder / "memory.max").read_text())  # "max" is no number: no limit
        return max(0.0, limit - int((folder / "memory.current").read_text())) / MEBIBYTE
    return None


def _cuda_in_use() -> Any:
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None

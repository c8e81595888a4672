"""Peak memory of this process, on the accelerator where one is in use, else in RAM.

Imports no torch: asks it only if the model has loaded it already.
"""

import contextlib
import resource
import sys
from pathlib import Path
from typing import Any

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
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def _cuda_in_use() -> Any:
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None

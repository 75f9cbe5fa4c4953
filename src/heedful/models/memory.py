"""Keep freed memory in the process: on a CPU, a training step otherwise spends a good part of its time on page faults.

glibc hands every large block back to the system when it is freed and asks for it again, page by page, in the next
step. `scripts/bench.py sft` gives this setting to both sides.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
TOP_PAD = 256 << 20


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what it has; returns False where there is no such allocator (macOS, musl)."""
    name = ctypes.util.find_library("c") if sys.platform == "linux" else None
    libc = ctypes.CDLL(name) if name else None
    if libc is None or not hasattr(libc, "mallopt"):
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, TOP_PAD))
    return all(libc.mallopt(key, value) for key, value in settings)

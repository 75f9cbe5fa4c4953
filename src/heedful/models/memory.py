"""Keep freed memory in the process: on a CPU, a training step otherwise spends a good part of its time on page faults.

glibc hands every large block back to the system when it is freed and asks for it again, page by page, in the next
step. `scripts/bench.py sft` gives this setting to both sides.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from typing import Any

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
TOP_PAD = 256 << 20


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what it has; returns False where there is no such allocator (macOS, musl)."""
    libc = _glibc()
    if libc is None:
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, TOP_PAD))
    return all(libc.mallopt(key, value) for key, value in settings)


def give_freed_memory_back() -> bool:
    """Hand over to the system what was kept, between the stages of a recipe; returns False as `keep_freed_memory`."""
    libc = _glibc()
    if libc is None:
        return False
    libc.malloc_trim(0)
    return True


def _glibc() -> Any:
    name = ctypes.util.find_library("c") if sys.platform == "linux" else None
    libc = ctypes.CDLL(name) if name else None
    return libc if libc is not None and hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None

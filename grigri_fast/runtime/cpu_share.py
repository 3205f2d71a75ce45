"""How many CPUs other programs leave to this process, by the kernel's counters.

The threads of an operation wait for each other at its end, so all of them are as slow as the one
that the system lets wait: with two threads on two CPUs that other programs used as well, training
was seven times as slow as with one thread (benchmarks/README.md, log).
"""

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..errors import GrigriError

_STAT = Path("/proc/stat")  # https://docs.kernel.org/filesystems/proc.html
_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # version 2, seen from inside a container
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_LEAST_S, _MOST_S = 0.2, 60.0  # of a look: shorter ones are rough, longer ones are about the past


def usable_cpus() -> int:
    """Return how many CPUs this process may use: by its affinity, and in a container by its quota.

    A quota of 1.5 CPUs, as of ``docker run --cpus 1.5``, counts as two.
    """
    num_cpus = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):  # without a quota it says "max"
        quota, period = map(int, _QUOTA.read_text().split())
        num_cpus = min(num_cpus, -(-quota // period))
    return num_cpus


def pick_threads(asked: int | None) -> int:
    """Return the number of threads that was asked for, or as many as there are usable CPUs.

    Raises:
        GrigriError: for less than one.
    """
    if asked is not None and asked < 1:
        raise GrigriError(f"--threads must be at least 1, not {asked}")
    return asked or usable_cpus()


class _Look(NamedTuple):
    """Seconds of processor time until a moment: of all programs and of this process."""

    at_s: float
    by_all_s: float
    by_us_s: float
    process: int


class CpuShare:
    """How much of the CPUs of this process's affinity others use, from look to look."""

    def __init__(self) -> None:
        self._last = _look()
        self._num_free: float | None = None  # what the last look has told

    @property
    def age_s(self) -> float:
        """Seconds since the last look."""
        return time.monotonic() - self._last.at_s

    def num_free(self) -> float:
        """Return how many of the CPUs others have left to this process since the last look.

        Just after a look it is what that one has told. It takes a fifth of a second where there was
        none in this process for long.
        """
        is_ours = self._last.process == os.getpid()
        if is_ours and self.age_s < _LEAST_S and self._num_free is not None:
            return self._num_free
        if not (is_ours and _LEAST_S <= self.age_s <= _MOST_S):
            self._last = _look()
            time.sleep(_LEAST_S)
        before, self._last = self._last, _look()
        by_all_s = self._last.by_all_s - before.by_all_s
        by_others_s = max(0.0, by_all_s - (self._last.by_us_s - before.by_us_s))
        num_used = by_others_s / (self._last.at_s - before.at_s)
        self._num_free = max(0.0, len(os.sched_getaffinity(0)) - num_used)
        return self._num_free


def _look() -> _Look:
    ours = os.times()
    by_us_s = ours.user + ours.system + ours.children_user + ours.children_system
    by_all_s = 0.0  # where the kernel does not tell, as in some sandboxes, all is free
    with contextlib.suppress(OSError, ValueError):
        by_all_s = busy_s(_STAT.read_text(), os.sched_getaffinity(0))
    return _Look(time.monotonic(), by_all_s, by_us_s, os.getpid())


def busy_s(stat: str, cpus: Iterable[int]) -> float:
    """Return for how many seconds some CPUs have been busy, by the text of ``/proc/stat``."""
    names = {f"cpu{cpu}" for cpu in cpus}
    ticks = 0
    for line in stat.splitlines():
        name, *counts = line.split()
        if name in names:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, counts[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / _TICKS_PER_S


share = CpuShare()  # of this process; it looks for the first time when this is imported

"""How much memory this process uses where it computes, and a limit for it.

On a GPU everything counts that the process puts there: the CUDA context, DALI's pools, PyTorch's
allocator, CUDA graphs, cached images; so the driver is asked (NVML), not PyTorch. On a CPU it is
the process's own memory: its resident anonymous pages, without mapped files.
"""

import contextlib
import ctypes
import gc
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ..errors import BetweenStepsError, GrigriError
from .units import format_bytes

_SAMPLED_EVERY_S = 0.05
# The share of a limit for what a trial does not show: on a GPU a kernel that is loaded later
# (assumed), on a CPU the C library's heap, whose size differed by 8 % between equal runs.
_HEADROOM = {"cuda": 0.05, "cpu": 0.1}
# How libraries say that memory has run out (torch 2.15, DALI 2.4, cuDNN 9, cuBLAS 13): the
# allocators of PyTorch, DALI and nvJPEG, CUDA's runtime and driver, the C and C++ libraries. Not
# "allocation failed" alone, which compilers say of registers.
_OUT_OF_MEMORY = re.compile(
    r"out[ _]of[ _]memory|allocate (?:\S+ bytes|(?:pinned GPU )?memory)|insufficient memory"
    r"|(?:cuda|memory) alloc(?:ation|ator) (?:failed|error)|cudaErrorMemoryAllocation"
    r"|allocator[ _]fail|_alloc(?:ation)?_failed|bad_alloc",
    re.IGNORECASE,
)


class Meter:
    """Measures how many bytes this process uses on a device.

    Make it before anything is put on the device: where the driver does not tell processes apart
    (in containers, under WDDM), what is in use by then counts as other processes'.

    Attributes:
        device: what is measured.
        how: how it is measured, in words.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cpu":
            self.how = "resident anonymous memory of the process"
            return
        self._nvml, self._handle, self._others = _nvml_of(device)
        if self._nvml is None:
            self.how = "CUDA: all that is in use on the GPU, by whomever (NVML does not answer)"
            return
        torch.zeros(1, device=device)  # makes the context, without which no process is listed
        if self._of_process() is not None:
            self.how = "NVML: this process"
        else:
            self.how = "NVML: the GPU since the start of this process"

    def used(self) -> int:
        """Return the bytes that are in use now."""
        if self.device.type == "cpu":
            return _anonymous_bytes()
        of_process = self._of_process()
        return self._in_use() - self._others if of_process is None else of_process

    def _in_use(self) -> int:
        if self._nvml is None:
            free, total = torch.cuda.mem_get_info(self.device)
            return total - free
        return self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used

    def _of_process(self) -> int | None:
        if self._nvml is None:
            return None
        with contextlib.suppress(self._nvml.NVMLError):
            for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle):
                if process.pid == os.getpid():
                    return process.usedGpuMemory  # None where the driver does not tell
        return None


def _nvml_of(device: torch.device) -> tuple[Any, Any, int]:
    """Return NVML's Python module, its handle of a GPU, and the bytes in use there by now.

    Without NVML (no module, no library, no rights) they are None, None and 0.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        # Before PyTorch is asked which of them it is (CUDA numbers them otherwise), since that may
        # put something there.
        used = [pynvml.nvmlDeviceGetMemoryInfo(handle).used for handle in handles]
        uuids = [pynvml.nvmlDeviceGetUUID(handle).removeprefix("GPU-") for handle in handles]
        i = uuids.index(str(torch.cuda.get_device_properties(device).uuid))
        return pynvml, handles[i], used[i]
    except Exception:  # as many kinds as reasons
        return None, None, 0


def _anonymous_bytes() -> int:
    """Return the resident memory of this process that is not a mapped file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kinds = ("RssAnon:", "RssShmem:")
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(kinds))


class Budget:
    """The memory that is in use, sampled by a thread of its own, and a limit for it.

    Attributes:
        meter: what is sampled; see :class:`Meter` for when to make one.
        limit: in bytes, None for none.
        peak: the largest sample, in bytes.
    """

    def __init__(self, device: torch.device, limit: int | None = None) -> None:
        self.meter, self.limit = Meter(device), limit
        self.peak = self.meter.used()
        self._is_capped = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="memory")
        self._thread.start()

    def __enter__(self) -> "Budget":
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._is_capped:  # for what this process does next
            torch.cuda.set_per_process_memory_fraction(1.0, self.meter.device)

    @property
    def usable(self) -> int:
        """The limit less some headroom: what a plan may use."""
        return int((1 - _HEADROOM[self.meter.device.type]) * self.limit)

    def sample(self) -> int:
        """Return the bytes that are in use now, and update the peak."""
        used = self.meter.used()
        self.peak = max(self.peak, used)
        return used

    def reset_peak(self) -> None:
        """Forget the peak."""
        self.peak = self.meter.used()

    def require_within_limit(self) -> None:
        """Raise BetweenStepsError if the peak is above the limit; nothing is measured here."""
        if self.limit is not None and self.peak > self.limit:
            raise BetweenStepsError(
                f"--memory-limit {format_bytes(self.limit)}: {format_bytes(self.peak)} were in use"
                f" ({self.meter.how}); give a higher limit, or a smaller --batch-size or --size"
            )

    def cap_torch(self) -> None:
        """Make PyTorch's allocator on a GPU fail rather than use more than the limit leaves.

        Until the end of the context.
        """
        if self.limit is None or self.meter.device.type != "cuda":
            return
        device = self.meter.device
        others = self.sample() - torch.cuda.memory_reserved(device)
        left = self.usable - others
        _, total = torch.cuda.mem_get_info(device)  # which PyTorch takes the fraction of
        torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, left / total)), device)
        self._is_capped = True

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLED_EVERY_S):
            self.sample()


def release(device: torch.device) -> None:
    """Return the memory that PyTorch and the C library keep for later to the system."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one that led to it, says that memory has run out."""
    if error is None:
        return False
    # Most are plain RuntimeErrors: "DefaultCPUAllocator: can't allocate memory".
    is_one = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return is_one or bool(_OUT_OF_MEMORY.search(str(error))) or is_out_of_memory(error.__context__)


@contextlib.contextmanager
def out_of_memory_explained(advice: str) -> Iterator[None]:
    """Turn PyTorch's errors about memory, on any device, into one line with advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        if not is_out_of_memory(e):
            raise
        raise GrigriError(f"out of memory: {advice}") from e


def peak_of(work: Callable[[], object], budget: Budget) -> int | None:
    """Return the peak in bytes during ``work``; None if memory runs out."""
    device = budget.meter.device
    release(device)
    budget.reset_peak()
    budget.cap_torch()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            work()
        budget.sample()
        peak = budget.peak
    except (RuntimeError, MemoryError) as e:
        if not is_out_of_memory(e):
            raise
        peak = None
    release(device)
    return peak

"""What to compute on: device, number format, CPU threads and a limit for the memory.

:class:`Compute` is resolved once, where a command begins, and handed to whatever computes.
"""

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch

from ..errors import GrigriError
from . import cpu_share
from .memory import Budget
from .units import parse_bytes

# From glibc's malloc.h and Linux' mman.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _MADV_HUGEPAGE = -1, -4, 14
_HUGE_PAGE = 2 * 2**20
_CGROUP = Path("/sys/fs/cgroup")  # version 2, seen from inside a container
_ADAPT_EVERY_S = 5.0
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


DeviceName: TypeAlias = Literal["auto", "cuda", "cpu"]
AmpName: TypeAlias = Literal["auto", "fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class Compute:
    """What to compute on, and how; nothing in it is ``auto`` any more.

    Attributes:
        device: ``cpu``, or a GPU with its index, like ``cuda:0``.
        amp: number format of the forward pass: ``fp32``, ``fp16`` or ``bf16``.
        threads: CPU threads for reading, decoding and computing.
        memory_limit: bytes that this process may take on the device, ``None`` for no limit.
        adapts: whether, on a CPU, PyTorch uses fewer threads while other programs use the CPUs (see
            :meth:`adapt_threads`): where nobody has asked for a number.
    """

    device: torch.device
    amp: str
    threads: int
    memory_limit: int | None = None
    adapts: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        """The order of the values of images and filters; see :func:`memory_format`."""
        return memory_format(self.device, self.amp)

    @classmethod
    def resolve(
        cls,
        device: DeviceName = "auto",
        amp: AmpName = "auto",
        threads: int | None = None,
        memory_limit: str | None = None,
    ) -> "Compute":
        """Return what the options of the command line mean on this machine.

        Args:
            device: ``auto``, ``cuda`` or ``cpu``; see :func:`pick_device`.
            amp: number format of the forward pass, or ``auto``; see :func:`pick_amp`.
            threads: CPU threads, by default as many as the CPUs that this process may use, and for
                PyTorch fewer while other programs use them.
            memory_limit: the most that this process may take on the device, like ``4GiB``; see
                :func:`units.parse_bytes`.

        Raises:
            GrigriError: if a value is none of those, or this machine cannot do it.
        """
        limit = None if memory_limit is None else parse_bytes(memory_limit, "--memory-limit")
        require_one_of("--device", device, DeviceName)
        picked = pick_device(device)
        require_one_of("--amp", amp, AmpName)
        num_threads = cpu_share.pick_threads(threads)
        return cls(picked, pick_amp(amp, picked), num_threads, limit, adapts=threads is None)

    @contextlib.contextmanager
    def open(self) -> Iterator[Budget]:
        """Set PyTorch's number of threads, and yield a meter of the memory with the limit."""
        torch.set_num_threads(self.threads)
        self._adapt()
        with Budget(self.device, self.memory_limit) as budget:
            yield budget

    def keep_freed_memory(self) -> None:
        """Call :func:`keep_freed_memory` where it helps: on a CPU, and without a limit."""
        if self.device.type == "cpu" and self.memory_limit is None:  # it would count
            keep_freed_memory()

    def adapt_threads(self) -> bool:
        """Give PyTorch as many threads as CPUs are free; return whether that is another number.

        Call it between steps, in the thread that computes; it looks every few seconds.
        """
        if cpu_share.share.age_s < _ADAPT_EVERY_S:
            return False
        before = torch.get_num_threads()
        self._adapt()
        return torch.get_num_threads() != before

    def _adapt(self) -> None:
        if not self.adapts or self.threads == 1 or self.device.type != "cpu":
            return
        now, num_free = torch.get_num_threads(), cpu_share.share.num_free()
        # A thread more waits for nearly a whole CPU, so that the number does not go to and fro.
        if num_free < now - 0.5 or num_free > now + 0.75:
            torch.set_num_threads(max(1, min(self.threads, int(num_free + 0.25))))

    def threads_in_words(self) -> str:
        """Return a line on the threads that compute, "" where all do."""
        now = torch.get_num_threads()
        if now >= self.threads:
            return ""
        return (
            f"threads: {now} of {self.threads} while other programs use the CPUs; weights then"
            " differ in their last digits (--threads N keeps to N)"
        )


def require_one_of(flag: str, value: str, literal: Any) -> None:
    """Raise GrigriError, naming ``flag``, unless ``value`` is one of a ``Literal``'s."""
    if value not in get_args(literal):
        raise GrigriError(f"{flag} must be one of {', '.join(get_args(literal))}, not {value!r}")


def pick_device(name: str) -> torch.device:
    """Return the device that ``auto``, ``cuda`` or ``cpu`` means here; a GPU with its index.

    Of several GPUs it is PyTorch's current one. PyTorch is not made to start CUDA for that, which
    could put something on the GPU: until it has started, the current one is the first.

    Raises:
        GrigriError: for ``cuda`` where there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise GrigriError("--device cuda: no usable CUDA GPU here (does nvidia-smi see one?)")
    if not available or name == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_initialized() else 0)


def pick_amp(name: str, device: torch.device) -> str:
    """Return ``fp32``, ``fp16`` or ``bf16``: what ``auto`` means on the device, or what was asked.

    ``auto`` on CUDA: bf16 from Ampere on, fp16 on Volta and Turing, but fp32 on the GTX 16xx, whose
    fp16 gives NaN (pytorch 77955), and on anything older. On a CPU: bf16 where the processor has
    instructions for it (measured: 1.5-2.6x for resnet18 on AMX, benchmarks/README.md), else fp32.

    Raises:
        GrigriError: for fp16 on a CPU.
    """
    if name == "fp16" and device.type == "cpu":
        raise GrigriError("--amp fp16 is for GPUs; on a CPU use bf16 or fp32")
    if name != "auto":
        return name
    if device.type == "cpu":
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16" if has_bf16 else "fp32"
    major, _ = torch.cuda.get_device_capability(device)
    if major >= 8:
        return "bf16"
    return "fp16" if major == 7 and "GTX 16" not in torch.cuda.get_device_name(device) else "fp32"


def memory_format(device: torch.device, amp: str) -> torch.memory_format:
    """Return the order of the values of an image or a filter with which convolutions are fast.

    channels_last, but not for fp32 on a GPU before Ampere: there cuDNN was slower with it (2.76 s
    instead of 1.68 s on a V100, pytorch 44943; a GTX 1650, lc0 pull request 849).
    """
    is_plain = device.type == "cuda" and amp == "fp32"
    if is_plain and torch.cuda.get_device_capability(device)[0] < 8:
        return torch.contiguous_format
    return torch.channels_last


def free_bytes(device: torch.device) -> int:
    """Return how much memory a device, or this machine (a container, a job), has left."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = 1024 * _number_in(Path("/proc/meminfo"), "MemAvailable:")
    with contextlib.suppress(OSError, ValueError, StopIteration):  # without a limit it says "max"
        limit = int((_CGROUP / "memory.max").read_text())
        cached = _number_in(_CGROUP / "memory.stat", "inactive_file")
        used = int((_CGROUP / "memory.current").read_text()) - cached
        free = min(free, limit - used)
    return max(0, free)


def _number_in(file: Path, name: str) -> int:
    """Return the number after a name in a file of the kernel, which has a name on each line."""
    lines = map(str.split, file.read_text().splitlines())
    return next(int(words[1]) for words in lines if words[0] == name)


@functools.cache
def keep_freed_memory() -> None:
    """Keep memory that is freed in this process, in huge pages, for the following steps.

    glibc gives large blocks back to the system at once, so a step on a CPU, whose activations are
    large blocks, would wait for the system to zero them again, page by page: a fifth of the time of
    a step (benchmarks/README.md). PyTorch has no allocator of its own on a CPU. Call it from the
    main thread, whose heap it changes. It does nothing where there is no glibc.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(_M_MMAP_MAX, 0)  # large blocks come from the heap, too
    libc.mallopt(_M_TRIM_THRESHOLD, -1)  # whose end is never given back
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    num_bytes = free_bytes(torch.device("cpu")) // 2
    place = libc.malloc(num_bytes)  # takes addresses, not memory, until it is written to
    if place:
        first = -(-place // _HUGE_PAGE) * _HUGE_PAGE
        length = max(0, place + num_bytes - first) // _HUGE_PAGE * _HUGE_PAGE
        libc.madvise(first, length, _MADV_HUGEPAGE)
        libc.free(place)


def autocast(device: torch.device, amp: str) -> AbstractContextManager:
    """Return the context that runs a forward pass in a number format."""
    if amp == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[amp])

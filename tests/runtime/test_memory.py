import contextlib
import importlib.util
import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from grigri_fast.errors import BetweenStepsError
from grigri_fast.runtime import compute, memory
from grigri_fast.runtime.compute import Compute
from grigri_fast.runtime.memory import Budget, Meter

CPU = torch.device("cpu")
MIB = 2**20


def test_a_meter_sees_what_is_taken_and_given_back() -> None:
    memory.release(CPU)  # or the block is put where something was
    meter = Meter(CPU)
    before = meter.used()
    block = np.ones(200 * MIB, dtype=np.uint8)
    assert meter.used() - before == pytest.approx(200 * MIB, rel=0.05)
    del block
    memory.release(CPU)
    assert meter.used() - before < 20 * MIB


def test_mapped_files_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(os.urandom(64 * MIB))
    meter = Meter(CPU)
    before = meter.used()
    mapped = np.memmap(file, mode="r")
    assert mapped.sum() and meter.used() - before < 8 * MIB


def test_a_budget_sees_a_peak_that_is_over() -> None:
    before_it = {*threading.enumerate()}
    memory.release(CPU)
    with Budget(CPU, None) as budget:
        before = budget.sample()
        block = np.ones(200 * MIB, dtype=np.uint8)
        time.sleep(0.3)  # it is looked at twenty times a second
        del block
        memory.release(CPU)
        assert budget.peak - before > 180 * MIB
        budget.reset_peak()
        assert budget.peak - before < 50 * MIB
        budget.require_within_limit()
    assert not any(thread.name == "memory" for thread in {*threading.enumerate()} - before_it)


def test_a_limit_that_was_passed_is_said() -> None:
    said = pytest.raises(BetweenStepsError, match=r"--memory-limit 10 MiB: .* were in use")
    with Budget(CPU, 10 * MIB) as budget, said:
        budget.require_within_limit()
    with Budget(CPU, 2**40) as budget:
        budget.require_within_limit()


class Driver:
    """A scripted NVML with two GPUs, of which PyTorch's is the second."""

    NVMLError = RuntimeError

    def __init__(self, tells_processes_apart: bool) -> None:
        self.used = [7 * 2**30, 2 * 2**30]  # by others
        self.ours = 0
        self.tells = tells_processes_apart

    def take(self, num_bytes: int) -> None:
        self.ours += num_bytes
        self.used[1] += num_bytes

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, i: int) -> int:
        return i

    def nvmlDeviceGetUUID(self, i: int) -> str:
        return f"GPU-{'ab'[i]}"

    def nvmlDeviceGetMemoryInfo(self, i: int) -> SimpleNamespace:
        return SimpleNamespace(used=self.used[i])

    def nvmlDeviceGetComputeRunningProcesses(self, i: int) -> list[SimpleNamespace]:
        others = [SimpleNamespace(pid=1, usedGpuMemory=2 * 2**30)]
        mine = SimpleNamespace(pid=os.getpid(), usedGpuMemory=self.ours)
        return others + ([mine] if self.tells and self.ours else [])


@pytest.mark.parametrize("tells_processes_apart", [True, False])
def test_a_gpus_meter_counts_this_process_alone(monkeypatch, tells_processes_apart: bool) -> None:
    driver = Driver(tells_processes_apart)
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda d: SimpleNamespace(uuid="b"))
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: driver.take(400 * MIB))  # the context
    meter = Meter(torch.device("cuda", 0))
    assert meter.used() == 400 * MIB
    driver.take(100 * MIB)
    assert meter.used() == 500 * MIB
    assert ("this process" in meter.how) and ("since" in meter.how) != tells_processes_apart


def test_without_nvml_all_that_is_in_use_counts(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda d: (3 * 2**30, 4 * 2**30))
    meter = Meter(torch.device("cuda", 0))
    assert meter.used() == 2**30 and "by whomever" in meter.how


# -------------------------------------------------------------------------------------- the cap


@pytest.fixture
def driver(monkeypatch) -> list[tuple[float, int]]:
    """Stand for a GPU of 8 GiB, 3 of them free; return the fractions that are set, with devices.

    Only what would call the driver is replaced: PyTorch's own checks run.
    """
    fractions: list[tuple[float, int]] = []
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (3 * 2**30, 8 * 2**30))
    monkeypatch.setattr(torch._C, "_cuda_setMemoryFraction", lambda *of: fractions.append(of))
    return fractions


def test_a_cap_on_pytorchs_allocator_is_of_one_gpu_and_ends_with_the_run(driver) -> None:
    here = Compute(compute.pick_device("cuda"), "bf16", 1, memory_limit=6 * 2**30)
    before = torch.get_num_threads()
    with here.open() as budget:
        budget.cap_torch()
        # 6 GiB less 5 %, less the 5 GiB that are in use, of 8 GiB
        assert driver == [(pytest.approx((0.95 * 6 - 5) / 8, abs=1e-6), 0)]
    assert driver[1:] == [(1.0, 0)]
    torch.set_num_threads(before)


def test_without_a_limit_nothing_is_capped(driver) -> None:
    with Budget(compute.pick_device("cuda")) as budget:
        budget.cap_torch()
    assert driver == []


def test_a_trial_is_capped_and_says_that_memory_has_run_out(driver, monkeypatch) -> None:
    monkeypatch.setattr(memory, "release", lambda device: None)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: contextlib.nullcontext())

    def work() -> None:
        assert len(driver) == 1  # by now
        raise RuntimeError("CUDA error: out of memory")

    with Budget(compute.pick_device("cuda"), limit=6 * 2**30) as budget:
        assert memory.peak_of(work, budget) is None


# What the libraries say, as they write it; where it is known, with what stands around it.
OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA_ERROR_OUT_OF_MEMORY"),
    RuntimeError("CUDA ran out of memory outside PyTorch's allocator. If this workload uses many"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory:"
        " you tried to allocate 4000000000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    MemoryError("CUDA allocation failed"),
    MemoryError("std::bad_alloc"),
    RuntimeError("Critical error in pipeline:\nCan't allocate 12582912 bytes on device 0."),
    RuntimeError("Critical error in pipeline:\nCan't allocate 12582912 bytes on host."),
    RuntimeError("Error in thread 0: CUDA allocation failed"),
    RuntimeError("CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory"),
    RuntimeError("nvImageCodec: Memory allocator error"),
    RuntimeError("nvJPEG error: allocator failure"),
    RuntimeError("failed to allocate pinned GPU Memory"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("unable to mmap 123 bytes from file: Cannot allocate memory (12)"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda e: str(e).replace("\n", " ")[:60])
def test_every_library_is_understood_when_memory_runs_out(error: BaseException) -> None:
    assert memory.is_out_of_memory(error)
    later = ValueError("something that came of it")
    later.__context__ = error
    assert memory.is_out_of_memory(later)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "CUDA error: operation not permitted when stream is capturing",
        "CUDA error: an illegal memory access was encountered",
        "Critical error in pipeline:\nError in GPU operator: cannot decode",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "Register allocation failed with register count of '255'.",
        "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    ],
)
def test_other_errors_are_not_about_memory(text: str) -> None:
    assert not memory.is_out_of_memory(RuntimeError(text))
    assert not memory.is_out_of_memory(None)


def test_what_the_installed_libraries_say_is_understood() -> None:
    """Their own words, looked up in their files, so that a new version that changes them fails."""
    dali = Path(importlib.util.find_spec("nvidia.dali").submodule_search_locations[0])
    pytorch = Path(torch.__file__).parent / "lib"
    for file, words in (
        (
            dali / "libdali_core.so",
            [b"Can't allocate %zu bytes on device", b"CUDA allocation failed"],
        ),
        (pytorch / "libc10.so", [b"DefaultCPUAllocator: can't allocate memory"]),
    ):
        content = file.read_bytes()
        for text in words:
            assert text in content
            assert memory.is_out_of_memory(RuntimeError(text.decode().replace("%zu", "64")))

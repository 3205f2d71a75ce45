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
from grigri_fast.runtime import memory
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
    assert not any(thread.name == "memory" for thread in threading.enumerate())


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

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch

from grigri_fast.runtime import cpu_share
from grigri_fast.runtime.compute import Compute
from grigri_fast.runtime.cpu_share import CpuShare, usable_cpus

STAT = """\
cpu  100 10 50 9000 5 1 2 3 0 0
cpu0 60 10 20 4000 5 1 1 3 7 0
cpu1 40 0 30 5000 0 0 1 0 0 0
intr 12345 0 9
"""


def test_busy_are_all_kinds_but_idle_and_waiting() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    assert cpu_share.busy_s(STAT, [0]) == 95 / ticks
    assert cpu_share.busy_s(STAT, [0, 1]) == 166 / ticks


@contextlib.contextmanager
def one_cpu() -> Iterator[int]:
    """Let this process and its children run on one CPU only."""
    before = os.sched_getaffinity(0)
    cpu = max(before)
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def busy_program() -> Iterator[None]:
    child = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=-1
    )
    try:
        child.stdout.readline()
        yield
    finally:
        child.kill()
        child.communicate()


def test_what_another_program_uses_is_not_free_and_what_we_use_is() -> None:
    with one_cpu():
        share = CpuShare()
        with busy_program():
            time.sleep(1)
            assert share.num_free() < 0.3
            start_s, ours_s = time.monotonic(), time.process_time()
            while time.monotonic() < start_s + 1:
                pass
            ours = (time.process_time() - ours_s) / (time.monotonic() - start_s)
            assert ours < 0.9 and abs(share.num_free() - ours) < 0.15


def test_a_look_of_long_ago_is_taken_again(monkeypatch) -> None:
    monkeypatch.setattr(cpu_share, "_MOST_S", 0.5)
    with one_cpu(), busy_program():
        share = CpuShare()
        time.sleep(0.6)
        started_s = time.monotonic()
        assert share.num_free() < 0.5 and time.monotonic() - started_s >= 0.2


def test_just_after_a_look_nothing_waits_for_another(monkeypatch) -> None:
    share = CpuShare()
    num_free = share.num_free()
    monkeypatch.setattr(cpu_share.time, "sleep", lambda seconds: pytest.fail("it waits"))
    share._last = share._last._replace(at_s=time.monotonic())
    assert share.num_free() == num_free


@pytest.mark.parametrize("stat", [None, "cpu0 1 2 3\n"])
def test_where_the_kernel_does_not_tell_all_is_free(
    stat: str | None, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(cpu_share, "_STAT", tmp_path / "stat")
    with one_cpu() as cpu:
        if stat is not None:
            (tmp_path / "stat").write_text(stat.replace("cpu0", f"cpu{cpu}"))
        assert CpuShare().num_free() == 1


@pytest.mark.parametrize(
    ("quota", "num"), [("max 100000", 3), ("150000 100000", 2), ("50000 100000", 1)]
)
def test_usable_cpus_of_a_container(quota: str, num: int, tmp_path, monkeypatch) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(cpu_share, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 5})
    assert usable_cpus() == num


@pytest.fixture
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_threads_follow_what_is_free_only_where_nobody_asked(
    monkeypatch, threads_as_before
) -> None:
    free = [4.0]

    class Share:
        age_s = 6.0

        def num_free(self) -> float:
            return free[0]

    monkeypatch.setattr(cpu_share, "share", Share())
    asked = Compute(torch.device("cpu"), "fp32", 4)
    here = Compute(torch.device("cpu"), "fp32", 4, adapts=True)
    with asked.open():
        free[0] = 0.0
        assert not asked.adapt_threads() and torch.get_num_threads() == 4
        assert asked.threads_in_words() == ""
    with here.open():
        assert torch.get_num_threads() == 1  # at least
        assert here.threads_in_words().startswith("threads: 1 of 4 while other programs")
        for now, num in ((1.6, 1), (1.8, 2), (1.6, 2), (1.4, 1), (9.0, 4), (3.6, 4), (3.4, 3)):
            free[0] = now
            is_other = torch.get_num_threads() != num
            assert here.adapt_threads() == is_other and torch.get_num_threads() == num
        Share.age_s, free[0] = 4.0, 9.0
        assert not here.adapt_threads()
        on_gpu = dataclasses.replace(here, device=torch.device("cuda", 0))
        Share.age_s = 6.0
        assert not on_gpu.adapt_threads()  # what it computes does not wait for CPUs
    assert Compute.resolve("cpu", "fp32").adapts and not Compute.resolve("cpu", "fp32", 1).adapts

import pytest
import torch

from grigri_fast.errors import GrigriError
from grigri_fast.runtime import compute, cpu_share
from grigri_fast.runtime.compute import Compute


def test_nothing_is_auto_once_it_is_resolved() -> None:
    here = Compute.resolve()
    assert here.device == compute.pick_device("auto")
    assert here.amp == compute.pick_amp("auto", here.device) in ("fp32", "fp16", "bf16")
    assert here.threads == cpu_share.usable_cpus() and here.memory_limit is None
    asked = Compute.resolve("cpu", "bf16", 3, "2GiB")
    assert asked == Compute(torch.device("cpu"), "bf16", 3, 2 * 2**30)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"device": "gpu"}, "--device must be one of auto, cuda, cpu, not 'gpu'"),
        ({"amp": "fp8"}, "--amp must be one of auto, fp32, fp16, bf16, not 'fp8'"),
        ({"device": "cpu", "amp": "fp16"}, "--amp fp16 is for GPUs"),
        ({"threads": 0}, "--threads must be at least 1, not 0"),
        ({"memory_limit": "4"}, "--memory-limit '4' is less than a MiB"),
    ],
)
def test_what_this_machine_cannot_do_is_one_line(options: dict, says: str) -> None:
    with pytest.raises(GrigriError) as error:
        Compute.resolve(**options)
    assert says in str(error.value)


def test_opening_sets_the_threads_and_measures() -> None:
    before = torch.get_num_threads()
    try:
        with Compute(torch.device("cpu"), "fp32", 2, 2**40).open() as budget:
            assert torch.get_num_threads() == 2
            assert budget.limit == 2**40 and budget.peak > 2**20
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "capability, name, amp",
    [
        ((9, 0), "H100", "bf16"),
        ((7, 5), "Tesla T4", "fp16"),
        ((7, 5), "GeForce GTX 1650", "fp32"),  # its fp16 gives NaN
        ((6, 1), "GeForce GTX 1080", "fp32"),
    ],
)
def test_the_number_format_of_a_gpu(monkeypatch, capability, name: str, amp: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert compute.pick_amp("auto", torch.device("cuda", 0)) == amp
    assert compute.pick_amp("fp32", torch.device("cuda", 0)) == "fp32"


@pytest.mark.parametrize("current", [None, 0, 1])
def test_a_gpu_is_the_current_one_and_has_its_index(monkeypatch, current: int | None) -> None:
    """Before CUDA has started, the first one; and it is not started for that."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: current is not None)
    if current is not None:
        monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
        monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: current)
    for name in ("auto", "cuda"):
        assert compute.pick_device(name) == torch.device("cuda", current or 0)
    assert compute.pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    "device, amp, capability, is_last",
    [
        ("cpu", "fp32", None, True),
        ("cpu", "bf16", None, True),
        ("cuda:0", "fp32", (9, 0), True),
        ("cuda:0", "fp32", (8, 0), True),
        ("cuda:0", "fp32", (7, 5), False),  # a GTX 1650
        ("cuda:0", "fp32", (7, 0), False),  # a V100
        ("cuda:0", "fp16", (7, 5), True),
        ("cuda:0", "bf16", (7, 5), True),
    ],
)
def test_channels_last_is_where_it_is_fast(
    monkeypatch, device: str, amp: str, capability, is_last: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    here = Compute(torch.device(device), amp, 1)
    expected = torch.channels_last if is_last else torch.contiguous_format
    assert here.memory_format == compute.memory_format(here.device, amp) == expected

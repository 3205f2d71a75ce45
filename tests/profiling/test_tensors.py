"""The ledger beside sizes that were computed by hand, and beside PyTorch's own accounting."""

import pytest
import torch
from torch import nn

from grigri_fast.config import TrainConfig, resolve
from grigri_fast.models import factory, normalize
from grigri_fast.profiling import profiler as profiling
from grigri_fast.profiling import tensors
from grigri_fast.profiling.tensors import Ledger
from grigri_fast.runtime.compute import Compute
from grigri_fast.training import optim, setup
from grigri_fast.training.autobatch import Plan

CPU = torch.device("cpu")


def config_of(arch: str, size_px: int, **more) -> TrainConfig:
    return resolve(TrainConfig(data="-", arch=arch, size=size_px, **more))


def test_storages_are_followed_from_the_first_use_to_the_last() -> None:
    model = nn.Sequential(nn.Linear(10, 20, bias=False), nn.Tanh(), nn.Linear(20, 5, bias=False))
    inputs = torch.zeros(7, 10)
    book = Ledger(model, CPU)
    book.enter([inputs], tensors.INPUT)
    with book.watching():
        with book.phase("forward"):
            loss = model(inputs).sum()
        with book.phase("backward"):
            loss.backward()
            del loss
    account = book.account()
    assert account.series["weights"] == [1200] * len(account.totals)
    assert account.series["input batch"][0] == 280
    # Kept for the backward pass: the outputs of both layers before the sum are not, Tanh's is.
    name = "activations: 1 Tanh"
    assert max(account.series[name]) == 7 * 20 * 4 and account.series[name][-1] == 0
    assert max(account.series["gradients"]) == account.series["gradients"][-1] == 1200
    assert [name for _, name in account.phases] == ["forward", "backward"]
    assert sum(account.at_peak().values()) == account.peak == max(account.totals)


def test_the_estimate_of_simple_is_what_the_hand_computes() -> None:
    """In fp32, without BatchNorm, each ReLU in place: weights, their gradients, momentum; and of
    each image its normalised pixels, each convolution's output, each pooling's with int64 indices.
    """
    n, size_px = 4, 128
    found = profiling.estimate(config_of("simple", size_px), Plan(n, n), 14, "fp32")
    rows = found.training.account.at_peak()
    num_parameters = 11_098_110
    assert rows["weights"] == 4 * num_parameters
    assert rows["optimizer state"] == 4 * num_parameters
    per_image, side, channels = 3 * size_px**2 * 4, size_px, 3
    for i, (width, depth) in enumerate(((32, 2), (64, 2), (128, 3), (256, 3), (512, 3))):
        if i:
            side //= 2
            per_image += channels * side**2 * (4 + 8)
        per_image += depth * width * side**2 * 4
        channels = width
    series = found.training.account.series
    kinds = [kind for kind in series if kind.startswith(tensors.ACTIVATIONS)]
    totals = [sum(values) for values in zip(*(series[k] for k in kinds), strict=True)]
    # The linear layers, dropout's masks and the loss are small beside that.
    assert n * per_image <= max(totals) < 1.01 * n * per_image + 2**20


def peak_by_pytorch(work) -> int:
    """Return by how much the CPU allocator's total rises, as PyTorch's profiler records it."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        work()
    used = peak = 0
    for event in sorted(
        (e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"),
        key=lambda e: e.start_ns(),
    ):
        used += event.nbytes()
        peak = max(peak, used)
    return peak


@pytest.mark.parametrize("plan", [Plan(4, 4), Plan(4, 2), Plan(4, 4, True)])
def test_the_estimate_of_resnet34_is_what_pytorch_has_allocated(plan: Plan) -> None:
    config = config_of("resnet34", 64)
    found = profiling.estimate(config, plan, 14, "fp32").training.account
    torch.manual_seed(0)
    tried = plan.applied_to(config)
    made = setup.prepare(setup.untrained(tried, 14, CPU), tried, Compute(CPU, "fp32", 1))
    images_NHWC = torch.zeros((4, 64, 64, 3), dtype=torch.uint8)
    targets_NC = torch.zeros(4, 14)
    made.step(images_NHWC, targets_NC)
    standing = sum(
        t.nbytes
        for t in (
            *made.model.parameters(),
            *made.model.buffers(),
            *(s["momentum_buffer"] for s in made.optimizer.state.values()),
            images_NHWC,
            targets_NC,
        )
    )
    # The gradients of the step before go first, so that the total begins below what stands.
    made.optimizer.zero_grad(set_to_none=True)
    rise = peak_by_pytorch(lambda: made.step(images_NHWC, targets_NC))
    # Kernels of a CPU take memory for themselves (reordered weights), which is no tensor.
    assert 0.9 * (standing + rise) < found.peak < 1.01 * (standing + rise)


def test_micro_batches_and_checkpointing_take_less_by_the_estimate() -> None:
    def peak(plan: Plan, amp: str = "bf16") -> int:
        return profiling.estimate(config_of("resnet34", 224), plan, 14, amp).training.account.peak

    whole, split, checkpointed = peak(Plan(32, 32)), peak(Plan(32, 8)), peak(Plan(32, 32, True))
    assert split < 0.6 * whole and checkpointed < 0.75 * whole
    assert peak(Plan(32, 32), "fp32") > 1.4 * whole
    assert peak(Plan(32, 32), "fp16") == whole


@pytest.mark.parametrize("arch", ["simple", "alexnet", "densenet121", "vit_b_16", "inception_v3"])
def test_every_kind_of_network_can_be_estimated(arch: str) -> None:
    size_px = {"inception_v3": 96, "alexnet": 64}.get(arch, 32)
    found = profiling.estimate(config_of(arch, size_px), Plan(4, 4), 3, "bf16")
    assert sum(found.training.rows.values()) == found.training.total
    assert found.training.account.peak > 0 and found.evaluation.total < found.training.total
    # Nothing of the fake tensors stays behind.
    model = factory.build(arch, 3, size_px).eval()
    images_NHWC = torch.zeros((2, size_px, size_px, 3), dtype=torch.uint8)
    assert torch.isfinite(model(normalize.normalize(images_NHWC))).all()


def test_stages_are_what_a_reader_would_call_them() -> None:
    def names(arch: str, size_px: int = 64) -> list[str]:
        return list(
            dict.fromkeys(name for name, _ in tensors.stages(factory.build(arch, 3, size_px)))
        )

    assert names("resnet18") == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    assert names("densenet121")[:2] == ["stem", "features.denseblock1"]
    assert names("vit_b_16")[1] == "encoder.layers.encoder_layer_0"
    assert names("simple")[0] == "0 Conv2d"


def test_an_optimizer_with_more_state_is_seen() -> None:
    model = nn.Linear(8, 4)
    optimizer = optim.make_optimizer(config_of("simple", 64, optimizer="adam"), model.parameters())
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    book = Ledger(model, CPU)
    states = (t for state in optimizer.state.values() for t in state.values())
    book.enter(states, tensors.OPTIMIZER)
    account = book.account()
    assert account.at_peak()["optimizer state"] == 2 * 36 * 4 + 2 * 4  # two moments, two counters

"""Estimates beside sizes that were computed by hand, and beside PyTorch's own accounting."""

import warnings

import pytest
import torch

from grigri_fast.config import TrainConfig, resolve
from grigri_fast.models import factory, normalize
from grigri_fast.profiling import profiler, tensors
from grigri_fast.runtime.compute import Compute
from grigri_fast.training import setup

CPU = torch.device("cpu")


def estimated(
    arch: str, size_px: int, batch_size: int, amp: str = "bf16", num_classes: int = 14, **more
) -> profiler.Usage:
    config = TrainConfig(arch=arch, freeze_stages=0, size=size_px, batch_size=batch_size, **more)
    return profiler.estimate_step(resolve(config), num_classes, amp)


def test_the_estimate_of_simple_is_what_the_hand_computes() -> None:
    """In fp32, without BatchNorm, each ReLU in place: weights, their gradients, momentum; and of
    each image its normalised pixels, each convolution's output, each pooling's with int64 indices.
    """
    n, size_px = 4, 128
    estimate = estimated("simple", size_px, n, "fp32")
    rows = estimate.training.timeline.at_peak()
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
    series = estimate.training.timeline.series
    kinds = [kind for kind in series if kind.startswith(tensors.ACTIVATIONS)]
    totals = [sum(values) for values in zip(*(series[k] for k in kinds), strict=True)]
    # The linear layers, dropout's masks and the loss are small beside that.
    assert n * per_image <= max(totals) < 1.01 * n * per_image + 2**20


def peak_by_pytorch(work) -> int:
    """Return by how much the CPU allocator's total rises, as PyTorch's profiler records it."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    used = peak = 0
    for event in sorted(
        (e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"),
        key=lambda e: e.start_ns(),
    ):
        used += event.nbytes()
        peak = max(peak, used)
    return peak


def test_an_estimate_of_a_run_with_an_average_of_the_weights_warns_of_nothing() -> None:
    """A copy of fake tensors made PyTorch warn, and sometimes crash."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = estimated("resnet18", 32, 4, ema=0.9).training.timeline.at_peak()
    assert rows["weights"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan", [{}, {"micro_batch_size": 2}, {"activation_checkpointing": True}], ids=str
)
def test_the_estimate_of_resnet34_is_what_pytorch_has_allocated(plan: dict) -> None:
    estimate = estimated("resnet34", 64, 4, "fp32", **plan).training.timeline
    torch.manual_seed(0)
    config = resolve(TrainConfig(arch="resnet34", freeze_stages=0, size=64, batch_size=4, **plan))
    here = Compute(CPU, "fp32", 1)
    made = setup.prepare(setup.untrained(config, 14, here), config, here)
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
    assert 0.9 * (standing + rise) < estimate.peak < 1.01 * (standing + rise)


@pytest.mark.slow
def test_micro_batches_and_checkpointing_take_less_by_the_estimate() -> None:
    def peak(amp: str = "bf16", **plan) -> int:
        return estimated("resnet34", 224, 32, amp, **plan).training.timeline.peak

    whole = peak()
    assert peak(micro_batch_size=8) < 0.6 * whole
    assert peak(activation_checkpointing=True) < 0.75 * whole
    assert peak("fp32") > 1.4 * whole
    assert peak("fp16") == whole


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["simple", "alexnet", "densenet121", "vit_b_16", "inception_v3"])
def test_every_kind_of_network_can_be_estimated(arch: str) -> None:
    size_px = {"inception_v3": 96, "alexnet": 64}.get(arch, 32)
    estimate = estimated(arch, size_px, 4, num_classes=3)
    assert sum(estimate.training.rows.values()) == estimate.training.total
    assert (
        estimate.training.timeline.peak > 0 and estimate.evaluation.total < estimate.training.total
    )
    # Nothing of the fake tensors stays behind.
    model = factory.build(arch, 3, size_px).eval()
    images_NHWC = torch.zeros((2, size_px, size_px, 3), dtype=torch.uint8)
    assert torch.isfinite(model(normalize.normalize(images_NHWC))).all()

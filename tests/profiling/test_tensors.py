"""The memory of tensors beside sizes that were computed by hand."""

import torch
from torch import nn

from grigri_fast.config import TrainConfig, resolve
from grigri_fast.models import factory
from grigri_fast.profiling import tensors
from grigri_fast.profiling.tensors import TensorTracker
from grigri_fast.training import optim

CPU = torch.device("cpu")


def test_storages_are_followed_from_the_first_use_to_the_last() -> None:
    model = nn.Sequential(nn.Linear(10, 20, bias=False), nn.Tanh(), nn.Linear(20, 5, bias=False))
    inputs = torch.zeros(7, 10)
    tracker = TensorTracker(model, CPU)
    tracker.label([inputs], tensors.INPUT)
    with tracker.active():
        with tracker.phase("forward"):
            loss = model(inputs).sum()
        with tracker.phase("backward"):
            loss.backward()
            del loss
    timeline = tracker.timeline()
    assert timeline.series["weights"] == [1200] * len(timeline.totals)
    assert timeline.series["input batch"][0] == 280
    # Kept for the backward pass: the outputs of both layers before the sum are not, Tanh's is.
    name = "activations: 1 Tanh"
    assert max(timeline.series[name]) == 7 * 20 * 4 and timeline.series[name][-1] == 0
    assert max(timeline.series["gradients"]) == timeline.series["gradients"][-1] == 1200
    assert [name for _, name in timeline.phases] == ["forward", "backward"]
    assert sum(timeline.at_peak().values()) == timeline.peak == max(timeline.totals)


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
    optimizer = optim.make_optimizer(
        resolve(TrainConfig(arch="simple", size=64, optimizer="adam")), model.parameters()
    )
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    tracker = TensorTracker(model, CPU)
    states = (t for state in optimizer.state.values() for t in state.values())
    tracker.label(states, tensors.OPTIMIZER)
    timeline = tracker.timeline()
    assert timeline.at_peak()["optimizer state"] == 2 * 36 * 4 + 2 * 4  # two moments, two counters

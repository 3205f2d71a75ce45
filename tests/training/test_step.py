import contextlib
import copy
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from grigri_fast.config import TrainConfig, resolve
from grigri_fast.inference import forward
from grigri_fast.models import activation_checkpoint, depthwise, normalize
from grigri_fast.runs import training_state
from grigri_fast.runtime import compute
from grigri_fast.runtime.compute import Compute
from grigri_fast.training import optim, setup
from grigri_fast.training.losses import LOSSES, labels_of
from grigri_fast.training.step import TrainStep

CPU = torch.device("cpu")


def one_group(parameters: Iterable[nn.Parameter]) -> list[dict]:
    return [{"params": list(parameters), "lr_factor": 1.0}]


def muon(model: nn.Module, on_device: bool) -> optim.Muon:
    """Return a Muon that takes the filters of all convolutions, those that see colours too."""
    filters = [p for p in model.parameters() if p.ndim == 4]
    rest = [p for p in model.parameters() if p.ndim != 4]
    groups = [one_group(filters)[0] | {"is_muon": True}, one_group(rest)[0] | {"is_muon": False}]
    return optim.Muon(groups, 0.1, 0.9, on_device)


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))


def batches(num: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rng = torch.Generator().manual_seed(1)
    return [
        (
            torch.randint(0, 256, (6, 8, 8, 3), dtype=torch.uint8, generator=rng),
            (torch.rand(6, 3, generator=rng) < 0.4).float(),
        )
        for _ in range(num)
    ]


def step_of(model: nn.Module, optimizer: torch.optim.Optimizer, **options) -> TrainStep:
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    settings = {"device": CPU, "amp": "fp32", "batch_size": 6} | options
    step = TrainStep(model.train(), optimizer, scaler, LOSSES["bce"], **settings)
    step.start_epoch([], 0, 0)
    return step


def test_a_step_is_the_plain_one_and_the_sums_are_those_of_its_outputs() -> None:
    ours, plain = small_net(), small_net()
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
    step = step_of(ours, torch.optim.SGD(ours.parameters(), **settings))
    optimizer = torch.optim.SGD(plain.train().parameters(), **settings)
    loss_sum = tp = right = 0.0
    for images_NHWC, targets_NC in batches(5):
        step(images_NHWC, targets_NC)
        optimizer.zero_grad()
        logits_NC = plain(normalize.normalize(images_NHWC))
        loss = LOSSES["bce"](logits_NC, targets_NC)
        loss.backward()
        optimizer.step()
        loss_sum += 6 * loss.item()
        tp += ((logits_NC > 0) & (targets_NC > 0)).sum().item()
        right += ((logits_NC > 0) == (targets_NC > 0)).all(1).sum().item()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)
    sums = step.read_sums()
    assert sums.loss == pytest.approx(loss_sum) and (sums.tp, sums.right) == (tp, right)
    assert (sums.num_images, sums.num_skipped, sums.bad_step) == (30, 0, -1)


def test_the_networks_own_mean_and_std_are_used_in_training_and_evaluation() -> None:
    seen: list[torch.Tensor] = []
    model = small_net()
    model.preprocessing = normalize.Preprocessing((0.1, 0.5, 0.9), (0.5, 0.25, 1.0))
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    ((images_NHWC, targets_NC),) = batches(1)
    step_of(model, torch.optim.SGD(model.parameters(), lr=0.0))(images_NHWC, targets_NC)
    compute = Compute(CPU, "fp32", 1)
    forward.logits_of(copy.deepcopy(model), compute, flip=True)(images_NHWC)
    mean, std = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.5, 0.25, 1.0])
    expected = ((images_NHWC / 255 - mean) / std).permute(0, 3, 1, 2)
    assert len(seen) == 3
    for inputs, wanted in zip(seen, (expected, expected, expected.flip(3)), strict=True):
        torch.testing.assert_close(inputs, wanted, rtol=1e-5, atol=1e-5)


KINDS = ["sgd", "device", "adam", "fused adam", "rmsprop", "device rmsprop", "muon", "device muon"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_is_not_finite_changes_nothing_but_is_told(kind: str) -> None:
    model = small_net()
    parameters = list(model.parameters())
    optimizer = {
        "sgd": lambda: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        "device": lambda: optim.DeviceSGD(one_group(parameters), 0.1, 0.9, 0.0),
        "adam": lambda: torch.optim.Adam(parameters),
        "fused adam": lambda: torch.optim.Adam(parameters, fused=True),
        "rmsprop": lambda: torch.optim.RMSprop(parameters, momentum=0.9),
        "device rmsprop": lambda: optim.DeviceRMSprop(one_group(parameters), 0.01, 0.9, 1e-3),
        "muon": lambda: muon(model, on_device=False),
        "device muon": lambda: muon(model, on_device=True),
    }[kind]()
    step = step_of(model, optimizer)
    first, second, third = batches(3)
    step(*first)
    before = copy.deepcopy([p.data for p in parameters])
    state = copy.deepcopy(optimizer.state_dict()["state"])
    step(second[0], second[1] * torch.nan)
    step(second[0], second[1] * torch.inf)
    assert all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
    for i, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(state[i][name])), name
    sums = step.read_sums()
    assert (sums.num_images, sums.num_skipped, sums.streak) == (6, 2, 2)
    assert sums.bad_step == 2 and not torch.tensor(sums.bad_loss).isfinite()
    step(*third)
    sums = step.read_sums()
    assert (sums.num_images, sums.num_skipped, sums.streak, sums.bad_step) == (12, 2, 0, -1)
    assert not all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "lr": 0.1},
        {"optimizer": "rmsprop", "lr": 0.003, "momentum": 0.9},
        {"optimizer": "rmsprop", "lr": 0.003, "momentum": 0.0, "momentum_min": 0.0},
        {"optimizer": "rmsprop", "lr": 0.003, "weight_decay": 0.0},
        {"optimizer": "muon", "lr": 0.02},
    ],
    ids=str,
)
def test_an_optimizer_on_the_device_is_the_plain_one_through_a_whole_one_cycle(
    options: dict,
) -> None:
    config = resolve(TrainConfig(data="x", recipe="report", **{"weight_decay": 1e-3} | options))
    # Before a BatchNorm a bias has a gradient of noise alone, which RMSprop makes large.
    ours, plain = small_net(), small_net()
    for model in (ours, plain):
        model[1] = nn.ReLU()
    optimizers = [
        optim.make_optimizer(config, model.parameters(), on_device=on_device)
        for model, on_device in ((ours, True), (plain, False))
    ]
    assert [optim.is_on_device(optimizer) for optimizer in optimizers] == [True, False]
    assert type(optimizers[0]) in (optim.DeviceSGD, optim.DeviceRMSprop, optim.Muon)
    steps = [step_of(m, o) for m, o in zip((ours, plain), optimizers, strict=True)]
    for number, batch in enumerate(batches(20)):
        lr, momentum = optim.lr_and_momentum(config, number, 20)
        for optimizer, step in zip(optimizers, steps, strict=True):
            optim.set_lr_and_momentum(optimizer, lr, momentum)
            step(*batch)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("from_device", [False, True])
@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop", "muon"])
def test_a_state_goes_on_on_another_device(name: str, from_device: bool, tmp_path: Path) -> None:
    """A run that began on a CPU may go on on a GPU, and back."""
    options = {"optimizer": name, "lr": 0.01, "momentum": 0.9, "schedule": "constant"}
    config = resolve(TrainConfig(data="x", recipe="report", **options))
    models = [small_net(), small_net()]
    optimizers = [
        optim.make_optimizer(config, model.parameters(), on_device=on_device)
        for model, on_device in zip(models, (from_device, not from_device), strict=True)
    ]
    steps = [step_of(m, o) for m, o in zip(models, optimizers, strict=True)]
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    first, second = batches(2)
    steps[0](*first)
    file, progress = tmp_path / "state", training_state.Progress()
    training_state.save(file, file, models[0], optimizers[0], scaler, progress)
    training_state.load(file).restore(models[1], optimizers[1], scaler)
    for step in steps:
        step(*second)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_state_that_is_restored_into_a_step_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path,
) -> None:
    """A run makes its step first; what the step shares with the optimizer has to stay shared."""
    models, optimizers = [small_net(), small_net()], []
    for model in models:
        optimizers.append(optim.DeviceSGD(one_group(model.parameters()), 0.1, 0.9, 1e-3))
    steps = [step_of(m, o) for m, o in zip(models, optimizers, strict=True)]
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    first, second, third = batches(3)
    steps[0](*first)
    file = tmp_path / "state"
    progress = training_state.Progress()
    training_state.save(file, file, models[0], optimizers[0], scaler, progress)
    training_state.load(file).restore(models[1], optimizers[1], scaler)
    spoiled = second[1].clone()
    spoiled[0] = torch.inf
    for images, targets in ((second[0], spoiled), second, third):
        for step in steps:
            step(images, targets)
    assert steps[1].read_sums().num_skipped == 1
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(a, b) and a.isfinite().all()


def test_channels_last_and_the_plain_format_agree() -> None:
    sums = []
    for fast in (True, False):
        model = small_net()
        if fast:
            model.to(memory_format=torch.channels_last)
        step = step_of(model, torch.optim.SGD(model.parameters(), lr=0.05), fast=fast)
        for batch in batches(10):
            step(*batch)
        sums.append(step.read_sums().loss)
    assert sums[0] == pytest.approx(sums[1], rel=1e-4)


def test_where_channels_last_is_slow_there_is_none(monkeypatch) -> None:
    """Neither in training nor in evaluation, whose networks and inputs are made apart."""
    plain = torch.contiguous_format
    monkeypatch.setattr(compute, "memory_format", lambda device, amp: plain)
    here, seen = Compute(CPU, "fp32", 1), []
    model = setup.placed(small_net(), resolve(TrainConfig(data="-")), here)
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    ((images_NHWC, targets_NC),) = batches(1)
    step_of(model, torch.optim.SGD(model.parameters(), lr=0.1))(images_NHWC, targets_NC)
    forward.logits_of(model, here)(images_NHWC)
    assert len(seen) == 2
    for tensor in (*seen, model[0].weight):
        assert tensor.is_contiguous() and not tensor.is_contiguous(
            memory_format=torch.channels_last
        )


@pytest.mark.parametrize("micro_batch_size", [2, 3, 4, 5])
def test_micro_batches_make_the_step_of_the_whole_batch(micro_batch_size: int) -> None:
    """Without BatchNorm, and with an odd rest; what is summed up is the same, too."""
    seen = []
    for size in (None, micro_batch_size):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        step = step_of(model, optimizer, micro_batch_size=size)
        for images_NHWC, targets_NC in batches(4):
            step(images_NHWC, targets_NC)
        step(images_NHWC[:5], targets_NC[:5])  # a smaller batch
        seen.append((step.read_sums(), list(model.parameters())))
    (whole, weights), (parts, others) = seen
    assert parts._replace(loss=0.0) == whole._replace(loss=0.0)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    for a, b in zip(weights, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_no_micro_batch_has_a_single_image() -> None:
    sizes = []
    model = small_net()
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    step = step_of(model, torch.optim.SGD(model.parameters(), lr=0.1), micro_batch_size=2)
    images_NHWC, targets_NC = batches(1)[0]
    step(images_NHWC[:5], targets_NC[:5])
    assert sizes == [3, 2]


def test_the_parts_of_a_step_can_be_watched() -> None:
    seen = []

    def watch(name: str) -> contextlib.AbstractContextManager:
        seen.append(name)
        return contextlib.nullcontext()

    model = small_net()
    step = step_of(model, torch.optim.SGD(model.parameters(), lr=0.1), phase=watch)
    step(*batches(1)[0])
    assert seen == ["forward", "backward", "metrics", "optimizer"]


def test_depthwise_convolutions_get_fast_gradients_also_where_activations_are_recomputed(
    monkeypatch,
) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)),
        nn.Sequential(nn.Conv2d(8, 8, 5, padding=2, groups=8), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(288, 3),
    )
    recomputed = copy.deepcopy(plain)
    activation_checkpoint.checkpoint_activations(recomputed)
    used = []
    backward = depthwise._gradient_of_weight
    monkeypatch.setattr(
        depthwise, "_gradient_of_weight", lambda *a: used.append(len(a)) or backward(*a)
    )
    gradients = []
    for model in (plain, recomputed):
        step = step_of(model, torch.optim.SGD(model.parameters(), lr=0.0), amp="bf16")
        step(*batches(1)[0])
        gradients.append([p.grad for p in model.parameters()])
    assert len(used) == 2
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_an_unknown_label_moves_nothing_and_counts_nowhere() -> None:
    """In micro-batches, too, whatever its target would be."""
    ((images_NHWC, targets_NC),) = batches(1)
    unknown_NC = np.random.default_rng(0).random((6, 3)) < 0.4
    states, sums = [], []
    for micro_batch_size in (6, 3):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
        step = step_of(
            network,
            torch.optim.SGD(network.parameters(), lr=0.1),
            micro_batch_size=micro_batch_size,
        )
        # The network takes NCHW; any order of the pixels does here.
        step(images_NHWC, labels_of(targets_NC.numpy() * ~unknown_NC, unknown_NC, np.arange(6)))
        states.append(network[1].weight.detach().clone())
        sums.append(step.read_sums())
    torch.testing.assert_close(states[0], states[1])
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    logits_NC = plain(normalize.normalize(images_NHWC))
    known_NC, true_NC = torch.from_numpy(~unknown_NC), targets_NC > 0.5
    loss = LOSSES["bce"](logits_NC[known_NC], targets_NC[known_NC])
    loss.backward()
    expected = plain[1].weight - 0.1 * plain[1].weight.grad
    torch.testing.assert_close(states[0], expected.detach())
    predicted_NC = logits_NC > 0
    assert sums[0].loss == pytest.approx(6 * loss.item(), rel=1e-5)
    assert sums[0].tp == (predicted_NC & true_NC & known_NC).sum()
    assert sums[0].fp == (predicted_NC & ~true_NC & known_NC).sum()
    assert sums[0].fn == (~predicted_NC & true_NC & known_NC).sum()
    assert sums[0].right == ((predicted_NC == true_NC) | ~known_NC).all(1).sum()

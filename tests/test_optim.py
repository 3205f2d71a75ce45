import pytest
import torch
from torch import nn

from grigri_fast import losses, optim
from grigri_fast.config import TrainConfig, resolve


@pytest.mark.parametrize("num_steps", [2, 3, 4, 7, 10, 100, 1001])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_onecycle_equals_pytorchs(num_steps: int, optimizer: str) -> None:
    config = resolve(TrainConfig(optimizer=optimizer, lr=0.4, momentum=0.95, momentum_min=0.85))
    ours = optim.make_optimizer(config, [nn.Parameter(torch.zeros(1))])
    theirs = optim.make_optimizer(config, [nn.Parameter(torch.zeros(1))])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        theirs, max_lr=0.4, total_steps=num_steps, final_div_factor=0.4 / 25 / 1e-7
    )
    for step in range(num_steps):
        optim.set_lr_and_momentum(ours, *optim.lr_and_momentum(config, step, num_steps))
        for key in ("lr", "momentum" if optimizer == "sgd" else "betas"):
            assert ours.param_groups[0][key] == pytest.approx(theirs.param_groups[0][key])
        theirs.step()
        if step < num_steps - 1:
            schedule.step()


def test_the_cycle_has_the_reports_ends() -> None:
    config = resolve(TrainConfig())
    values = [optim.lr_and_momentum(config, step, 1000) for step in range(1000)]
    rates, momenta = zip(*values, strict=True)
    assert max(rates) == pytest.approx(0.01, rel=1e-4) and rates[-1] == pytest.approx(1e-7)
    assert rates.index(max(rates)) == 299
    assert momenta[0] == momenta[-1] == pytest.approx(0.95)
    assert min(momenta) == pytest.approx(0.85, rel=1e-4)


def test_a_single_step_is_taken_at_the_peak() -> None:
    assert optim.lr_and_momentum(resolve(TrainConfig()), 0, 1) == (0.01, 0.85)


def test_constant_is_constant() -> None:
    config = resolve(TrainConfig(schedule="constant", lr=0.02))
    assert {optim.lr_and_momentum(config, step, 50) for step in range(50)} == {(0.02, 0.9)}


@pytest.mark.parametrize(
    "name, kind, expected",
    [
        ("sgd", torch.optim.SGD, {"lr": 0.3, "momentum": 0.8, "weight_decay": 0.01}),
        ("rmsprop", torch.optim.RMSprop, {"lr": 0.3, "momentum": 0.8, "weight_decay": 0.01}),
        ("adam", torch.optim.Adam, {"lr": 0.3, "betas": (0.8, 0.999), "amsgrad": False}),
        ("amsgrad", torch.optim.Adam, {"eps": 1e-8, "betas": (0.8, 0.999), "amsgrad": True}),
    ],
)
def test_optimizers_get_their_values(name: str, kind: type, expected: dict) -> None:
    config = resolve(TrainConfig(optimizer=name, lr=0.3, momentum=0.8, weight_decay=0.01))
    made = optim.make_optimizer(config, iter([nn.Parameter(torch.zeros(3))]))
    assert type(made) is kind
    assert {key: made.param_groups[0][key] for key in expected} == expected
    optim.set_lr_and_momentum(made, 0.5, 0.6)
    group = made.param_groups[0]
    assert group["lr"] == 0.5
    assert (group["betas"][0] if "betas" in group else group["momentum"]) == 0.6


def test_losses() -> None:
    logits_NC = torch.tensor([[0.3, -2.0], [5.0, 0.0]])
    targets_NC = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    p = 1 / (1 + (-logits_NC).exp())
    bce = -(targets_NC * p.log() + (1 - targets_NC) * (1 - p).log()).mean()
    torch.testing.assert_close(losses.LOSSES["bce"](logits_NC, targets_NC), bce)
    mse = ((p - targets_NC) ** 2).mean()
    torch.testing.assert_close(losses.LOSSES["mse"](logits_NC, targets_NC), mse)


@pytest.mark.parametrize("name", ["bce", "mse"])
def test_losses_are_finite_at_extreme_logits(name: str) -> None:
    logits_NC = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = losses.LOSSES[name](logits_NC, torch.tensor([[0.0, 1.0]]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits_NC.grad).all()

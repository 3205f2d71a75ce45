import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from grigri_fast.config import TrainConfig, resolve
from grigri_fast.models import activation_checkpoint, factory, heads, stages
from grigri_fast.training.optim import (
    Muon,
    averaged,
    lr_and_momentum,
    make_optimizer,
    orthogonal,
    set_lr_and_momentum,
)

OPTIMIZERS = ["sgd", "adam", "adamw", "amsgrad", "rmsprop"]


def of_report(**options: object) -> TrainConfig:
    return resolve(TrainConfig(recipe="report", **options))


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.tensor([1.0, -2.0]))


def momentum_of(group: dict) -> float:
    return group["betas"][0] if "betas" in group else group["momentum"]


# ------------------------------------------------------------------------------- make_optimizer


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sgd", torch.optim.SGD),
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("amsgrad", torch.optim.Adam),
        ("rmsprop", torch.optim.RMSprop),
    ],
)
def test_an_optimizer_gets_its_values(name: str, kind: type) -> None:
    config = of_report(
        optimizer=name, lr=0.03, momentum=0.7, weight_decay=0.02, schedule="constant"
    )
    weight = parameter()
    optimizer = make_optimizer(config, iter([weight]))
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert group["params"] == [weight]
    assert (group["lr"], group["weight_decay"], momentum_of(group)) == (0.03, 0.02, 0.7)
    if issubclass(kind, torch.optim.Adam):
        assert group["betas"] == (0.7, 0.999)
        assert group["eps"] == 1e-8
        assert group["amsgrad"] == (name == "amsgrad")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_steps_as_torchs_own(name: str) -> None:
    ours, theirs = parameter(), parameter()
    config = of_report(optimizer=name, weight_decay=0.1, schedule="constant")
    reference = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1),
        "adam": lambda p: torch.optim.Adam(p, lr=0.001, weight_decay=0.1),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.0003, weight_decay=0.1),
        "amsgrad": lambda p: torch.optim.Adam(p, lr=0.001, weight_decay=0.1, amsgrad=True),
        "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.001, weight_decay=0.1),
    }[name]([theirs])
    optimizer = make_optimizer(config, [ours])
    for step in range(5):
        for weight, stepper in ((ours, optimizer), (theirs, reference)):
            stepper.zero_grad()
            ((weight - step) ** 2).sum().backward()
            stepper.step()
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, parameter())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rate_and_momentum_can_be_set(name: str) -> None:
    config = of_report(optimizer=name)
    optimizer = make_optimizer(config, [parameter()])
    optimizer.add_param_group({"params": [parameter()], "lr_factor": 1.0})
    set_lr_and_momentum(optimizer, 0.5, 0.25)
    for group in optimizer.param_groups:
        assert (group["lr"], momentum_of(group)) == (0.5, 0.25)
        assert group.get("betas", (0.25, 0.999)) == (0.25, 0.999)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_momentum_that_is_set_is_used(name: str) -> None:
    """RMSprop, for one, keeps no momentum buffer when it starts at 0."""
    weights = []
    for momentum in (0.0, 0.8):
        weight = parameter()
        optimizer = make_optimizer(of_report(optimizer=name, momentum=0.5), [weight])
        for _ in range(3):
            set_lr_and_momentum(optimizer, 0.01, momentum)
            optimizer.zero_grad()
            (weight**2).sum().backward()
            optimizer.step()
        weights.append(weight.detach())
    assert not torch.equal(*weights)


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 4)
    )


def test_norms_and_biases_have_no_decay_where_the_recipe_says_so() -> None:
    net = small_net()
    for decay_all in (False, True):
        config = of_report(weight_decay=0.1, decay_all=decay_all)
        optimizer = make_optimizer(config, net.parameters())
        decays = {
            id(p): group["weight_decay"]
            for group in optimizer.param_groups
            for p in group["params"]
        }
        assert len(decays) == len(list(net.parameters()))
        for p in net.parameters():
            assert decays[id(p)] == (0.1 if decay_all or p.ndim > 1 else 0.0)


def test_the_head_may_have_a_rate_of_its_own() -> None:
    net = small_net()
    config = of_report(head_lr_factor=10.0)
    optimizer = make_optimizer(config, net.parameters(), net[-1].parameters())
    set_lr_and_momentum(optimizer, 0.02, 0.9)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert [rates[id(p)] for p in net[-1].parameters()] == [0.2, 0.2]
    assert [rates[id(p)] for p in net[:-1].parameters()] == [0.02] * 6


@pytest.mark.parametrize("arch", ["resnet18", "timm/tf_efficientnet_lite0"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_each_stage_has_its_rate_and_frozen_ones_have_none(arch: str, optimizer: str) -> None:
    net = factory.build(arch, 3, 64)
    stages.freeze(net, 2)
    found = stages.stages(net)
    of_head = list(heads.heads(net)[0][1].parameters())
    config = of_report(
        optimizer=optimizer, layer_decay=0.5, head_lr_factor=3.0, decay_all=False, weight_decay=0.1
    )
    trained = [p for p in net.parameters() if p.requires_grad]
    made = make_optimizer(config, trained, of_head, [list(stage.values()) for stage in found])
    set_lr_and_momentum(made, 0.08, 0.9)
    rates = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    assert len(rates) == len(trained)
    assert [rates[id(p)] for p in of_head] == pytest.approx([0.24, 0.24])
    for distance, stage in enumerate(reversed(found[2:]), 1):
        (rate,) = {rates[id(p)] for p in stage.values()}
        assert rate == pytest.approx(0.08 * 0.5**distance)
    assert not any(id(p) in rates for stage in found[:2] for p in stage.values())
    for group in made.param_groups:
        assert group["weight_decay"] == (0.1 if group["params"][0].ndim > 1 else 0.0)


def test_orthogonal_makes_singular_values_about_one() -> None:
    torch.manual_seed(0)
    for shape in ((8, 72), (64, 27), (32, 32)):
        matrix = torch.randn(shape) * 7
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        found = orthogonal(matrix)
        values = torch.linalg.svdvals(found)
        assert found.dtype == matrix.dtype and values.max() < 1.3
        assert (values > 0.5).float().mean() > 0.7
        # Its direction is that of the true orthogonal matrix.
        assert torch.nn.functional.cosine_similarity(found.flatten(), (u @ v).flatten(), 0) > 0.85


def test_muon_turns_filters_by_the_rate_and_keeps_their_norm() -> None:
    net = small_net()
    plain = small_net()
    config = of_report(optimizer="muon", lr=0.1, momentum=0.9, weight_decay=0.0)
    ours = make_optimizer(config, net.parameters())
    assert isinstance(ours, Muon)
    rest = [p for i in (0, 1, 4) for p in plain[i].parameters()] + [plain[2].bias]
    theirs = torch.optim.SGD(rest, lr=0.2, momentum=0.9, nesterov=True)
    images = torch.randn(4, 3, 6, 6)
    before = net[2].weight.detach().clone()
    for net_, optimizer in ((net, ours), (plain, theirs)):
        set_lr_and_momentum(ours, 0.1, 0.9)
        optimizer.zero_grad()
        net_(images).square().mean().backward()
        optimizer.step()
    after = net[2].weight.detach()
    torch.testing.assert_close(after.norm(), before.norm())
    angle = torch.nn.functional.cosine_similarity(after.flatten(), before.flatten(), 0).acos()
    assert angle.item() == pytest.approx(0.1, rel=0.05)
    for name, p in net.named_parameters():  # all others: SGD at twice the rate
        if name != "2.weight":
            torch.testing.assert_close(p, plain.get_parameter(name))


def test_muon_makes_no_step_without_a_gradient() -> None:
    net = small_net()
    before = {k: v.clone() for k, v in net.named_parameters()}
    optimizer = make_optimizer(of_report(optimizer="muon"), net.parameters())
    set_lr_and_momentum(optimizer, 0.1, 0.9)
    (0.0 * net(torch.randn(2, 3, 6, 6)).sum()).backward()
    optimizer.step()
    torch.testing.assert_close(net[2].weight, before["2.weight"])


def test_the_average_follows_the_weights_and_forgets_where_it_began() -> None:
    net = small_net()
    average = averaged(net, 0.9)
    expected = None
    for n in range(12):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(1.0)
            net[1].running_mean.add_(1.0)
            net[1].num_batches_tracked.add_(1)
        average.update_parameters(net)
        now = net[1].running_mean.clone()
        share = 1 - min(0.9, (1 + n) / (10 + n))
        expected = now if expected is None else expected.lerp(now, share)
    torch.testing.assert_close(average.module[1].running_mean, expected)
    assert average.module[1].num_batches_tracked == 12  # a count is no average
    assert not any(p.requires_grad for p in average.parameters())
    assert not torch.equal(average.module[0].weight, net[0].weight)


def test_the_average_is_pytorchs_bit_for_bit_and_has_the_names_of_its_state() -> None:
    net = small_net()
    ours = averaged(net, 0.9)

    def blend(averages: list[torch.Tensor], current: list[torch.Tensor], n: torch.Tensor) -> None:
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, current, 1 - min(0.9, (1 + int(n)) / (10 + int(n))))
        else:
            torch._foreach_copy_(averages, current)

    theirs = AveragedModel(net, multi_avg_fn=blend, use_buffers=True)
    images = torch.randn(4, 3, 6, 6)
    for _ in range(12):
        with torch.no_grad():
            net(images)  # moves the statistics
            for p in net.parameters():
                p.add_(0.1 * torch.randn_like(p))
        for average in (ours, theirs):
            average.update_parameters(net)
    a, b = ours.state_dict(), theirs.state_dict()
    assert list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_the_average_of_a_network_with_checkpointing_is_a_network_of_its_own() -> None:
    net = factory.build("resnet18", 3, 32).eval()
    activation_checkpoint.checkpoint_activations(net)
    average = averaged(net, 0.9)
    images = torch.randn(2, 3, 32, 32)
    before = average.module(images)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    torch.testing.assert_close(average.module(images), before)
    assert not torch.equal(net(images), before)


# ------------------------------------------------------------------------------------ schedule


def torchs_one_cycle(config: TrainConfig, num_steps: int) -> list[tuple[float, float]]:
    """Return (rate, momentum) of every step of torch's OneCycleLR, ending at a rate of 1e-7."""
    optimizer = make_optimizer(config, [parameter()])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=config.lr,
        total_steps=num_steps,
        base_momentum=config.momentum_min,
        max_momentum=config.momentum,
        final_div_factor=config.lr / 25 / 1e-7,
    )
    found = []
    for step in range(num_steps):
        (group,) = optimizer.param_groups
        found.append((group["lr"], momentum_of(group)))
        optimizer.step()
        if step < num_steps - 1:
            schedule.step()
    return found


@pytest.mark.parametrize("num_steps", [2, 3, 4, 5, 6, 7, 9, 10, 11, 20, 97, 1000])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lr": 0.1, "momentum": 0.9, "momentum_min": 0.5},
        {"optimizer": "adam", "lr": 3e-4},
        {"optimizer": "rmsprop", "momentum": 0.9},
        {"momentum": 0.0},
    ],
    ids=str,
)
def test_one_cycle_equals_torchs(options: dict, num_steps: int) -> None:
    config = of_report(**options)
    ours = [lr_and_momentum(config, step, num_steps) for step in range(num_steps)]
    for found, expected in zip(ours, torchs_one_cycle(config, num_steps), strict=True):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-14)


def test_a_run_of_one_step_is_at_the_peak() -> None:
    """Deviates from torch, whose only step would be at 1e-7 and train nothing."""
    config = of_report(lr=0.4)
    assert lr_and_momentum(config, 0, 1) == pytest.approx((0.4, 0.85))


def test_the_course_of_one_cycle() -> None:
    config = of_report(lr=0.01)
    course = [lr_and_momentum(config, step, 1000) for step in range(1000)]
    rates, momenta = zip(*course, strict=True)
    assert rates[0] == pytest.approx(0.01 / 25)
    assert rates[299] == max(rates) == pytest.approx(0.01)
    assert rates[999] == min(rates) == pytest.approx(1e-7)
    assert momenta[0] == pytest.approx(0.95) and momenta[999] == pytest.approx(0.95)
    assert momenta[299] == min(momenta) == pytest.approx(0.85)
    assert list(rates[:300]) == sorted(rates[:300])
    assert list(rates[299:]) == sorted(rates[299:], reverse=True)


def test_a_constant_schedule_is_constant() -> None:
    config = of_report(schedule="constant", lr=0.2, momentum=0.3)
    assert {lr_and_momentum(config, step, 50) for step in range(50)} == {(0.2, 0.3)}

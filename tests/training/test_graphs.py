"""The step in CUDA graphs, which are emulated on a CPU: bit for bit what it is without them."""

import copy
from typing import Any

import pytest
import torch
from emulated_graph import EmulatedGraphs, SmallNetwork
from torch import nn

from grigri_fast.config import TrainConfig, resolve
from grigri_fast.training import optim
from grigri_fast.training.losses import LOSSES
from grigri_fast.training.step import TrainStep

CPU = torch.device("cpu")
OPTIMIZERS = ["sgd", "adam", "adamw", "amsgrad", "rmsprop", "muon", "torch's", "torch's, fused"]
FULL, REST = 6, 4
# The first three are made without a graph, and so is the first of each size.
SIZES = [FULL] * 5 + [REST] + [FULL] * 3 + [REST] + [FULL] * 3 + [REST, FULL, REST]
NOT_FINITE = (6, 9, 11)  # in graphs of both sizes


class Net(SmallNetwork):
    """The same weights each time."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()


def optimizer_of(name: str, model: nn.Module) -> torch.optim.Optimizer:
    if name.startswith("torch's"):
        groups = [{"params": list(model.parameters()), "lr_factor": 1.0}]
        return torch.optim.SGD(groups, lr=0.01, momentum=0.9, fused="fused" in name)
    config = resolve(TrainConfig(data="-", recipe="report", optimizer=name, lr=0.01, momentum=0.9))
    return optim.make_optimizer(config, model.parameters(), on_device=True)


class Run:
    """A training of some steps, with or without graphs."""

    def __init__(self, optimizer: str, amp: str, graphs: EmulatedGraphs | None, **options) -> None:
        self.model = options.pop("model", None) or Net()
        self.optimizer = optimizer_of(optimizer, self.model)
        self.scaler = torch.amp.GradScaler(
            "cpu", init_scale=256.0, growth_interval=4, enabled=amp == "fp16"
        )
        self.notes: list[str] = []
        self.step = TrainStep(
            self.model.train(),
            self.optimizer,
            self.scaler,
            LOSSES["bce"],
            device=CPU,
            amp=amp,
            batch_size=FULL,
            graphs=graphs,
            note=self.notes.append,
            **options,
        )
        self.step.start_epoch([], 0, 0)
        self.number = 0
        self.seen: list[Any] = []

    def make(self, sizes: list[int]) -> "Run":
        """Make steps of so many images, at rates and momenta that change."""
        for num in sizes:
            torch.manual_seed(self.number)
            rng = torch.Generator().manual_seed(self.number)
            images_NHWC = torch.randint(0, 256, (num, 8, 8, 3), dtype=torch.uint8, generator=rng)
            targets_NC = (torch.rand(num, 3, generator=rng) < 0.4).float()
            if self.number in NOT_FINITE:
                targets_NC[0] = torch.inf
            rate, momentum = 0.001 * (1 + self.number), 0.95 - 0.01 * self.number
            optim.set_lr_and_momentum(self.optimizer, rate, momentum)
            self.step(images_NHWC, targets_NC)
            self.seen.append(self.state())
            self.number += 1
        return self

    def state(self) -> dict[str, Any]:
        """Return a copy of all that a step changes."""
        of_optimizer = self.optimizer.state_dict()["state"]
        tensors = dict(self.model.state_dict())
        for i, values in of_optimizer.items():
            for name, value in values.items():
                tensors[f"{i}.{name}"] = torch.as_tensor(value)
        tensors["scale"] = torch.tensor(self.scaler.get_scale())
        tensors["sums"] = self.step._sums
        return copy.deepcopy({name: value.detach() for name, value in tensors.items()})


def require_equal(ours: Run, theirs: Run) -> None:
    for number, (a, b) in enumerate(zip(ours.seen, theirs.seen, strict=True)):
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name].nan_to_num(7), b[name].nan_to_num(7)), (number, name)


@pytest.mark.parametrize("amp", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_graphs_make_the_steps_that_are_made_without(optimizer: str, amp: str) -> None:
    graphs = EmulatedGraphs()
    ours, theirs = (Run(optimizer, amp, g).make(SIZES) for g in (graphs, None))
    require_equal(ours, theirs)
    assert ours.step.num_graphs == 2 and not ours.notes
    # Of full batches twice, since the first small batch needs the memory; of small ones once.
    assert (graphs.num_captures, graphs.num_released) == (3, 1)
    assert graphs.num_replays == len(SIZES) - 3 - 1
    sums = ours.step.read_sums()
    assert (sums.num_skipped, sums.bad_step) == (3, 1 + NOT_FINITE[0])
    scales = {float(state["scale"]) for state in ours.seen}
    assert len(scales) > 2 if amp == "fp16" else scales == {1.0}  # it grows, and is halved
    assert all(p.isfinite().all() for p in ours.model.parameters())
    last, before = ours.seen[-1], ours.seen[-2]
    assert not torch.equal(last["0.weight"], before["0.weight"])
    assert not torch.equal(last["1.running_mean"], before["1.running_mean"])


def test_micro_batches_in_a_graph_are_those_without() -> None:
    ours, theirs = (
        Run("sgd", "fp32", graphs, micro_batch_size=2).make(SIZES)
        for graphs in (EmulatedGraphs(), None)
    )
    require_equal(ours, theirs)
    assert ours.step.num_graphs == 2


def test_there_are_never_more_than_two_graphs() -> None:
    """A file that turns bad makes a batch smaller by one, wherever it is."""
    graphs = EmulatedGraphs()
    ours, theirs = (Run("sgd", "fp32", g) for g in (graphs, None))
    for num in [FULL] * 5 + [3, FULL, 5, 3, FULL, 3, 5, FULL, 5, 3, FULL]:
        before = {replay.number for replay in graphs.alive}
        for run in (ours, theirs):
            run.make([num])
        assert ours.step.num_graphs == len(graphs.alive) <= 2
        # Never one alone is dropped: on a GPU the other one would write to what is freed with it.
        assert not graphs.alive or before <= {replay.number for replay in graphs.alive}
    require_equal(ours, theirs)
    assert graphs.num_released > 2


def test_larger_images_get_a_graph_of_their_own() -> None:
    graphs = EmulatedGraphs()
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))
    run = Run("sgd", "fp32", graphs, model=model)
    for side in (8, 8, 8, 8, 8, 12, 12, 12):
        run.step(torch.zeros(FULL, side, side, 3, dtype=torch.uint8), torch.zeros(FULL, 3))
    assert (graphs.num_captures, graphs.num_released, run.step.num_graphs) == (2, 1, 1)


class Deciding(Net):
    """A network that asks for a number, so that it cannot be captured."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * (2.0 if images.mean().item() > 0 else 1.0)


@pytest.mark.parametrize("amp", ["fp32", "fp16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop", "muon"])
def test_a_network_that_cannot_be_captured_is_trained_without(optimizer: str, amp: str) -> None:
    ours, theirs = (
        Run(optimizer, amp, graphs, model=Deciding()).make(SIZES)
        for graphs in (EmulatedGraphs(), None)
    )
    require_equal(ours, theirs)
    (note,) = ours.notes
    assert "cannot be captured" in note and "operation not permitted" in note and "\n" not in note
    assert ours.step.num_graphs == 0


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: operation failed due to a previous error during capture\nCUDA k"),
        NotImplementedError(),
        AssertionError("Cannot ask for the state of a CUDA generator during graph capture"),
        KeyError("x"),
    ],
    ids=repr,
)
def test_whatever_error_a_capture_meets_training_goes_on(error: Exception) -> None:
    """Of the second graph, too, when the first one is there."""
    for num_before in (3, 9):
        graphs = EmulatedGraphs()
        ours, theirs = (Run("adam", "fp16", g).make(SIZES[:num_before]) for g in (graphs, None))
        graphs.fails = error
        for run in (ours, theirs):
            run.make([FULL, REST, REST, FULL, REST])
        require_equal(ours, theirs)
        assert len(ours.notes) == 1 and "\n" not in ours.notes[0]
        assert ours.step.num_graphs == 0


def test_memory_that_runs_out_in_a_capture_is_told_as_such() -> None:
    """A trial then takes a smaller plan, which a step without a graph would not make fit."""
    graphs = EmulatedGraphs()
    run = Run("sgd", "fp32", graphs).make([FULL] * 3)
    graphs.fails = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
    with pytest.raises(torch.OutOfMemoryError):
        run.make([FULL])
    assert not run.notes

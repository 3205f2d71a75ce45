import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from grigri_fast.config import TrainConfig, resolve
from grigri_fast.runtime import files
from grigri_fast.runtime.compute import Compute
from grigri_fast.runtime.distributed import SINGLE_PROCESS
from grigri_fast.training import compilation, setup
from grigri_fast.training.callbacks import Callback
from grigri_fast.training.losses import LOSSES

CONFIG = resolve(TrainConfig(data="-", arch="net", size=8, batch_size=4, compile="auto"))
HERE = Compute(torch.device("cpu"), "fp32", threads=1)


def ask(num_steps: int, said: list[str], config: TrainConfig = CONFIG) -> bool:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    before = torch.random.get_rng_state()
    callback = Callback()
    callback.log = said.append
    session = SimpleNamespace(world=SINGLE_PROCESS, compute=HERE, callback=callback)
    found = compilation.decide(model, config, session, num_steps, is_planned=False)
    assert torch.equal(before, torch.random.get_rng_state())
    return found


@pytest.fixture
def clock(monkeypatch):
    """Let a step take 1 s as it is; compiled, 0.7 s, after 100 s of compiling."""
    calls = []

    class Step:
        def __init__(self, model, *args, compiled=None, **options) -> None:
            self.compiled, self.first = compiled is not None, True

        def __call__(self, *batch) -> None:
            calls.append(self.compiled)
            now[0] += 0.7 if self.compiled else 1.0
            if self.compiled and self.first:
                now[0] += 100
                self.first = False

        def read_sums(self) -> None:
            pass

    now = [0.0]
    monkeypatch.setattr(compilation, "TrainStep", Step)
    monkeypatch.setattr(compilation.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(setup, "compiled", lambda model: model)
    return calls


def test_a_short_run_is_not_measured(clock) -> None:
    said = []
    assert not ask(999, said)
    assert not clock and not said


def test_what_was_measured_is_remembered_and_decides(clock) -> None:
    said = []
    assert ask(1000, said)  # saves 300 s, costs 100 s
    assert len(said) == 2 and "100 s to compile" in said[1]
    num_calls = len(clock)
    assert not ask(300, said)  # saves 90 s
    assert ask(400, said)
    assert len(clock) == num_calls and len(said) == 2


def test_one_measurement_is_for_runs_of_all_optimizers_and_losses(clock, monkeypatch) -> None:
    made = []

    class Recorded(compilation.TrainStep):
        def __init__(self, model, optimizer, scaler, loss_of, **options) -> None:
            made.append((type(optimizer), loss_of, options.get("micro_batch_size")))
            super().__init__(model, optimizer, scaler, loss_of, **options)

    monkeypatch.setattr(compilation, "TrainStep", Recorded)
    options = {"optimizer": "adam", "loss": "focal", "micro_batch_size": 2}
    assert ask(1000, [], replace(CONFIG, **options))
    assert made == [(torch.optim.SGD, LOSSES["bce"], None)] * 2
    num_calls = len(clock)
    assert ask(1000, []) and len(clock) == num_calls


def test_a_compiler_that_fails_is_told_once_and_not_used(clock, monkeypatch) -> None:
    def no_compiler(model: nn.Module) -> nn.Module:
        class Broken(nn.Module):
            pass

        return Broken()

    class Step:
        def __init__(self, *args, compiled=None, **options) -> None:
            self.compiled = compiled

        def __call__(self, *batch) -> None:
            if self.compiled is not None:
                raise RuntimeError("no C++ compiler\nmore")

        def read_sums(self) -> None:
            pass

    monkeypatch.setattr(compilation, "TrainStep", Step)
    monkeypatch.setattr(setup, "compiled", no_compiler)
    monkeypatch.setattr(compilation, "_LEAST_COMPILE_S", 0.0)
    said = []
    assert not ask(10**9, said)
    assert "torch.compile does not work here (no C++ compiler)" in said[-1]
    assert not ask(10**9, said) and len(said) == 2


def test_a_damaged_memory_is_as_good_as_none(clock) -> None:
    files.cache_folder().mkdir(parents=True)
    file = files.cache_folder() / "compile.json"
    for text in ("[1, 2", "[1, 2]", '{"a machine | 2.0 | net | 8 | 4 | fp32 | 1": {}}', "{}", "3"):
        file.write_text(text)
        assert ask(1000, [])
        (entry,) = json.loads(file.read_text())
        assert entry.items() >= compilation.subject_of(CONFIG, HERE).items()

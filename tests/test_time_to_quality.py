"""The benchmark of minutes until a score: what a tool leaves is scored, in whichever order."""

import importlib
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def modules(monkeypatch):
    """The benchmark and what runs in the tools' own environments."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("bench_time_to_quality", "training_peers", "record")
    yield tuple(importlib.import_module(name) for name in names[:2])
    for name in names:
        sys.modules.pop(name, None)


def logits(targets_NC: np.ndarray, num_wrong: int) -> torch.Tensor:
    """Return logits that are right but for the first images, whose labels are all swapped."""
    right_NC = torch.from_numpy(targets_NC).float() * 8 - 4
    right_NC[:num_wrong] *= -1
    return right_NC


def test_passes_are_scored_as_they_come(modules, tmp_path: Path) -> None:
    bench, peers = modules
    targets_NC = np.random.default_rng(0).random((60, 4)) < 0.4
    passes = peers.Passes(tmp_path, time.time() - 120)
    known: list[dict] = []
    for num_wrong in (30, 0):
        for half in (slice(0, 30), slice(30, 60)):  # two batches
            passes.add(logits(targets_NC, num_wrong)[half], torch.from_numpy(targets_NC[half]))
        assert passes.num_images == 60
        passes.end()
        bench.scores_of(tmp_path, targets_NC, known)
    assert known[0]["micro_f1"] < 0.7 and known[1]["micro_f1"] == known[1]["mAP"] == 1.0
    assert 120 <= known[0]["seconds"] <= known[1]["seconds"] < 130
    assert bench.minutes_until(known, 0.7) == pytest.approx(2.0, abs=0.1)
    assert bench.minutes_until(known[:1], 0.7) is None
    runs = {"a": [{"passes": known}], "b": [{"passes": known[:1]}]}
    lines = bench.table(runs, [0.7, 0.74]).splitlines()
    assert lines[2].startswith("| a | 2.") and "1.000" in lines[2]
    assert lines[3].startswith("| b | not reached | not reached |")


def test_other_images_are_refused(modules, tmp_path: Path) -> None:
    bench, peers = modules
    targets_NC = np.eye(4, dtype=bool)
    passes = peers.Passes(tmp_path, time.time())
    passes.add(torch.zeros(4, 4), torch.from_numpy(targets_NC))
    passes.end()
    with pytest.raises(SystemExit, match=r"pass-0\.npz: the images are others"):
        bench.scores_of(tmp_path, targets_NC[::-1], [])

"""Short trainings through the real command, and what they leave."""

import csv
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import safe_open
from warm_process import WarmProcess

from grigri_fast.cli import progress
from grigri_fast.runs import run_folder
from grigri_fast.training import checkpointer

TINY = [
    "--weights=none",
    "--recipe=report",
    "--size=32",
    "--epochs=1",
    "--batch-size=8",
    "--amp=fp32",
    "--threads=1",  # or repeats may differ in the last bits while others use the CPUs
]


SMALL = ["--arch=shufflenet_v2_x0_5", *TINY]  # 1.4 MB, with BatchNorm


QUICK = [
    "--arch=shufflenet_v2_x0_5",
    "--weights=none",
    "--recipe=report",
    "--size=32",
    "--epochs=1",
    "--batch-size=16",
    "--threads=1",
]


NO_MOVE = "--lr=1e-30"  # far below the last bit of any weight


TIMES = ("images_per_s", "seconds")


def fit(cli, data: Path, out: Path, *options: object) -> Path:
    """Train and return the run folder."""
    code, printed, err = cli("train", data, "--out", out, *options)
    assert (code, err) == (0, "")
    return run_of(printed)


def run_of(printed: str) -> Path:
    line = next(line for line in printed.splitlines() if line.startswith("run folder "))
    return Path(line.removeprefix("run folder "))


def tensors(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / f"{name}.safetensors")


def same(a: Path, b: Path, name: str = "last") -> bool:
    first, second = tensors(a, name), tensors(b, name)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def head(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the head's weight and bias as float64."""
    state = tensors(run)
    return state["fc.weight"].double().numpy(), state["fc.bias"].double().numpy()


def header(run: Path, name: str = "last") -> dict:
    with safe_open(run / f"{name}.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["grigri-fast"])


def results(run: Path) -> list[dict[str, float]]:
    with (run / "results.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def parts(run: Path) -> dict[str, list[str]]:
    return json.loads((run / "split.json").read_text())["parts"]


def same_end(a: Path, b: Path) -> bool:
    """Return whether two runs left the same checkpoints, byte by byte, and the same scores."""
    weights = all(
        (a / name).read_bytes() == (b / name).read_bytes()
        for name in (run_folder.LAST, run_folder.BEST)
    )
    rows = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in results(f)] for f in (a, b)
    ]
    return weights and repr(rows[0]) == repr(rows[1])


def start(*words: object, program: str = "", file_size_limit: int | None = None) -> WarmProcess:
    """Start the command in a process of its own, perhaps after some Python code."""
    return WarmProcess([str(word) for word in words], program, file_size_limit)


def wait_for(path: Path, process: WarmProcess) -> None:
    """Wait until a file is there, or the process has ended."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)


def stopping(monkeypatch, every: int) -> None:
    """Send this process a SIGTERM after each ``every``-th step that a command makes."""
    is_due = checkpointer.Checkpointer.is_due
    steps = [0]

    def counted(self) -> bool:
        steps[0] += 1
        if steps[0] % every == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)  # until the listening thread has it
        return is_due(self)

    monkeypatch.setattr(checkpointer.Checkpointer, "is_due", counted)


def losses_of(run: Path) -> list[list[float]]:
    return [[row["train_loss"], row["val_loss"]] for row in results(run)]


# ------------------------------------------------------------------- when something happens

RECORD = {"config.toml", "split.json", "data.json", "environment.json", "resume.safetensors"}


OF_AN_EPOCH = {"best.safetensors", "last.safetensors", "results.csv", "curves.png"}


OF_AN_EPOCH |= {"resume-previous.safetensors"}


def after_epoch(monkeypatch, number: int, happens) -> None:
    """Let something happen when epoch ``number`` has been shown."""
    show = progress.TrainDisplay.on_epoch

    def epoch(self, row: dict, *rest: object) -> None:
        show(self, row, *rest)
        if row["epoch"] == number:
            happens()

    monkeypatch.setattr(progress.TrainDisplay, "on_epoch", epoch)


def check_run_is_whole(cli, run: Path, epochs: int, extra: list = ()) -> None:
    """Check that a run that ended early has the files of its epochs and can be used."""
    assert {p.name for p in run.iterdir()} == RECORD | OF_AN_EPOCH
    assert [row["epoch"] for row in results(run)] == list(range(1, epochs + 1))
    assert header(run)["epoch"] == epochs
    code, printed, err = cli("eval", run, "--json", *extra)
    assert (code, err) == (0, "") and json.loads(printed)["epoch"] == epochs


LONG = [*SMALL, "--epochs=6", "--threads=1", "--checkpoint-every=1", "--seed=5"]

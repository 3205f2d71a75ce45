"""Options of the command line: those of the functions that are called, and their completion."""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import grigri_fast
from grigri_fast.cli import data, evaluate, performance, predict, serving, train
from grigri_fast.cli.options import architectures
from grigri_fast.config import LABEL_OPTIONS, OPTIONS
from grigri_fast.data.layouts import HowLabels, detect
from grigri_fast.models import factory, timm_networks

# What a program may listen to.
HOW_IT_GOES = {"on_progress", "on_ready", "on_summary", "log", "callback"}


@pytest.mark.parametrize(
    ("command", "function", "own"),
    [
        (evaluate.evaluate, grigri_fast.evaluate, {"as_json"}),
        (predict.predict, grigri_fast.predict, {"out", "resume"}),
        (serving.serve, grigri_fast.serve, {"open"}),
        (evaluate.export, grigri_fast.export, set()),
        (evaluate.report, grigri_fast.report, set()),
        (train.reproduce, grigri_fast.reproduce, set()),
        (performance.bench, grigri_fast.bench, set()),
        (performance.profile, grigri_fast.profile, set()),
        (data.check, grigri_fast.check, set()),
        (data.split, grigri_fast.split, set()),
        (data.demo, grigri_fast.demo, set()),
        (data.fetch, grigri_fast.fetch, {"dataset"}),
        (train.train, grigri_fast.train, set()),
        (train.tune, grigri_fast.tune, set(OPTIONS) - {"data"}),
    ],
)
def test_a_command_has_the_options_of_its_function(
    command: Callable, function: Callable, own: set[str]
) -> None:
    of_command = inspect.signature(command).parameters
    of_function = inspect.signature(function).parameters
    names = {name for name, p in of_function.items() if p.kind is not p.VAR_KEYWORD}
    if "how_labels" in of_function:
        names |= HowLabels.__annotations__.keys()
    assert set(of_command) - own == names - own - HOW_IT_GOES


def test_the_label_options_are_those_of_the_readers() -> None:
    assert LABEL_OPTIONS.keys() == HowLabels.__annotations__.keys()
    assert set(LABEL_OPTIONS["layout"].choices) == set(detect.NAMES)


def completions(*words: str) -> list[str]:
    """Return what bash is offered for the last word, by the protocol of its completion script."""
    code = (
        "import sys; from grigri_fast.cli.main import main; sys.argv[0] = 'grigri-fast'\n"
        "try: main()\n"
        "finally: assert not {'torch', 'torchvision', 'timm', 'numpy'} & set(sys.modules)"
    )
    asked = {
        "_GRIGRI_FAST_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["grigri-fast", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | asked
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    "words, offered",
    [
        (["tr"], ["train"]),
        (["data", "s"], ["split"]),
        (["train", "--arch", "resnet1"], ["resnet101", "resnet152", "resnet18"]),
        (["bench", "--arch", "gr"], ["grigri"]),
        (["train", "--arch", "timm/test_res"], ["timm/test_resnet"]),
        (["train", "--arch", "ti"], ["timm/"]),
        (["train", "--optimizer", "m"], ["muon"]),
        (["--qui"], ["--quiet"]),
    ],
    ids=" ".join,
)
def test_bash_is_offered(words: list[str], offered: list[str]) -> None:
    assert completions(*words) == offered


def test_all_architectures_are_offered() -> None:
    assert architectures("") == sorted([*factory.architectures(), "auto", "timm/"])
    assert architectures("timm/") == sorted(timm_networks.names())


def test_completion_can_be_installed(cli) -> None:
    assert "--install-completion" in cli("--help")[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "train DATA --lr 0",
        "tune --trials 2",
        "tune DATA --name x",
        "tune DATA --minutes 0",
        "tune DATA --lr 0",
        "tune DATA --config nowhere.toml",
        "eval RUN --part val --data DATA",
        "eval RUN --images DATA",
        "predict RUN DATA --out x.txt",
        "reproduce --only nothing",
        "bench nothing DATA",
        "bench --json nowhere/x.json",
        "profile --estimate --snapshot",
        "profile --estimate --device-memory x",
        "profile --batch-size 4 --micro-batch-size 8",
        "data check DATA --run RUN",
        "data check DATA --deep --epochs 2",
        "data check DATA --deep --run RUN --folds 2",
        "data split DATA --val 2",
        "data fetch mirflickr25k DIR --sha256 x",
    ],
)
def test_wrong_options_are_an_error_before_pytorch_is_loaded(words: str, tmp_path: Path) -> None:
    code = (
        "import sys; from grigri_fast.cli.main import main\n"
        "code = main(sys.argv[1:]); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode in (1, 2) and done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())

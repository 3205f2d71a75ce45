"""The commands as functions: they do what the commands do, and say it in types."""

import ast
import csv
import dataclasses
import importlib.util
import inspect
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_set import CLASSES

import grigri_fast
from grigri_fast import Callback, GrigriError, TrainConfig
from grigri_fast.runs import checkpoint

ROOT = Path(__file__).parent.parent
SMALL: dict = dict(
    arch="shufflenet_v2_x0_5",
    weights="none",
    recipe="report",
    size=32,
    epochs=2,
    batch_size=8,
    amp="fp32",
    threads=1,
)
AS_OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]


@pytest.fixture(scope="module")
def run(photos_once, tmp_path_factory) -> Path:
    """Return a run that :func:`train` has made."""
    out = tmp_path_factory.mktemp("runs")
    return grigri_fast.train(photos_once, out=out, name="api", **SMALL).folder


def digest(run: Path) -> str:
    """Return what identifies the weights of a run."""
    return (run / "last.safetensors").read_bytes().hex()


# ------------------------------------------------------------------------------ the names


NAMES_ARE_FUNCTIONS = """
import importlib, inspect, os, pickle, sys
# What takes long; each child has it already.
import cv2, matplotlib.pyplot, nvidia.dali.fn, torch, torchvision
assert not any(name.startswith("grigri_fast") for name in sys.modules)
for first in ("training", "evaluation", "inference", "cli", "cli.main", ""):
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0, first
        continue
    if first:
        importlib.import_module(f"grigri_fast.{first}")
    import grigri_fast
    from grigri_fast import evaluate, load, predict, train
    from grigri_fast.training.trainer import Result
    from grigri_fast.evaluation.evaluator import score
    names = [name for name in grigri_fast.__all__ if name.isalpha() and name.islower()]
    assert len(names) == 17 and {"evaluate", "load", "predict", "train"} < set(names)
    for name in names:
        function = getattr(grigri_fast, name)
        assert inspect.isfunction(function) and globals().get(name, function) is function, name
        assert pickle.loads(pickle.dumps(function)) is function
    os._exit(0)
print("all six")
"""


@pytest.mark.slow
def test_the_names_are_functions_whatever_was_imported_before() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NAMES_ARE_FUNCTIONS], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "all six\n"), done.stderr


def test_no_module_has_the_name_of_something_public() -> None:
    modules = {path.stem for path in (ROOT / "grigri_fast").glob("*.py")}
    assert not modules & set(grigri_fast.__all__)


def test_an_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, grigri_fast\n"
        "assert grigri_fast.TrainConfig and grigri_fast.GrigriError\n"
        "print(sorted({'torch', 'numpy', 'nvidia', 'rich', 'typer'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there_and_seen_by_who_checks_types() -> None:
    for name in grigri_fast.__all__:
        assert getattr(grigri_fast, name) is not None
    assert set(grigri_fast.__all__) <= set(dir(grigri_fast))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = grigri_fast.nothing
    tree = ast.parse((ROOT / "grigri_fast" / "__init__.py").read_text())
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in checked.body for alias in node.names}
    assert seen == set(grigri_fast.__all__) - {"__version__"}


def test_train_shows_the_options_of_the_config() -> None:
    parameters = inspect.signature(grigri_fast.train).parameters
    fields = dataclasses.fields(TrainConfig)
    assert list(parameters) == [f.name for f in fields] + ["config", "resume", "callback"]
    for field in fields:
        parameter = parameters[field.name]
        assert (parameter.default, parameter.annotation) == (field.default, field.type)
        assert (parameter.kind is parameter.KEYWORD_ONLY) == (field.name != "data")


# ------------------------------------------------------------- they do what the commands do


@pytest.mark.slow
def test_train_leaves_what_the_command_leaves(cli, photos_once, run, tmp_path, capfd) -> None:
    capfd.readouterr()
    heard = []

    class Ears(Callback):
        def on_epoch(self, row: dict, num_epochs: int, is_best: bool) -> None:
            heard.append((row["epoch"], num_epochs))

    result = grigri_fast.train(photos_once, out=tmp_path, name="again", callback=Ears(), **SMALL)
    assert capfd.readouterr() == ("", "")  # quiet
    assert heard == [(1, 2), (2, 2)]
    assert result.folder == tmp_path / "again" and len(result.history) == 2
    assert 0 <= result.evaluation.cross_fitted.micro_f1.value <= 1
    assert cli("train", photos_once, *AS_OPTIONS, "--out", tmp_path, "--name=command")[0] == 0
    assert digest(tmp_path / "again") == digest(tmp_path / "command") == digest(run)
    with (tmp_path / "command" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_loss"]) for row in rows] == [row["val_loss"] for row in result.history]


def test_train_goes_on_and_takes_a_config(photos_once, run, tmp_path) -> None:
    class Stop(Callback):
        def on_epoch(self, row: dict, num_epochs: int, is_best: bool) -> None:
            raise KeyboardInterrupt

    config = run / "config.toml"
    with pytest.raises(KeyboardInterrupt):
        grigri_fast.train(config=config, out=tmp_path, name="stopped", callback=Stop())
    result = grigri_fast.train(resume=tmp_path / "stopped")
    assert digest(result.folder) == digest(run)


def test_evaluate_says_what_eval_says(cli, photos_once, run) -> None:
    told = []
    scored = grigri_fast.evaluate(run, on_progress=lambda done, total: told.append((done, total)))
    code, printed, _ = cli("eval", run, "--json")
    said = json.loads(printed)
    assert code == 0 and said["num_images"] == scored.evaluation.num_images == told[-1][1]
    assert said["thresholds"] == scored.evaluation.thresholds
    found = scored.evaluation.cross_fitted.micro_f1.value
    assert said["scores"]["cross-fitted"]["micro_f1"]["value"] == found
    rest = grigri_fast.evaluate(str(run), data=photos_once, threshold=0.25)
    assert rest.evaluation.num_images + len(rest.seen) == 48 and len(rest.seen) == 38
    assert rest.evaluation.thresholds == 0.25
    assert rest.evaluation.honest is rest.evaluation.at_threshold
    trained_on = grigri_fast.evaluate(run, part="train").evaluation
    assert trained_on.exposure == "seen" and trained_on.shown is trained_on.cross_fitted
    with pytest.raises(GrigriError, match="not honest"):
        _ = trained_on.honest


def test_evaluate_stores_the_threshold_for_predict(photos_once, run, tmp_path) -> None:
    before = (run / "last.safetensors").read_bytes()
    try:
        scored = grigri_fast.evaluate(run, threshold="per-class", save=True)
        model = grigri_fast.load(run)
    finally:
        (run / "last.safetensors").write_bytes(before)
    assert list(model.thresholds) == model.class_names == sorted(CLASSES)
    assert list(model.thresholds.values()) == scored.evaluation.thresholds


def test_predict_says_what_the_command_says(cli, photos_once, run, tmp_path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    paths = [photos_once / "images", bad]
    out = tmp_path / "labels.json"
    assert cli("predict", run, *paths, "--out", out)[0] == 1
    said = json.loads(out.read_text())
    for found in (grigri_fast.predict(run, paths), grigri_fast.load(run).predict(paths)):
        assert [str(p.path) for p in found] == [one["image"] for one in said]
        assert [p.labels for p in found] == [one["labels"] for one in said]
        assert [p.probabilities for p in found] == [one["probabilities"] for one in said]
        assert found[-1].error == said[-1]["error"] and len(found) == 49
    (one,) = grigri_fast.predict(run, str(photos_once / "images" / "im1.jpg"), checkpoint="best")
    assert one.path == photos_once / "images" / "im1.jpg"


def test_pixels_in_memory_get_what_their_files_get(photos_once, run) -> None:
    files = sorted((photos_once / "images").iterdir())[:40]  # more than a batch
    model = grigri_fast.load(run)
    pictures = [Image.open(file) for file in files]
    for images in (pictures, [np.asarray(picture) for picture in pictures]):
        told = []
        found = model.predict(images, on_progress=lambda done, total, told=told: told.append(done))
        assert told[-1] == 40
        for ours, of_file in zip(found, model.predict(files), strict=True):
            assert ours.path is None and ours.labels == of_file.labels
            # Pillow's decoder and DALI's differ by a level here and there.
            assert ours.probabilities == pytest.approx(of_file.probabilities, abs=0.01)
    (single,) = grigri_fast.predict(model, np.asarray(pictures[0]))
    assert single == model.predict(pictures[0])[0]
    assert grigri_fast.predict(model, []) == []


def test_the_network_itself_is_there(run) -> None:
    import torch

    model = grigri_fast.load(run, device="cpu", amp="fp32")
    assert not model.module.training
    logits_NC = model.module(torch.zeros(2, 3, 32, 32))
    assert logits_NC.shape == (2, len(model.class_names))
    assert model.info == checkpoint.info_of(run / "last.safetensors")


# --------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda run: grigri_fast.train("nowhere"), "nowhere: no such file or folder"),
        (lambda run: grigri_fast.train("x", epochs=-1), "--epochs must be at least 0, not -1"),
        (lambda run: grigri_fast.train("x", epochs="3"), "--epochs takes a value of type int"),
        (lambda run: grigri_fast.train(resume=run, config="x"), "leave --config out"),
        (lambda run: grigri_fast.train(resume=run, lr=3.0), "a resumed run keeps its options"),
        (lambda run: grigri_fast.train(resume="nowhere"), "nowhere: no such run folder"),
        (lambda run: grigri_fast.evaluate("nowhere"), "nowhere: no such run folder"),
        (lambda run: grigri_fast.evaluate(run, part="all"), "--part must be one of train, val"),
        (lambda run: grigri_fast.evaluate(run, threshold=2), "number from 0 to 1"),
        (lambda run: grigri_fast.evaluate(run, threshold="0.5"), "number from 0 to 1"),
        (lambda run: grigri_fast.evaluate(run, images="x"), "--images goes with --data"),
        (lambda run: grigri_fast.evaluate(run, part="val", data="x"), "x: no such file or folder"),
        (lambda run: grigri_fast.evaluate(run, memory_limit="x"), "expected an amount of memory"),
        (lambda run: grigri_fast.load(run, checkpoint="first"), "--checkpoint must be one of last"),
        (lambda run: grigri_fast.load(run, device="gpu"), "--device must be one of auto, cuda"),
        (lambda run: grigri_fast.load(run, amp="fp8"), "--amp must be one of auto, fp32"),
        (lambda run: grigri_fast.load(run, threads=0), "--threads must be at least 1"),
        (lambda run: grigri_fast.predict(run, "nowhere.jpg"), "nowhere.jpg: no such file"),
        (lambda run: grigri_fast.predict(run, np.zeros((4, 4))), "uint8 (RGB), not (4, 4) in"),
        (lambda run: grigri_fast.predict(run, [3]), "expected a path, an array or a Pillow image"),
        (
            lambda run: grigri_fast.predict(run, ["a.jpg", np.zeros((4, 4, 3), np.uint8)]),
            "either files or pictures",
        ),
        (
            lambda run: grigri_fast.predict(grigri_fast.load(run), "x", device="cpu"),
            "give them to load",
        ),
    ],
)
def test_what_can_be_put_right_is_one_line(run, tmp_path, monkeypatch, call, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GrigriError) as raised:
        call(run)
    assert says in str(raised.value) and "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_an_option_that_there_is_not_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="no option 'epoch'; it has activation_checkpointing, "):
        grigri_fast.train("photos", epoch=3)


# ---------------------------------------------------------------------------------- types

USERS_PROGRAM = """
    # What --strict means, as far as a module can ask for it:
    # mypy: check-untyped-defs, disallow-any-generics, disallow-incomplete-defs
    # mypy: disallow-subclassing-any, disallow-untyped-calls, disallow-untyped-decorators
    # mypy: disallow-untyped-defs, extra-checks, no-implicit-reexport, strict-equality
    # mypy: warn-return-any
    import numpy as np
    from PIL import Image

    from grigri_fast import (
        Classifier, GrigriError, Prediction, Callback, Result, evaluate, load, predict, train
    )

    class Epochs(Callback):
        def on_epoch(self, row: dict[str, object], num_epochs: int, is_best: bool) -> None:
            print(row["epoch"])

    def main() -> float:
        try:
            result: Result = train("photos", arch="resnet18", epochs=3, lr=0.1, callback=Epochs())
        except GrigriError as e:
            raise SystemExit(str(e)) from e
        scored = evaluate(result.folder, threshold="per-class", save=True)
        predictions: list[Prediction] = predict(result.folder, ["a.jpg", "b.jpg"])
        model: Classifier = load(result.folder, device="cpu")
        predictions += model.predict(np.zeros((32, 32, 3), dtype=np.uint8))
        picture = Image.new("RGB", (3, 3))
        predictions += model.predict([picture], on_progress=lambda done, total: None)
        predictions += [p for p in model.iter_predict("photos") if not p.error]
        names: list[str] = [label for p in predictions for label in p.labels]
        print(names, model.class_names, model.thresholds["cat"], next(model.module.parameters()))
        return scored.evaluation.honest.micro_f1.value

    train("photos", epochs="many")  # wrong
    train("photos", epoch=3)  # wrong
    train("photos", optimizer="best")  # wrong
    evaluate("run", part="all")  # wrong
    predict("run", 3)  # wrong
    load("run").labels  # wrong
    main().upper()  # wrong
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("types") / "program.py"
    path.write_text(textwrap.dedent(USERS_PROGRAM))
    return path


@pytest.fixture(scope="module")
def errors(program: Path) -> dict[str, set[int]]:
    """Return the lines that mypy complains of, by file, in the package and in the program."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    words = ["--cache-dir", ROOT / ".mypy_cache", "--no-pretty", "grigri_fast", program]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.stderr == "" and "checked " in done.stdout, done
    found: dict[str, set[int]] = {}
    for file, line in re.findall(r"^(.+?):(\d+)(?::\d+)?: error:", done.stdout, re.MULTILINE):
        found.setdefault(Path(file).name, set()).add(int(line))
    return found


@pytest.mark.slow
def test_a_program_that_uses_it_is_checked(errors, program: Path) -> None:
    lines = program.read_text().splitlines()
    wrong = {n for n, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert len(wrong) == 7 and errors[program.name] == wrong


@pytest.mark.slow
def test_the_package_keeps_to_its_own_types(errors) -> None:
    assert {*errors} == {"program.py"}

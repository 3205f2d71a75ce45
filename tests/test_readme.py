"""The README and the manual say what is so: every command in them is run, every file is there."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from archives import image_members, label_members, zipped
from readme import the_readmes_program
from small_runs import stopping
from small_set import CLASSES, labels_of, write_image, write_photos

from grigri_fast.data.mirflickr import ANNOTATIONS, IMAGES

ROOT = Path(__file__).parent.parent
TEXTS = {name: (ROOT / name).read_text() for name in ("README.md", "grigri_fast/README.md")}
README, MANUAL = TEXTS.values()


def commands_of(text: str) -> Iterator[str]:
    """Yield the commands of shell blocks, and those behind a prompt in blocks of output."""
    for kind, block in re.findall(r"```(sh|text)\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            if kind == "sh" or line.startswith("$ "):
                command = re.split(r"\s#\s", line.removeprefix("$ "))[0]
                yield from filter(None, map(str.strip, command.split(" && ")))


# ------------------------------------------------------------------------ every command, in order

# What is added so that a command is done in seconds: a later option wins over the text's.
TINY = ["--size=32", "--batch-size=16", "--threads=1"]
SMALLER = {
    "train": [*TINY, "--epochs=1"],
    "tune": [*TINY, "--epochs=1", "--trials=2"],
    "reproduce": ["--epochs=1", "--limit=40", "--size-scale=0.25", "--threads=1"],
    "bench": [*TINY, "--limit=32", "--repeats=1"],
    "profile": [*TINY],
}
# Run as they are: a run that goes on has its options, and an estimate takes no time.
AS_IT_IS = ("--resume", "--estimate")
SMALLER_IF_THERE = ["--start-size=32", "--test-size=32", "--memory-limit=8GiB"]
# CI runs these, in its own script; the last of them is what runs this test.
BY_CI = ("python3 -m venv .venv", ".venv/bin/pip install", ".venv/bin/python -m pytest")


def smaller(words: list[str]) -> list[str]:
    """Return what is added to a command of ours."""
    if any(option in words for option in AS_IT_IS):
        return []
    more = [o for o in SMALLER_IF_THERE if o.partition("=")[0] in words]
    if words[0] == "reproduce" and "--only" not in words:
        more.append("--only=data,bce,untrained")  # test_reproduce.py runs all rows
    return [*SMALLER.get(words[0], []), *more]


@pytest.fixture
def place(tmp_path: Path, monkeypatch) -> Path:
    """Return a folder with all that the texts' commands read, as the current folder."""
    for name in ("my-photos", "grigri"):
        write_photos(tmp_path / name)
    header = ",".join(("image", *CLASSES))
    rows = [[int(name in labels_of(row)) for name in CLASSES] for row in range(48)]
    lines = [f"im{i + 1}.jpg,{','.join(map(str, row))}" for i, row in enumerate(rows)]
    (tmp_path / "grigri" / "labels_20000.csv").write_text("\n".join([header, *lines]) + "\n")
    for row, number in enumerate((10000, 10001, 10031, 10036)):
        write_image(tmp_path / "holiday" / f"im{number}.jpg", row)
    (tmp_path / "holiday" / "notes.jpg").write_text("milk, bread\n")
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / IMAGES).write_bytes(zipped(image_members()))
    (mirror / ANNOTATIONS).write_bytes(zipped(label_members()))
    # Weights of pretrained networks' shapes, where torchvision looks for them, and in a folder.
    for folder in ("torch/hub/checkpoints", "imagenet-weights"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("resnet18-f37072fd", "resnet34-b627a593"):
            weights = getattr(torchvision.models, name.partition("-")[0])().state_dict()
            torch.save(weights, tmp_path / folder / f"{name}.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_a_process(words: list[str], cwd: Path) -> None:
    done = subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def tensorboard_answers(words: list[str]) -> None:
    """Start TensorBoard and wait until it says where it is."""
    args = [sys.executable, "-m", "tensorboard.main", *words, "--port=0"]
    with subprocess.Popen(args, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert any("http://" in line for line in process.stderr)
        finally:
            process.kill()


def run_command(command: str, cli: Callable, place: Path, monkeypatch, code: int = 0) -> None:
    """Run a command of the text, which must print something and end with ``code``."""
    program, *words = shlex.split(command.removeprefix(".venv/bin/"))
    if program == "ruff":
        in_a_process(["-m", "ruff", *words, "--no-cache"], ROOT)
    elif program == "tensorboard":
        tensorboard_answers(words)
    elif program == "python":
        (place / "label.py").write_text(the_readmes_program())
        in_a_process(words, place)
    elif program == "torchrun":
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        monkeypatch.setenv("PYTHONPATH", path)
        in_a_process(["-m", "torch.distributed.run", *words, *smaller(["train", *words])], place)
    else:
        assert program == "grigri-fast", command
        if words[:2] == ["data", "fetch"]:
            words += ["--from", "mirror"]
        found, out, err = cli(*words, *smaller(words))
        if words[0] == "predict":  # the text shows what it says of a file that is no photograph
            assert found == 1 and err.startswith("error: holiday/notes.jpg: not a JPEG")
        else:
            assert found == code, err
        assert out


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TEXTS)
def test_every_command_is_run(name: str, cli, place: Path, monkeypatch) -> None:
    commands = list(commands_of(TEXTS[name]))
    assert len(commands) > 8
    if name != "README.md":  # whoever reads the manual has trained as the README says
        commands = [c for c in commands_of(README) if "grigri-fast train" in c] + commands
    for command, next_one in zip(commands, [*commands[1:], ""], strict=True):
        if command.startswith(BY_CI):
            assert command.split(" -c ")[0] in (ROOT / ".ci" / "run").read_text()
            continue
        try:
            if "--resume" in next_one:  # the text stops this one, and so do we
                with monkeypatch.context() as patched:
                    stopping(patched, every=2)
                    run_command(command, cli, place, monkeypatch, code=143)
            else:
                run_command(command, cli, place, monkeypatch)
        except BaseException as e:
            e.add_note(f"in {name}: {command}")
            raise


def test_the_two_lines_are_what_ci_runs() -> None:
    lines = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    run_line, test_line = lines
    ci = (ROOT / ".ci" / "run").read_text()
    assert test_line in ci
    assert run_line.endswith(".venv/bin/grigri-fast train")
    assert (ROOT / "constraints.txt").is_file()


# --------------------------------------------------------------------------------- what it shows


def test_files_that_it_shows_are_there() -> None:
    for name, text in TEXTS.items():
        targets = re.findall(r"\]\((?!https?:)([^)]+)\)", text)
        targets += re.findall(r'(?:src|srcset)="([^"]+)"', text)
        for target in targets:
            file, _, heading = target.partition("#")
            path = (ROOT / name).parent / file if file else ROOT / name
            assert path.is_file(), target
            assert not heading or heading in anchors(path.read_text()), target


def anchors(text: str) -> set[str]:
    """Return the names that GitHub gives a text's headings."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_constraints_hold_names_and_versions_alone() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line


def test_the_tests_that_it_names_are_there() -> None:
    source = "".join(p.read_text() for p in (ROOT / "tests").rglob("*.py"))
    names = set(re.findall(r"`(test_\w+(?:\.py)?)`", README + MANUAL))
    assert len(names) > 12
    for name in names:
        there = (
            any((ROOT / "tests").rglob(name)) if name.endswith(".py") else f"def {name}(" in source
        )
        assert there, name

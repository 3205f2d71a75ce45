"""The README and the manual are true: every command in them is run, every file and name exists."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from archives import image_members, label_members, zipped
from option_table import markdown_table
from readme import the_manuals_program
from small_runs import start, stopping
from small_set import CLASSES, labels_of, write_image, write_photos
from test_architecture import MAY_IMPORT

import grigri_fast
from grigri_fast.config import OPTIONS
from grigri_fast.data.mirflickr import ANNOTATIONS, IMAGES
from grigri_fast.profiling import timing

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "grigri_fast"
FILES = [ROOT / "README.md", PACKAGE / "README.md", *sorted(PACKAGE.glob("*/README.md"))]
TEXTS = {str(file.relative_to(ROOT)): file.read_text() for file in FILES}
README, MANUAL = (TEXTS[name] for name in ("README.md", "grigri_fast/README.md"))
MORE_TEXTS = ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md"]
FOLDERS = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}


def commands_of(text: str) -> Iterator[str]:
    """Yield the commands of shell blocks, and those behind a prompt in blocks of output."""
    for kind, block in re.findall(r"```(sh|text)\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            if kind == "sh" or line.startswith("$ "):
                command = re.split(r"\s#\s", line.removeprefix("$ "))[0]
                yield from filter(None, map(str.strip, command.split(" && ")))


COMMANDS = {name: list(commands_of(text)) for name, text in TEXTS.items()}
# Everybody has trained as the README says; so the tests do that once.
TRAININGS = [c for c in COMMANDS["README.md"] if "grigri-fast train" in c]

# ------------------------------------------------------------------------ every command, in order

# What is added so that a command is done in seconds: a later option wins over the text's.
TINY = ["--size=32", "--batch-size=16", "--threads=1"]
SMALLER = {
    "train": [*TINY, "--epochs=1", "--limit=200", "--no-flip-test"],  # to export it takes half
    "tune": [*TINY, "--epochs=1", "--trials=2"],
    "reproduce": ["--epochs=1", "--limit=40", "--size-scale=0.25", "--threads=1"],
    "bench": [*TINY, "--limit=32", "--repeats=1"],
    "profile": [*TINY],
    "learning-curve": ["--threads=1", "--subsets=1"],
    "suggest": ["--threads=1"],
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
    if words[0] == "reproduce":  # test_reproduce.py runs all rows
        more.append("--only=bce" if "--only" in words else "--only=data,bce,untrained")
    return [*SMALLER.get(words[0], []), *more]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Return a folder with all that the texts' commands read, and with the README's runs."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("my-photos", "grigri"):
        write_photos(folder / name)
    header = ",".join(("image", *CLASSES))
    rows = [[int(name in labels_of(row)) for name in CLASSES] for row in range(48)]
    lines = [f"im{i + 1}.jpg,{','.join(map(str, row))}" for i, row in enumerate(rows)]
    (folder / "grigri" / "labels_20000.csv").write_text("\n".join([header, *lines]) + "\n")
    (folder / "fixed.csv").write_text("image,class,value\nim2.jpg,dog,1\nim3.jpg,sky,unknown\n")
    for row, number in enumerate((10000, 10001, 10031, 10036), start=100):  # no run knows them
        write_image(folder / "holiday" / f"im{number}.jpg", row)
    (folder / "holiday" / "notes.jpg").write_text("milk, bread\n")
    mirror = folder / "mirror"
    mirror.mkdir()
    (mirror / IMAGES).write_bytes(zipped(image_members()))
    (mirror / ANNOTATIONS).write_bytes(zipped(label_members()))
    # Weights of pretrained networks' shapes, in a folder and where torchvision looks for them.
    weights, hub = folder / "imagenet-weights", folder / "torch" / "hub" / "checkpoints"
    weights.mkdir()
    for name in ("resnet18-f37072fd", "resnet34-b627a593"):
        model = getattr(torchvision.models, name.partition("-")[0])()
        torch.save(model.state_dict(), weights / f"{name}.pth")
    shutil.copytree(weights, hub, copy_function=os.link)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        patch.chdir(folder)
        for command in TRAININGS:
            words = shlex.split(command)[1:]
            process = start(*words, *smaller(words))
            printed, err = process.communicate()
            assert (process.returncode, err) == (0, ""), command
            assert printed
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch) -> Path:
    """Return a copy of that folder, as the current folder; commands never change a file in it."""
    folder = shutil.copytree(trained, tmp_path / "place", copy_function=os.link)
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    monkeypatch.chdir(folder)
    return folder


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


def serve_answers(words: list[str]) -> None:
    """Start the page, wait until it says where it is, and end it."""
    process = start(*words, "--threads=1")
    try:
        assert any("http://" in line for line in process.stdout)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 0


def torchrun(words: list[str]) -> None:
    """Run torchrun, which has its own libraries loaded; what it starts loads them as ever."""
    args = [*words, *smaller(["train", *words])]
    process = start(
        program=f"from torch.distributed.run import main\nraise SystemExit(main({args}))"
    )
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out


def run_command(command: str, cli: Callable, place: Path, monkeypatch, code: int = 0) -> None:
    """Run a command of the text, which must print something and end with ``code``."""
    program, *words = shlex.split(command.removeprefix(".venv/bin/"))
    if program == "ruff":
        in_a_process(["-m", "ruff", *words, "--no-cache"], ROOT)
    elif program == "tensorboard":
        tensorboard_answers(words)
    elif words[0] == "serve":
        serve_answers(words)
    elif program == "python":
        (place / "label.py").write_text(the_manuals_program())
        in_a_process(words, place)
    elif program == "torchrun":
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        monkeypatch.setenv("PYTHONPATH", path)
        torchrun(words)
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


def but_for_its_out(command: str) -> str:
    """Return a command without the place where it puts its file."""
    return re.sub(r" --out \S+", "", command.removeprefix(".venv/bin/"))


# Commands of the texts so far; the same ones are in several, and are run once.
done = {but_for_its_out(command) for command in TRAININGS}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in COMMANDS if COMMANDS[name]])
def test_every_command_is_run(name: str, cli, place: Path, monkeypatch) -> None:
    monkeypatch.setitem(timing._SECONDS, "cpu", 0.01)  # of each measurement of `bench`
    commands = [c for c in COMMANDS[name] if but_for_its_out(c) not in done]
    for command, next_one in zip(commands, [*commands, ""][1:], strict=True):
        if command.startswith(BY_CI):
            assert command.split(" -c ")[0] in (ROOT / ".ci" / "run").read_text()
            continue
        try:
            if "--resume" in next_one:  # the text stops this one, and so do we
                stopped = place / next_one.split()[-1]
                shutil.rmtree(stopped, ignore_errors=True)
                with monkeypatch.context() as patched:
                    stopping(patched, every=2)
                    run_command(command, cli, place, monkeypatch, code=143)
                assert not (stopped / "summary.json").exists()
            else:
                run_command(command, cli, place, monkeypatch)
            if "--resume" in command:
                assert (place / command.split()[-1] / "summary.json").is_file()
            done.add(but_for_its_out(command))
        except BaseException as e:
            e.add_note(f"in {name}: {command}")
            raise


def test_commands_are_recognised() -> None:
    assert len(TRAININGS) == 4
    assert sum(map(len, COMMANDS.values())) > 45


@pytest.mark.slow
def test_its_python_program_is_run(place: Path, monkeypatch) -> None:
    programs = re.findall(r"```python\n(.*?)```", TEXTS["grigri_fast/inference/README.md"], re.S)
    (program,) = [program for program in programs if "from grigri_fast import" in program]
    train = grigri_fast.train
    tiny = {"size": 32, "batch_size": 16, "epochs": 1, "threads": 1}
    monkeypatch.setattr(grigri_fast, "train", lambda *data, **o: train(*data, **(o | tiny)))
    names = {"pixels": np.zeros((40, 50, 3), np.uint8)}
    exec(program, names)
    assert names["result"].folder.is_dir() and names["prediction"].error


def test_the_two_lines_are_what_ci_runs() -> None:
    lines = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    run_line, test_line = lines
    ci = (ROOT / ".ci" / "run").read_text()
    assert test_line in ci
    assert run_line.endswith(".venv/bin/grigri-fast train")
    assert (ROOT / "constraints.txt").is_file()


# --------------------------------------------------------------------------------- what it shows


@pytest.mark.parametrize("name", [*TEXTS, *MORE_TEXTS])
def test_what_it_links_to_is_there(name: str) -> None:
    text = (ROOT / name).read_text()
    targets = re.findall(r"\]\((?!https?:)([^)]+)\)", text)
    targets += re.findall(r'(?:src|srcset)="([^"]+)"', text)
    for target in targets:
        file, _, heading = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.exists(), target
        assert not heading or heading in anchors(path.read_text()), target


def test_each_chapter_is_in_the_manuals_table() -> None:
    for name in list(TEXTS)[2:]:
        assert f"]({Path(name).relative_to('grigri_fast')})" in MANUAL


def anchors(text: str) -> set[str]:
    """Return the names that GitHub gives a text's headings."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def rows_of(text: str, heading: str) -> list[list[str]]:
    """Return the cells of a table's rows below its head, in the section with that heading."""
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_its_table_of_imports_is_that_of_the_architecture() -> None:
    table = {}
    for folder, words in rows_of(MANUAL, "What a folder may import"):
        everything = {*MAY_IMPORT} - {"cli"}
        table[folder.strip("`")] = everything if words == "all" else set(re.findall(r"\w+", words))
    assert table == MAY_IMPORT


def test_every_folder_is_in_the_table_and_in_the_figure() -> None:
    rows = rows_of(MANUAL, "The way of the data")
    assert sorted(cells[0] for cells in rows) == sorted(f"[{name}]({name})" for name in FOLDERS)
    figure = (PACKAGE / "way.svg").read_text()
    assert set(re.findall(r'class="path"[^>]*>(\w+)<', figure)) == FOLDERS


def test_every_public_name_of_the_python_api_is_in_the_manual() -> None:
    text = TEXTS["grigri_fast/inference/README.md"].split("## From Python")[1]
    for name in {*grigri_fast.__all__} - {"__version__"}:
        assert re.search(rf"`(grigri_fast\.)?{name}`", text), name


def test_its_map_names_what_is_there() -> None:
    """A file in the map defines the names that stand behind it."""
    maps = [(ROOT, README, "How it works")]
    maps += [(PACKAGE, MANUAL, heading) for heading in ("Where is it", "Where do I add it")]
    for folder, text, heading in maps:
        rows = rows_of(text, heading)
        assert len(rows) >= 5
        for cells in rows:
            assert 1 <= cells[1].count("](") <= 2, cells  # to be answered in two files at most
            for file, names in re.findall(r"\]\((\S+\.py)\)((?:,? `\w+`)*)", cells[1]):
                source = (folder / file).read_text()
                for name in re.findall(r"\w+", names):
                    assert re.search(rf"^(def |class )?{name}\b", source, re.MULTILINE), cells


def test_its_table_of_options_is_made_of_their_declarations() -> None:
    """After a change of an option, put what tests/option_table.py prints into the manual."""
    assert markdown_table(OPTIONS).strip() in TEXTS["grigri_fast/training/README.md"]


def test_constraints_hold_names_and_versions_alone() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line


def test_the_tests_that_it_names_are_there() -> None:
    source = "".join(p.read_text() for p in (ROOT / "tests").rglob("*.py"))
    names = set(re.findall(r"`(test_\w+(?:\.py)?)`", "".join(TEXTS.values())))
    assert len(names) > 12
    for name in names:
        there = (
            any((ROOT / "tests").rglob(name)) if name.endswith(".py") else f"def {name}(" in source
        )
        assert there, name

"""The README says what is so: its commands and options exist, its files are there."""

import re
import shlex
from pathlib import Path

import pytest
from test_architecture import FLOORS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SHELL_LINES = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
# Commands in shell blocks, and behind a prompt in blocks that show output.
COMMANDS = [line for line in SHELL_LINES if line.startswith("grigri-fast ")]
COMMANDS += re.findall(r"^\$ (grigri-fast .*)$", README, re.MULTILINE)


def test_the_two_lines_are_what_ci_runs() -> None:
    run_line, test_line = (line for line in SHELL_LINES if line.startswith("python3 -m venv"))
    ci = (ROOT / ".ci" / "run").read_text()
    assert test_line in ci
    assert run_line.endswith(".venv/bin/grigri-fast train")
    assert (ROOT / "constraints.txt").is_file()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_and_their_options_exist(cli, command: str) -> None:
    words = shlex.split(command)[1:]
    depth = 2 if words[0] == "data" else 1
    code, out, _ = cli(*words[:depth], "--help")
    assert code == 0
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert option in out


def test_files_that_it_shows_are_there() -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_its_table_of_floors_is_the_houses() -> None:
    rows = re.findall(r"^\| (\d) \| (.*) \|$", README, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(len(FLOORS)))
    for (_, text), modules in zip(rows, FLOORS, strict=True):
        assert set(re.findall(r"`(\w+)`", text)) == modules


def test_constraints_hold_names_and_versions_alone() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line


def test_the_tests_that_it_names_are_there() -> None:
    source = "".join(p.read_text() for p in (ROOT / "tests").glob("*.py"))
    names = set(re.findall(r"`(test_\w+(?:\.py)?)`", README))
    assert len(names) > 12
    for name in names:
        there = (
            (ROOT / "tests" / name).is_file() if name.endswith(".py") else f"def {name}(" in source
        )
        assert there, name

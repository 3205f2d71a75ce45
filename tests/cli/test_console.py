"""How much is printed, and in which colours: --quiet, --verbose, NO_COLOR."""

import os
import pty
import re
import subprocess
import sys

import pytest
from small_runs import SMALL

GRIGRI = [sys.executable, "-m", "grigri_fast"]


def test_quiet_prints_the_result_alone(cli, photos_once, tmp_path) -> None:
    code, out, err = cli("--quiet", "train", photos_once, *SMALL, "--out", tmp_path, "--name=run")
    assert (code, err) == (0, "")
    assert re.fullmatch(
        rf"{tmp_path}/run: micro-F1 \d\.\d{{4}} \(cross-fitted\), mAP \d\.\d{{4}}\n", out
    )
    loud = cli("eval", tmp_path / "run")[1]
    code, out, err = cli("-q", "eval", tmp_path / "run")
    assert code == 0 and out == loud.replace("not stored; --save stores it for predict\n", "")
    assert "not stored" in loud
    code, out, err = cli("-q", "eval", tmp_path / "nowhere")
    assert (code, out) == (1, "") and err.startswith("error: ")


def test_verbose_says_when_and_where_from(cli, photos_once, tmp_path) -> None:
    code, out, _ = cli("--verbose", "train", photos_once, *SMALL, "--out", tmp_path, "--name=run")
    assert code == 0
    times = [float(s) for s in re.findall(r"^ *(\d+\.\d\d) s  ", out, re.MULTILINE)]
    assert len(times) >= 4 and times == sorted(times)
    assert f" s  run folder {tmp_path}/run\n" in out
    code, _, err = cli("-v", "eval", tmp_path / "nowhere")
    assert code == 1 and err.startswith("Traceback") and "errors.GrigriError: " in err
    assert err.splitlines()[-1] == f"error: {tmp_path}/nowhere: no such run folder"
    # The next command is neither.
    assert cli("eval", tmp_path / "nowhere")[2].count("\n") == 1


def test_quiet_and_verbose_exclude_each_other(cli) -> None:
    code, out, err = cli("-q", "-v", "info")
    assert (code, out) == (2, "") and "--quiet does not go with --verbose" in err


@pytest.mark.parametrize("no_color", [True, False])
@pytest.mark.parametrize("command", [["--help"], ["nothing"]], ids=str)
def test_no_color_is_respected_in_a_terminal(no_color: bool, command: list[str]) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm"}
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*GRIGRI, *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | ({"NO_COLOR": "1"} if no_color else {}),
    ):
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
    os.close(ours)
    assert b"train" in shown or b"nothing" in shown
    colours = re.findall(rb"\x1b\[[0-9;]*3[0-9][0-9;]*m", shown)
    assert bool(colours) == (command == ["--help"] and not no_color)

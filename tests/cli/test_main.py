"""The program: its version, closed pipes, signals."""

import os
import shlex
import signal
import subprocess
import sys

import pytest
from small_runs import RESNET18

from grigri_fast import __version__


def command(*args: object, **options) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "grigri_fast", *map(str, args)]
    return subprocess.run(words, capture_output=True, text=True, **options)


def test_version(cli) -> None:
    assert cli("--version") == (0, f"grigri-fast {__version__}\n", "")
    assert command("--version").stdout == f"grigri-fast {__version__}\n"


@pytest.mark.slow
def test_a_closed_pipe_is_no_traceback(trained) -> None:
    data, run = trained
    line = f"{sys.executable} -m grigri_fast predict {run} {data} | head -n 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stdout.startswith("image,labels,error") and "Traceback" not in done.stderr


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_can_be_used(cli, photos, tmp_path) -> None:
    words = [sys.executable, "-u", "-m", "grigri_fast", "train", photos, *RESNET18]
    words += ["--epochs=500", "--compile=off", "--out", tmp_path]
    process = subprocess.Popen(
        list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.strip().startswith("1/500"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    run = tmp_path / "photos-resnet18"
    line = f"interrupted; go on with: grigri-fast train --resume {run}\n"
    assert (process.returncode, err) == (130, line)
    assert {p.name for p in run.iterdir() if p.suffix == ".safetensors"} == {
        "best.safetensors",
        "last.safetensors",
        "resume-previous.safetensors",
        "resume.safetensors",
    }
    assert cli("eval", run)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["--help", "data split", "predict", "train"])
def test_a_reader_who_has_gone_is_no_traceback(trained, tmp_path, name: str) -> None:
    data, run = trained
    words = {
        "--help": ["--help"],
        "data split": ["data", "split", data],
        "predict": ["predict", run, data / "images"],
        "train": ["train", data, *RESNET18, "--out", tmp_path],
    }[name]
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, "-m", "grigri_fast", *map(str, words)]
    done = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 141 and done.stderr == ""
    if name == "train":  # nobody needs to read what it says
        assert (tmp_path / "photos-resnet18" / "summary.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("> /dev/full", 1, "error: stdout: No space left on device; what was printed is lost\n"),
        ("> /dev/full 2> /dev/full", 1, ""),
        (">&- 2>&-", 0, ""),
    ],
)
def test_a_log_on_a_full_disk_ends_no_training(
    trained, tmp_path, redirection: str, code: int, said: str
) -> None:
    words = [sys.executable, "-m", "grigri_fast", "train", trained[0], *RESNET18]
    words += ["--out", tmp_path]
    line = f"{shlex.join(map(str, words))} {redirection}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)
    assert (tmp_path / "photos-resnet18" / "summary.json").is_file()


COMMANDS = {
    "help": ["train", "--help"],
    "split": ["data", "split", "DATA"],
    "check": ["data", "check", "DATA", "--threads=1"],
    "eval": ["eval", "RUN", "--json", "--threads=1"],
    "predict": ["predict", "RUN", "IMAGES", "--threads=1"],
    "info": ["info", "--json"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_output_that_is_lost_is_one_line(trained, name: str) -> None:
    data, run = trained
    places = {"DATA": data, "IMAGES": data / "images", "RUN": run}
    words = [str(places.get(word, word)) for word in COMMANDS[name]]
    line = [sys.executable, "-m", "grigri_fast", *words]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True)
    lost = "error: stdout: No space left on device; what was printed is lost\n"
    assert (done.returncode, done.stderr) == (1, lost)


def test_closed_output_and_errors_are_no_traceback() -> None:
    program = f"{sys.executable} -m grigri_fast"
    done = subprocess.run(
        ["sh", "-c", f"{program} --version >&- && {program} --help >&- && {program} nothing 2>&-"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")

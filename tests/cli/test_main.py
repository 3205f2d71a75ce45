"""The program: its version, closed pipes, signals."""

import shlex
import signal
import subprocess
import sys

import pytest
from small_runs import QUICK, start, wait_for

from grigri_fast import __version__
from grigri_fast.runs import run_folder


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
    run = tmp_path / "photos-shufflenet_v2_x0_5"
    options = [*QUICK, "--epochs=500", "--compile=off", "--out", tmp_path]
    process = start("train", photos, *options)
    wait_for(run / run_folder.RESULTS, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    line = f"interrupted; go on with: grigri-fast train --resume {run}\n"
    assert (process.returncode, err) == (130, line)
    assert {p.name for p in run.iterdir() if p.suffix == ".safetensors"} == {
        "best.safetensors",
        "last.safetensors",
        "resume-previous.safetensors",
        "resume.safetensors",
    }
    assert cli("eval", run)[0] == 0


LOST_READER = (
    "import os\nreader, writer = os.pipe()\nos.close(reader)\nos.dup2(writer, 1)\nos.close(writer)"
)
FULL_DISK = "import os\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["--help", "data split", "predict", "train"])
def test_a_reader_who_has_gone_is_no_traceback(trained, tmp_path, name: str) -> None:
    data, run = trained
    words = {
        "--help": ["--help"],
        "data split": ["data", "split", data],
        "predict": ["predict", run, data / "images"],
        "train": ["train", data, *QUICK, "--out", tmp_path],
    }[name]
    process = start(*words, program=LOST_READER)
    _, err = process.communicate()
    assert process.returncode == 141 and err == ""
    if name == "train":  # nobody needs to read what it says
        assert (tmp_path / "photos-shufflenet_v2_x0_5" / "summary.json").is_file()


LOST = "error: stdout: No space left on device; what was printed is lost\n"


@pytest.mark.slow
@pytest.mark.parametrize(("errors", "said"), [("", LOST), ("\nos.dup2(1, 2)", "")])
def test_a_log_on_a_full_disk_ends_no_training(trained, tmp_path, errors: str, said: str) -> None:
    """What is said on stderr may be lost too."""
    process = start("train", trained[0], *QUICK, "--out", tmp_path, program=FULL_DISK + errors)
    _, err = process.communicate()
    assert (process.returncode, err) == (1, said)
    assert (tmp_path / "photos-shufflenet_v2_x0_5" / "summary.json").is_file()


@pytest.mark.slow
def test_closed_output_ends_no_training(trained, tmp_path) -> None:
    words = [sys.executable, "-m", "grigri_fast", "train", trained[0], *QUICK, "--out", tmp_path]
    line = f"{shlex.join(map(str, words))} >&- 2>&-"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "photos-shufflenet_v2_x0_5" / "summary.json").is_file()


COMMANDS = {
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
    process = start(*(places.get(word, word) for word in COMMANDS[name]), program=FULL_DISK)
    _, err = process.communicate()
    assert (process.returncode, err) == (1, LOST)


def test_help_that_is_lost_is_one_line() -> None:
    line = [sys.executable, "-m", "grigri_fast", "train", "--help"]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, LOST)


def test_closed_output_and_errors_are_no_traceback() -> None:
    program = f"{sys.executable} -m grigri_fast"
    done = subprocess.run(
        ["sh", "-c", f"{program} --version >&- && {program} --help >&- && {program} nothing 2>&-"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")

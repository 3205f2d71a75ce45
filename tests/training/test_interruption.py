"""A run that is killed, stopped or out of disk goes on, and ends where it would have."""

import csv
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_runs import LONG, SMALL, fit, same_end, start, stopping, wait_for

from grigri_fast.pipeline import batching, loader
from grigri_fast.runs import checkpoint, run_folder, training_state
from grigri_fast.runtime import signals
from grigri_fast.training import checkpointer


def time_of(path: Path) -> int:
    """Return when a file was written, 0 if it is not there (between two renames)."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def loadable(folder: Path) -> list[str]:
    """Check every checkpoint that has its real name; return their names."""
    names = sorted(p.name for p in folder.glob("*.safetensors"))
    for name in names:
        if "resume" in name:
            training_state.load(folder / name)
        else:
            checkpoint.load(folder / name, torch.device("cpu"))
    return names


@pytest.fixture(scope="module")
def whole(photos_once: Path, tmp_path_factory) -> Path:
    """Return a run of six epochs that nobody stopped."""
    out = tmp_path_factory.mktemp("whole")
    words = ["train", photos_once, *LONG, "--out", out, "--name=run"]
    process = start(*words)
    _, err = process.communicate()
    assert process.returncode == 0, err
    return out / "run"


# ------------------------------------------------------------------------------- killed


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_again_and_again_it_ends_where_it_would_have(
    photos_once: Path, whole: Path, tmp_path: Path
) -> None:
    rng = random.Random(0)
    folder = tmp_path / "run"
    words = ["train", photos_once, *LONG, "--out", tmp_path, "--name=run"]
    kills = 0
    while True:
        process = start(*words)
        wait_for(folder / run_folder.CONFIG, process)  # the first process: training has begun
        wait_for(folder / run_folder.RESUME, process)
        before = time_of(folder / run_folder.RESUME)
        while (
            kills and process.poll() is None and time_of(folder / run_folder.RESUME) in (0, before)
        ):
            time.sleep(0.005)  # the others: until something new has been stored
        if kills < 12:
            time.sleep(rng.uniform(0, 0.03))
            process.kill()
        _, err = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, err
        kills += 1
        assert run_folder.RESUME in loadable(folder) or run_folder.PREVIOUS in loadable(folder)
        words = ["train", "--resume", folder]
    assert kills == 12  # and eight more below
    assert same_end(folder, whole)
    assert not list(folder.glob(".*"))  # what killed processes had left is gone


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("number", [12, 27, 28, 41])
def test_killed_within_a_write_it_ends_where_it_would_have(
    cli, photos_once: Path, whole: Path, tmp_path: Path, call: str, number: int
) -> None:
    folder = tmp_path / "run"
    module, name = call.rsplit(".", 1)
    program = (
        f"import os, signal, pathlib; count = 0; call = {call}\n"
        "def killed(*args):\n"
        "    global count; count += 1\n"
        f"    if count == {number}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return call(*args)\n"
        f"{module}.{name} = killed"
    )
    words = ["train", photos_once, *LONG, "--out", tmp_path, "--name=run"]
    process = start(*words, program=program)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    assert loadable(folder)
    code, _, err = cli("train", "--resume", folder)
    assert (code, err) == (0, "")
    assert same_end(folder, whole)


# ------------------------------------------------------------- stopped at every single step


def finish(cli, folder: Path) -> int:
    """Resume until the run is finished; return how often it was stopped."""
    stops = 0
    while True:
        code, _, err = cli("train", "--resume", folder)
        if code == 0:
            assert err == ""
            return stops
        assert code == 143
        assert err == f"ended by SIGTERM; go on with: grigri-fast train --resume {folder}\n"
        stops += 1


WAYS = {
    "sgd": (1, ["--arch=shufflenet_v2_x0_5"]),
    "adam": (3, ["--optimizer=adam"]),
    "amsgrad, constant": (3, ["--optimizer=amsgrad", "--schedule=constant"]),
    "rmsprop": (4, ["--optimizer=rmsprop", "--momentum=0.5"]),
    "no momentum": (4, ["--momentum=0"]),
    "frozen": (3, ["--freeze-backbone", "--lr=0.1"]),
    "frozen stages": (3, ["--freeze-stages=2", "--layer-decay=0.7", "--optimizer=adamw"]),
    "dropout": (3, ["--arch=squeezenet1_1"]),
    "bf16, mse": (3, ["--amp=bf16", "--loss=mse"]),
    "no augmentation": (4, ["--no-augment", "--test=0.1", "--limit=40"]),
    "best": (3, ["--recipe=best", "--arch=grigri", "--amp=bf16"]),
    "norms for training": (3, ["--recipe=best", "--arch=simple", "--start-size=16"]),
    "all that is drawn": (
        3,
        [
            *("--ema=0.9", "--color=0.3", "--erasing=0.4", "--mixup=0.4", "--cutmix=0.5"),
            *("--sampler=balanced", "--size=48", "--start-size=32", "--test-size=64"),
            *("--flip-test", "--label-smoothing=0.1", "--head-lr-factor=5", "--no-decay-all"),
        ],
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", WAYS)
def test_stopped_at_any_step_it_ends_where_it_would_have(
    cli, photos_once: Path, tmp_path: Path, monkeypatch, way: str
) -> None:
    every, options = WAYS[way]
    options = [*SMALL, "--epochs=2", *options, "--out", tmp_path]
    whole = fit(cli, photos_once, tmp_path, *options, "--name=whole")
    stopping(monkeypatch, every)
    assert cli("train", photos_once, *options, "--name=run")[0] == 143
    stops = 1 + finish(cli, tmp_path / "run")
    assert stops >= 10 // every - 1
    assert same_end(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_order_and_pixels_go_on_where_they_were(
    cli, photos_once: Path, tmp_path: Path, monkeypatch
) -> None:
    seen: list[tuple[list[int], bytes]] = []
    train_epoch = loader.ImageLoader.train_epoch

    def recorded(self, *args: object, **options: object) -> Iterator[batching.Batch]:
        for batch in train_epoch(self, *args, **options):
            seen.append((batch.rows_N.tolist(), batch.images_NHWC.numpy().tobytes()))
            yield batch

    monkeypatch.setattr(loader.ImageLoader, "train_epoch", recorded)
    options = [*SMALL, "--epochs=3", "--out", tmp_path]
    fit(cli, photos_once, tmp_path, *options)
    whole = seen.copy()
    seen.clear()
    stopping(monkeypatch, 2)
    assert cli("train", photos_once, *options, "--name=run")[0] == 143
    finish(cli, tmp_path / "run")
    assert seen == whole


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_files_that_turned_bad_stay_out_after_a_stop(
    cli, photos: Path, tmp_path: Path, monkeypatch
) -> None:
    """The reference turns bad at the same step, and is not stopped."""
    options = [*SMALL, "--epochs=3", "--out", tmp_path, "--max-bad=0.2", "--cache=off"]
    contents = {path: path.read_bytes() for path in (photos / "images").iterdir()}
    bad = sorted(contents)[::11]
    train_epoch = loader.ImageLoader.train_epoch

    def turning_bad(self, *args: object, **options: object) -> Iterator[batching.Batch]:
        if options["epoch"] == 2 and options["first"] == 0:
            for path in bad:
                path.write_bytes(b"gone")
        return train_epoch(self, *args, **options)

    monkeypatch.setattr(loader.ImageLoader, "train_epoch", turning_bad)
    whole = fit(cli, photos, tmp_path, *options, "--name=whole")
    for path, content in contents.items():
        path.write_bytes(content)
    stopping(monkeypatch, 1)
    assert cli("train", photos, *options, "--name=run")[0] == 143
    finish(cli, tmp_path / "run")
    assert same_end(tmp_path / "run", whole)
    for folder in (whole, tmp_path / "run"):
        with (folder / run_folder.QUARANTINE).open(newline="") as file:
            assert {row["path"] for row in csv.DictReader(file)} == set(map(str, bad))


# ------------------------------------------------------------------------------- signals


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_stores_the_step_and_says_how_to_go_on(
    cli, photos_once: Path, whole: Path, tmp_path: Path, name: str
) -> None:
    number = signal.Signals[name]
    options = [*LONG, "--checkpoint-every=10min"]
    process = start("train", photos_once, *options, "--out", tmp_path, "--name=run")
    wait_for(tmp_path / "run" / run_folder.RESULTS, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    verb = "interrupted" if name == "SIGINT" else f"ended by {name}"
    folder = tmp_path / "run"
    assert err == f"{verb}; go on with: grigri-fast train --resume {folder}\n"
    assert process.returncode == 128 + number
    progress = training_state.load(folder / run_folder.RESUME).progress
    assert progress.epoch >= 2 and len(progress.history) == progress.epoch - 1
    assert cli("train", "--resume", folder)[0] == 0
    assert same_end(folder, whole)


SLOW = (
    "import time\nimport grigri_fast.training.losses as losses\nbce = losses.bce\n"
    "def slow(*args):\n    print('in a step', flush=True)\n    time.sleep({})\n"
    "    return bce(*args)\n"
    "losses.LOSSES['bce'] = slow"
)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("first, second", [("SIGINT", "SIGINT"), ("SIGTERM", "SIGINT")])
def test_a_second_signal_ends_at_once(
    photos_once: Path, tmp_path: Path, first: str, second: str
) -> None:
    words = ["train", photos_once, *LONG, "--out", tmp_path, "--name=run"]
    process = start(*words, program=SLOW.format(100))
    while "in a step" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.Signals[first])
    time.sleep(0.5)
    assert process.poll() is None  # the step goes on
    process.send_signal(signal.Signals[second])
    assert process.wait(timeout=5) == 128 + signal.Signals[second]
    assert loadable(tmp_path / "run") == [run_folder.RESUME]
    process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_step_is_finished_first(photos_once: Path, tmp_path: Path) -> None:
    words = ["train", photos_once, *LONG, "--out", tmp_path, "--name=run"]
    process = start(*words, program=SLOW.format(1.5))
    while "in a step" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert training_state.load(tmp_path / "run" / run_folder.RESUME).progress.batches == 1
    process.communicate()


@pytest.mark.timeout(120)
def test_before_training_there_is_nothing_to_resume(photos_once: Path, tmp_path: Path) -> None:
    program = (
        "import os, signal, grigri_fast.data.dataset as dataset\n"
        "dataset.load = lambda *args: os.kill(os.getpid(), signal.SIGTERM)"
    )
    process = start("train", photos_once, *LONG, "--out", tmp_path / "runs", program=program)
    _, err = process.communicate()
    assert (process.returncode, err) == (143, "ended by SIGTERM\n")
    assert not (tmp_path / "runs").exists()


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.raise_interrupted(), signals.deferred() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
            assert not stop()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
            assert stop() and stop.signum == signal.SIGTERM
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_hanging_disk_does_not_block_ctrl_c(photos_once: Path, tmp_path: Path) -> None:
    program = (
        "import time, grigri_fast.pipeline.reading as reading\n"
        "read, count = reading.files.read_bytes, [0]\n"
        "def hanging(path, *limit):\n"
        "    count[0] += path.suffix == '.jpg'\n"
        "    if count[0] > 20:\n"
        "        print('hangs', flush=True)\n"
        "        while True: time.sleep(1)\n"
        "    return read(path, *limit)\n"
        "reading.files.read_bytes = hanging\n"
        "reading.LEAVE_S = 0.5"
    )
    words = ["train", photos_once, *LONG, "--out", tmp_path, "--name=run"]
    process = start(*words, program=program)
    while "hangs" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130 and "--resume" in err
    assert loadable(tmp_path / "run")


# ------------------------------------------------------------------------------ full disks


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_full_disk_leaves_the_state_before(
    cli, photos_once: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    limit = 2_000_000  # the weights fit, weights with momentum do not
    process = start(
        "train",
        photos_once,
        *LONG,
        "--out",
        tmp_path,
        "--name=run",
        file_size_limit=limit,
    )
    _, err = process.communicate()
    assert process.returncode == 1 and err.count("\n") == 1
    assert err.startswith(f"error: {folder / run_folder.RESUME}: cannot be written: File too large")
    assert err.endswith(f"; go on with: grigri-fast train --resume {folder}\n")
    assert loadable(folder) == [run_folder.RESUME]
    assert not list(folder.glob(".*"))
    assert cli("train", "--resume", folder)[0] == 0
    assert same_end(folder, whole)


def test_a_folder_that_vanishes_is_one_line(cli, photos: Path, tmp_path: Path, monkeypatch) -> None:
    save_epoch = checkpointer.Checkpointer.save_epoch

    def vanished(self) -> None:
        shutil.rmtree(tmp_path / "run")
        save_epoch(self)

    monkeypatch.setattr(checkpointer.Checkpointer, "save_epoch", vanished)
    code, _, err = cli("train", photos, *SMALL, "--out", tmp_path, "--name=run")
    assert code == 1 and err.count("\n") == 1 and "No such file or directory" in err
    assert not (tmp_path / "run").exists()

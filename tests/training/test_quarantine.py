import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from small_runs import (
    SMALL,
    after_epoch,
    check_run_is_whole,
    fit,
    losses_of,
    parts,
    results,
    same,
)
from small_set import write_image

from grigri_fast.cli.main import main
from grigri_fast.data.dataset import Dataset
from grigri_fast.errors import GrigriError
from grigri_fast.pipeline.check import require_few
from grigri_fast.runs import training_state
from grigri_fast.training.quarantine import BEFORE, Quarantine

NAMES = [f"{i}.jpg" for i in range(100)]
DATA = Dataset(NAMES, [Path("photos") / n for n in NAMES], np.ones((100, 1)), ["cat"], "photos")
ROWS = np.arange(100)


def test_it_knows_who_is_in_since_when(tmp_path: Path) -> None:
    bad: dict = {}
    quarantine = Quarantine(DATA, 100, 0.05, bad)
    quarantine.write(tmp_path)
    assert not list(tmp_path.iterdir())  # nothing to write
    quarantine.add({7: "empty file", 3: 'a, "odd" one'}, BEFORE)
    quarantine.add({50: "gone", 7: "again"}, 4)
    assert quarantine.rows() == [7, 3, 50] and quarantine.rows(since=1) == [50]
    assert quarantine.good(ROWS).tolist() == [i for i in range(100) if i not in (3, 7, 50)]
    assert quarantine.good_before(ROWS).tolist() == [i for i in range(100) if i not in (3, 7)]
    assert bad["7.jpg"] == ("empty file", BEFORE) and bad["50.jpg"] == ("gone", 4)
    quarantine.write(tmp_path)
    with (tmp_path / "quarantine.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"path": "photos/7.jpg", "reason": "empty file", "since": "before training"},
            {"path": "photos/3.jpg", "reason": 'a, "odd" one', "since": "before training"},
            {"path": "photos/50.jpg", "reason": "gone", "since": "epoch 4"},
        ]
    assert quarantine.in_words(tmp_path) == (
        f"3 of 100 images cannot be used and are left out, listed in {tmp_path}/quarantine.csv;"
        " the last is photos/50.jpg: gone (epoch 4)"
    )


def test_one_is_said_in_the_singular(tmp_path: Path) -> None:
    quarantine = Quarantine(DATA, 100, 0.05, {"7.jpg": ("empty file", BEFORE)})
    assert quarantine.in_words(tmp_path) == (
        f"1 of 100 images cannot be used and is left out, listed in {tmp_path}/quarantine.csv;"
        " it is photos/7.jpg: empty file"
    )


def bad(count: int) -> dict[Path, str]:
    return {Path(f"{i}.jpg"): "empty file" for i in range(count)}


@pytest.mark.parametrize("count, max_bad", [(0, 0.0), (5, 0.05), (99, 0.99), (0, 0.99)])
def test_few_are_let_pass(count: int, max_bad: float) -> None:
    require_few(bad(count), 100, max_bad)


@pytest.mark.parametrize(
    "count, max_bad, says",
    [
        (1, 0.0, "0.jpg: empty file; `grigri-fast data check` names them all"),
        (6, 0.05, "6 of 100 images cannot be used, more than --max-bad 0.05 allows; the first is"),
        (100, 1.0, "100 of 100 images"),
    ],
)
def test_many_are_not(count: int, max_bad: float, says: str) -> None:
    with pytest.raises(GrigriError) as error:
        require_few(bad(count), 100, max_bad)
    assert str(error.value).startswith(says)


def test_where_all_are_missing_the_advice_is_another() -> None:
    missing = {Path("0.jpg"): "No such file or directory"}
    with pytest.raises(GrigriError, match="with --images, or remove their labels"):
        require_few(missing, 10, 0)


def test_adding_too_many_raises() -> None:
    quarantine = Quarantine(DATA, 100, 0.05, {})
    assert quarantine.num_allowed == 5
    quarantine.add(dict.fromkeys(range(5), "empty file"), BEFORE)
    with pytest.raises(GrigriError, match="6 of 100"):
        quarantine.add({50: "gone"}, 2)


# ------------------------------------------------------------- through the real command


DAMAGES = {
    "gone": lambda path: path.unlink(),
    "truncated": lambda path: os.truncate(path, 300),
    "replaced": lambda path: write_image(path, 77),
    "fifo": lambda path: (path.unlink(), os.mkfifo(path)),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.fixture(scope="module")
def three_epochs(photos_once: Path, tmp_path_factory) -> Path:
    """Return a run of three epochs to which nothing happens."""
    out = tmp_path_factory.mktemp("whole")
    words = ["train", photos_once, *SMALL, "--epochs=3", "--threads=1", "--out", out]
    assert main(list(map(str, words))) == 0
    return out / "photos-shufflenet_v2_x0_5"


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_turn_bad_are_left_out_and_named(
    cli, photos, three_epochs: Path, tmp_path, monkeypatch, damage: str
) -> None:
    whole = three_epochs
    in_train, in_val = (photos / "images" / parts(whole)[p][3] for p in ("train", "val"))

    def turn_bad() -> None:
        DAMAGES[damage](in_train)
        DAMAGES[damage](in_val)

    after_epoch(monkeypatch, 1, turn_bad)
    options = [
        *SMALL,
        "--epochs=3",
        "--name=run",
        "--max-bad=0.1",
        "--cache=off",
        "--out",
        tmp_path,
    ]
    code, out, err = cli("train", photos, *options)
    assert (code, err) == (0, "")
    run = tmp_path / "run"
    with (run / "quarantine.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["path"]: row["since"] for row in rows} == {
        str(in_train): "epoch 2",
        str(in_val): "epoch 2",
    }
    assert all(row["reason"] for row in rows)
    assert str(in_train) in out and "quarantine.csv" in out
    # The epoch before is what it would have been, the rest goes on with the others.
    assert losses_of(run)[0] == losses_of(whole)[0] and losses_of(run)[1:] != losses_of(whole)[1:]
    assert len(results(run)) == 3
    assert json.loads((run / "summary.json").read_text())["images_left_out"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--strict", "--max-bad=0", "--max-bad=0.02"])
def test_too_many_files_that_turn_bad_end_the_run(
    cli, photos, tmp_path, monkeypatch, option: str
) -> None:
    image = photos / "images" / "im7.jpg"
    after_epoch(monkeypatch, 1, lambda: image.write_bytes(b""))
    options = [*SMALL, "--epochs=3", "--name=run", "--cache=off", "--out", tmp_path]
    code, _, err = cli("train", photos, *options, option)
    assert code == 1 and err.count("\n") == 1 and f"{image}: its content has changed" in err
    assert f"--resume {tmp_path / 'run'}" in err
    check_run_is_whole(cli, tmp_path / "run", epochs=1, extra=["--max-bad=0.5"])


@pytest.mark.slow
def test_a_run_that_ended_for_its_files_goes_on_when_they_are_back(
    cli, photos, tmp_path, monkeypatch
) -> None:
    options = [*SMALL, "--epochs=3", "--strict", "--cache=off", "--out", tmp_path]
    whole = fit(cli, photos, tmp_path, *options)
    last = parts(whole)["train"][-1]
    image = photos / "images" / last
    content = image.read_bytes()
    after_epoch(monkeypatch, 1, lambda: image.write_bytes(b""))
    assert cli("train", photos, *options, "--name=run")[0] == 1
    state = training_state.load(tmp_path / "run" / "resume.safetensors").progress
    assert state.epoch == 2 and not state.bad  # stored when it ended, the bad file not in it
    image.write_bytes(content)
    code, _, err = cli("train", "--resume", tmp_path / "run")
    assert (code, err) == (0, "")
    assert same(whole, tmp_path / "run")

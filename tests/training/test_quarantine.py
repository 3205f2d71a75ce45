import csv
from pathlib import Path

import numpy as np
import pytest

from grigri_fast.data.dataset import Dataset
from grigri_fast.errors import GrigriError
from grigri_fast.pipeline.check import require_few
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

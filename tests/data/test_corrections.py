from pathlib import Path

import numpy as np
import pytest

from grigri_fast.data import dataset
from grigri_fast.errors import GrigriError

LABELS = "image,labels\na.jpg,cat\nb.jpg,cat|dog\nc.jpg,\nd.jpg,dog\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "l.csv").write_text(LABELS)
    return tmp_path


def load(folder: Path, lines: str, header: str = "image,class,value", **how) -> dataset.Dataset:
    (folder / "fix.csv").write_text(f"{header}\n{lines}")
    return dataset.load(folder / "l.csv", corrections=folder / "fix.csv", **how)


def test_labels_are_corrected_and_the_note_says_how_many(folder: Path) -> None:
    data = load(folder, "a.jpg,cat,0\na.jpg,dog,1\nb.jpg,dog,unknown\nc.jpg,cat,1\nd.jpg,dog,1\n")
    assert data.class_names == ["cat", "dog"]
    assert data.targets_NC.tolist() == [[0, 1], [1, 0], [1, 0], [0, 1]]
    assert np.argwhere(data.unknown_NC).tolist() == [[1, 1]]
    assert data.notes[-1] == (
        "4 of 5 labels in fix.csv differ from the data's: 2 added, 1 removed, 1 unknown,"
        " of 3 images"
    )
    assert (folder / "l.csv").read_text() == LABELS


def test_the_last_line_about_a_label_counts(folder: Path) -> None:
    data = load(folder, "a.jpg,cat,0\nc.jpg,dog,1\na.jpg,cat,given\nc.jpg,dog,0\nc.jpg,dog,1\n")
    assert data.targets_NC.tolist() == [[1, 0], [1, 1], [0, 1], [0, 1]]
    assert data.unknown_NC is None
    assert "1 of 1 labels in fix.csv" in data.notes[-1]


def test_other_columns_and_another_order_are_read(folder: Path) -> None:
    data = load(folder, "9,0,cat,a.jpg\n", header="seconds,value,class,image")
    assert data.targets_NC[0].tolist() == [0, 0]


def test_a_label_that_was_unknown_may_be_known(folder: Path) -> None:
    (folder / "l.csv").write_text("image,cat,dog\na.jpg,1,-1\nb.jpg,0,1\n")
    data = load(folder, "a.jpg,dog,1\n", layout="uncertain")
    assert data.targets_NC.tolist() == [[1, 1], [0, 1]] and data.unknown_NC is None


def test_what_is_said_of_a_class_that_is_left_out_is_skipped(folder: Path) -> None:
    data = load(folder, "a.jpg,dog,1\na.jpg,cat,0\n", classes="cat")
    assert data.targets_NC[:, 0].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("a.jpg,cat,1\nx.jpg,cat,1\n", "line 3: no image is named 'x.jpg'"),
        ("a.jpg,cow,1\n", "line 2: no class is named 'cow'"),
        ("a.jpg,cat,yes\n", "line 2: 'yes' is none of 1, 0, unknown, given"),
    ],
)
def test_what_there_is_not_is_one_line(folder: Path, lines: str, says: str) -> None:
    with pytest.raises(GrigriError, match=r"^--corrections .*fix\.csv " + says):
        load(folder, lines)


def test_a_table_of_something_else_is_one_line(folder: Path) -> None:
    with pytest.raises(GrigriError, match="expected the columns image, class, value; it has a, b"):
        load(folder, "1,2\n", header="a,b")

from dataclasses import replace
from pathlib import Path

import pytest
from label_samples import ROBOFLOW

from grigri_fast.data.layouts import LabelOptions, read_labels
from grigri_fast.errors import GrigriError


def test_the_parts(tmp_path: Path) -> None:
    labels = read_labels(ROBOFLOW.write(tmp_path), LabelOptions())
    assert labels.names == [
        "train/a_jpg.rf.11.jpg",
        "train/b_jpg.rf.12.jpg",
        "valid/a_jpg.rf.21.jpg",
        "test/c_jpg.rf.31.jpg",
    ]
    assert all(path.is_file() for path in labels.paths)
    assert labels.class_names == ["cat", "dog", "date"]  # all columns are classes, also this one
    assert labels.labels == [["cat"], ["cat", "dog", "date"], [], ["dog"]]
    assert labels.parts == ["train", "train", "val", "test"]


def test_one_part_is_no_split(tmp_path: Path) -> None:
    train = {"train/_classes.csv": ROBOFLOW.files["train/_classes.csv"]}
    data = replace(ROBOFLOW, files=train).write(tmp_path)
    labels = read_labels(data, LabelOptions())
    assert labels.parts is None and "only train/ is here, 2 images" in labels.notes
    inner = read_labels(data / "train", LabelOptions())
    assert inner.names == ["a_jpg.rf.11.jpg", "b_jpg.rf.12.jpg"]
    assert inner.labels == labels.labels


def test_unlabeled_is_no_class(tmp_path: Path) -> None:
    file = tmp_path / "_classes.csv"
    file.write_text("filename, cat, dog, Unlabeled\na.jpg, 1, 0, 0\nb.jpg, 0, 0, 1\n")
    labels = read_labels(tmp_path, LabelOptions())
    assert labels.class_names == ["cat", "dog"] and labels.labels == [["cat"], []]
    assert "the column 'Unlabeled' means that an image has no label" in labels.notes
    file.write_text("filename, cat, dog, Unlabeled\na.jpg, 1, 0, 1\nb.jpg, 0, 0, 1\n")
    refused(tmp_path, "line 2: 'Unlabeled' and 'cat' at once")


def refused(data: Path, says: str, **how) -> None:
    with pytest.raises(GrigriError) as error:
        read_labels(data, LabelOptions(**how))
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "old, new, says",
    [
        (" dog", " bird", "the class 'bird' is in valid and not in train"),
        (", date", "", "4 cells where the header has 3"),
        (" 0", " 2", "line 2, column 'cat': '2' is neither 0 nor 1"),
        (" 0", "", "line 2, column 'cat': '' is neither 0 nor 1"),
        ("filename", "name", "the first column is 'name', not 'filename'"),
        ("cat, dog", "cat, cat", "the column 'cat' stands there twice"),
        ("a_jpg", "\0", "not a text file"),
    ],
)
def test_wrong_tables(tmp_path: Path, old: str, new: str, says: str) -> None:
    name = "valid/_classes.csv"
    text = ROBOFLOW.files[name].replace(old, new, 1)
    refused(replace(ROBOFLOW, files={**ROBOFLOW.files, name: text}).write(tmp_path), says)


def test_what_is_wrong_as_a_whole(tmp_path: Path) -> None:
    data = ROBOFLOW.write(tmp_path)
    refused(data, "--label-columns does not go with Roboflow", label_columns=("cat",))
    (data / "val").mkdir()
    (data / "val" / "_classes.csv").write_text(ROBOFLOW.files["valid/_classes.csv"])
    refused(data, "the folders val and valid are both 'val'")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no _classes.csv here or in train, valid", layout="roboflow")

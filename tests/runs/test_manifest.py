from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grigri_fast.data.dataset import Dataset
from grigri_fast.errors import GrigriError
from grigri_fast.runs import manifest

NAMES = ["a.jpg", "b.jpg", "é.jpg", "d.jpg"]
CLASSES = ["cat", "dog"]
LABELS = [[1, 0], [0, 0], [1, 1], [0, 1]]
SUMS = [11, 22, 33, -1]  # of the last one nobody knows


def data_of(names: list = NAMES, labels: list = LABELS, classes: list = CLASSES) -> Dataset:
    targets_NC = np.array(labels, dtype=np.float32)
    return Dataset(list(names), [Path(n) for n in names], targets_NC, list(classes), "photos")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.json"
    path.write_text(manifest.to_json(data_of(), np.array(SUMS)))
    return path


def test_the_same_data_passes(file: Path) -> None:
    manifest.require_same(file, data_of(), np.array(SUMS))
    manifest.require_same(file, data_of())
    manifest.require_same(file, data_of(), np.array([11, -1, -1, 44]))


CHANGES = {
    "added": ([*NAMES, "e.jpg", "f.jpg"], [*LABELS, [0, 0], [0, 0]], "e.jpg, f.jpg added"),
    "removed": (NAMES[1:], LABELS[1:], "a.jpg removed"),
    "renamed": (["x.jpg", *NAMES[1:]], LABELS, "x.jpg added, a.jpg removed"),
    "reordered": (
        ["a.jpg", "é.jpg", "b.jpg", "d.jpg"],
        [LABELS[i] for i in (0, 2, 1, 3)],
        "the order of the images has changed: number 2 was b.jpg, is é.jpg",
    ),
    "relabelled": (
        NAMES,
        [[1, 0], [0, 1], [0, 0], [0, 1]],
        "b.jpg (from no label to dog), é.jpg (from cat+dog to no label) relabelled",
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_difference_is_named(file: Path, kind: str) -> None:
    names, labels, says = CHANGES[kind]
    with pytest.raises(GrigriError) as error:
        manifest.require_same(file, data_of(names, labels))
    assert f"photos is not what this run was trained on: {says}; " in str(error.value)


def test_other_classes_are_named(file: Path) -> None:
    with pytest.raises(GrigriError, match="the classes were cat, dog and are cat, cow"):
        manifest.require_same(file, data_of(classes=["cat", "cow"]))


def test_other_content_is_named(file: Path) -> None:
    with pytest.raises(GrigriError, match=r"the content of b\.jpg changed"):
        manifest.require_same(file, data_of(), np.array([11, 23, 33, 5]))


def test_a_long_list_is_counted(file: Path) -> None:
    names = [*NAMES, *(f"{i}.jpg" for i in range(10))]
    with pytest.raises(GrigriError, match=r"0\.jpg, 1\.jpg, 2\.jpg and 7 more added"):
        manifest.require_same(file, data_of(names, [*LABELS, *[[0, 0]] * 10]))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": 1}', '{"format": "grigri-fast data 1"}', "[" * 9999]
)
def test_a_damaged_file_is_said_to_be_one(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(GrigriError, match=r"data\.json: not written by grigri-fast"):
        manifest.require_same(file, data_of())
    file.unlink()
    with pytest.raises(GrigriError, match=r"data\.json: No such file"):
        manifest.require_same(file, data_of())


def test_unknown_labels_are_stored_and_compared(tmp_path: Path) -> None:
    unknown_NC = np.zeros((4, 2), dtype=bool)
    unknown_NC[1, 0] = True
    data, file = replace(data_of(), unknown_NC=unknown_NC), tmp_path / "data.json"
    file.write_text(manifest.to_json(data, np.array(SUMS)))
    assert '"grigri-fast data 2"' in file.read_text()
    assert manifest.difference(file, data, np.array(SUMS)) == ""
    assert manifest.difference(file, data_of()) == "b.jpg (from cat? to no label) relabelled"
    assert manifest.checksums(file) == {11, 22, 33}


def test_where_all_is_known_the_file_is_as_it_always_was() -> None:
    text = manifest.to_json(data_of(), np.array(SUMS))
    assert '"grigri-fast data 1"' in text and '\n["a.jpg", [0], 11],\n' in text

"""What a run was trained on, found again by name and by content."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_set import labelled

from grigri_fast.errors import GrigriError
from grigri_fast.runs import manifest, run_folder
from grigri_fast.runs.trained_on import TrainedOn
from grigri_fast.training import checkpointer

SUMS = [11, 22, 33, 44, -1]
PARTS = {"train": ["im1.jpg", "im2.jpg"], "val": ["im3.jpg", "im5.jpg"]}


def data_of(names: list[str]):
    targets_NC = np.ones((len(names), 1), dtype=bool)
    data = labelled(targets_NC)
    data.names[:] = names
    return data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = data_of([f"im{n}.jpg" for n in range(1, 6)])
    (tmp_path / run_folder.DATA).write_text(manifest.to_json(data, np.array(SUMS)))
    (tmp_path / run_folder.SPLIT).write_text(json.dumps({"parts": PARTS}))
    return tmp_path


def test_images_of_a_part_are_known_by_their_checksum(folder: Path) -> None:
    found = TrainedOn.read(folder)
    crc32_N = np.array([22, 33, 99, -1, 44])
    assert found.has_seen(crc32_N).tolist() == [True, False, False, False, False]
    assert found.chose_by(crc32_N).tolist() == [False, True, False, False, False]


def test_what_the_first_weights_were_trained_on_is_seen_too(folder: Path) -> None:
    """Also by the run before that one."""
    data = data_of([f"im{n}.jpg" for n in range(1, 6)])
    text = manifest.to_json(data, np.array(SUMS), before=[77, 66])
    (folder / run_folder.DATA).write_text(text)
    assert manifest.difference(folder / run_folder.DATA, data, np.array(SUMS)) == ""
    (folder / "last.safetensors").touch()
    before = checkpointer._seen_before(folder / "last.safetensors")
    assert before == {11, 22, 66, 77}
    assert TrainedOn.read(folder).has_seen(np.array([66, 11, 33])).tolist() == [True, True, False]
    assert checkpointer._seen_before("imagenet") == checkpointer._seen_before("none") == frozenset()


def test_a_run_without_a_manifest_does_not_say(folder: Path) -> None:
    (folder / run_folder.DATA).unlink()
    assert TrainedOn.read(folder) is None


def test_a_part_is_found_by_name_without_reading_a_file(folder: Path) -> None:
    def read(rows: np.ndarray) -> np.ndarray:
        raise AssertionError("nothing is to be read")

    found = TrainedOn.read(folder)
    rows, gone = found.find("val", data_of(["im5.jpg", "x.jpg", "im3.jpg"]), read)
    assert rows.tolist() == [0, 2] and gone == []


def test_a_part_is_found_by_content_where_names_differ(folder: Path) -> None:
    found, asked = TrainedOn.read(folder), []

    def read(rows: np.ndarray) -> np.ndarray:
        asked.append(rows.tolist())
        return np.array([11, 33])

    rows, gone = found.find("val", data_of(["a.jpg", "im5.jpg", "b.jpg"]), read)
    assert (rows.tolist(), gone, asked) == ([1, 2], [], [[0, 2]])
    rows, gone = found.find("val", data_of(["a.jpg", "b.jpg"]), read)
    assert (rows.tolist(), gone) == ([1], ["im5.jpg"])  # whose content nobody knows


def test_other_data_and_other_parts_are_refused(folder: Path) -> None:
    found = TrainedOn.read(folder)
    with pytest.raises(GrigriError, match="no image of the run's val part is there, neither"):
        found.find("val", data_of(["a.jpg"]), lambda rows: np.array([99]))
    with pytest.raises(GrigriError, match="has no test part, only train, val"):
        found.find("test", data_of(["a.jpg"]), lambda rows: np.array([99]))

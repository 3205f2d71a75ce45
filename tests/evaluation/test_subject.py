"""What is scored of a run's own and of other data: no image that it was trained on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_set import CLASSES

from grigri_fast.data import dataset, split
from grigri_fast.errors import GrigriError
from grigri_fast.evaluation import subject
from grigri_fast.evaluation.subject import Subject
from grigri_fast.pipeline import check
from grigri_fast.runs import manifest, run_folder
from grigri_fast.runtime.compute import Compute

MAX_PIXELS = 10**6
NAMES = list(CLASSES)


@pytest.fixture
def folder(photos: Path, tmp_path: Path) -> Path:
    """Return what a run on the small data set knows of it."""
    data = dataset.load(photos)
    crc32_N = check.check_images(data.paths, threads=1, max_pixels=MAX_PIXELS).crc32_N
    run = tmp_path / "run"
    run.mkdir()
    (run / run_folder.CONFIG).write_text(f'data = "{photos}"\n')
    parts = split.stratify(data, 0.25, 0.25, 0)
    (run / run_folder.SPLIT).write_text(split.to_json(parts, data))
    (run / run_folder.DATA).write_text(manifest.to_json(data, crc32_N))
    return run


def choose(folder: Path, part=None, data=None, checkpoint="last", names=NAMES) -> Subject:
    return subject.choose(
        folder,
        part,
        data,
        class_names=names,
        checkpoint=checkpoint,
        compute=Compute.resolve("cpu", "fp32", 1),
        max_pixels=MAX_PIXELS,
    )


def parts_of(folder: Path) -> dict[str, list[str]]:
    return json.loads((folder / run_folder.SPLIT).read_text())["parts"]


def test_the_parts_of_a_runs_own_data(folder: Path) -> None:
    for part, exposure in ((None, "unseen"), ("test", "unseen"), ("train", "seen")):
        found = choose(folder, part)
        names = [found.data.names[row] for row in found.rows]
        assert names == sorted(parts_of(folder)[part or "val"], key=found.data.names.index)
        assert (found.exposure, len(found.seen), found.missing) == (exposure, 0, [])
        assert found.unknown_NC is None


def test_a_copy_of_a_training_image_is_left_out_of_the_val_part(folder: Path, photos: Path) -> None:
    parts = parts_of(folder)
    shutil.copy(photos / "images" / parts["train"][0], photos / "images" / parts["val"][0])
    found = choose(folder)
    assert [found.data.names[row] for row in found.seen] == [parts["val"][0]]
    assert len(found.rows) == len(parts["val"]) - 1 and found.exposure == "unseen"


def test_all_of_other_data_but_what_the_run_was_trained_on(folder: Path, photos: Path) -> None:
    found = choose(folder, data=dataset.load(photos))
    assert {found.data.names[row] for row in found.seen} == {*parts_of(folder)["train"]}
    assert len(found.rows) == 24 and found.exposure == "unseen"
    only = dataset.load(photos)
    rows = np.array([only.names.index(name) for name in parts_of(folder)["train"]])
    everything_seen = choose(folder, data=only.only(rows))
    assert (everything_seen.exposure, len(everything_seen.rows)) == ("seen", 24)


def test_the_best_epoch_was_chosen_by_the_val_part(folder: Path, photos: Path) -> None:
    for part, data, exposure in (
        (None, None, "chosen"),
        ("test", None, "unseen"),
        ("train", None, "seen"),
        (None, dataset.load(photos), "chosen"),
    ):
        assert choose(folder, part, data, "best").exposure == exposure


def test_a_run_without_a_manifest_is_never_honest(folder: Path) -> None:
    (folder / run_folder.DATA).unlink()
    assert choose(folder).exposure == "unknown"
    with pytest.raises(GrigriError, match=r"--part val: .* has no data.json to find it by"):
        choose(folder, "val", dataset.load(str(folder.parent / "photos")))


def test_classes_stand_where_the_model_has_them(folder: Path, photos: Path) -> None:
    plain = dataset.load(photos)
    found = choose(folder, names=["sky", "lion", "cat", "dog"])
    assert (found.targets_NC[:, [2, 3, 0]] == plain.targets_NC).all()
    assert found.missing == ["lion"] and found.unknown_NC[:, 1].all()
    assert found.unknown_NC.sum() == 48
    unknown_NC = np.zeros((48, 3), dtype=bool)
    unknown_NC[5, 1] = True
    found = choose(folder, data=replace(plain, unknown_NC=unknown_NC))
    assert np.array_equal(found.unknown_NC, unknown_NC) and not found.missing
    with pytest.raises(GrigriError, match="the model does not know the class 'dog' and 1 more"):
        choose(folder, names=["cat"])

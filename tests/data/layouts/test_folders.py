"""Class folders: what counts for which class, what is left out, and what is no class folder."""

from pathlib import Path

import pytest

from grigri_fast.data import dataset
from grigri_fast.errors import GrigriError


def touch(folder: Path, *names: str) -> None:
    """Make files, each with its own name as content."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def labels_of(data: dataset.Dataset) -> dict[str, str]:
    return {
        name: "+".join(c for c, yes in zip(data.class_names, row, strict=True) if yes)
        for name, row in zip(data.names, data.targets_NC, strict=True)
    }


def test_hidden_and_system_folders_are_no_classes(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", "dog/b.jpg", "cat/._a.jpg", "cat/Thumbs.db", "cat/c.gif")
    for folder in (".ipynb_checkpoints", "@eaDir", "__MACOSX", "$RECYCLE.BIN", "#recycle"):
        touch(tmp_path, f"{folder}/x.jpg")
    data = dataset.load(tmp_path)
    assert labels_of(data) == {"a.jpg": "cat", "b.jpg": "dog"}
    (note,) = [note for note in data.notes if note.startswith("left out")]
    assert "2 hidden" in note and "5 system" in note and "1 .gif" in note


def test_folders_within_a_class_folder_belong_to_it(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", "cat/holiday/b.jpg", "bird/2024/may/c.jpg", "d.jpg", "empty/x.txt")
    (tmp_path / "empty" / "x.txt").unlink()
    data = dataset.load(tmp_path)
    assert labels_of(data) == {"a.jpg": "cat", "b.jpg": "cat", "c.jpg": "bird", "d.jpg": ""}
    assert data.notes[0].startswith("2 images are in folders within class folders (bird/2024/may/")
    assert "1 images beside the class folders have no label" in data.notes
    assert "no images, so no class: empty/" in data.notes


def test_class_folders_within_train_and_val(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg", "validation/cat/a.jpg", "stray.jpg")
    data = dataset.load(tmp_path)
    assert labels_of(data) == {"train/a.jpg": "cat", "train/b.jpg": "dog", "val/a.jpg": "cat"}
    assert data.parts == ["train", "train", "val"]
    assert "left out: 1 images beside the folders of the parts" in data.notes


def test_one_name_in_two_folders(tmp_path: Path) -> None:
    """One image with two labels, or two images? The user says."""
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
    with pytest.raises(GrigriError, match="--layout single-label-folders"):
        dataset.load(tmp_path)
    two = dataset.load(tmp_path, layout="single-label-folders")
    assert labels_of(two) == {"cat/1.jpg": "cat", "dog/1.jpg": "dog"}
    (tmp_path / "dog/1.jpg").write_bytes((tmp_path / "cat/1.jpg").read_bytes())
    assert labels_of(dataset.load(tmp_path)) == {"1.jpg": "cat+dog"}


@pytest.mark.parametrize(
    "files, says",
    [
        (["JPEGImages/a.jpg", "SegmentationClass/a.png"], "'JPEGImages' is no class"),
        (["images/a.jpg", "masks/a.png"], "'images' is no class"),
        (["leftImg8bit/a.png", "gtFine/a.png"], "is no class"),
        (["image_2/a.png", "label_2/a.txt"], "is no class"),
        (["cat/a.jpg", "dog/b.jpg", "Annotations/a.xml"], "'Annotations' is no class"),
        (["set1/a.jpg", "set2/b.jpg", "boxes_v2/a.json"], "'boxes_v2/a.json'"),
        (["photos/a.jpg"], "'photos' is the only folder of images"),
        (["set/cat/a.jpg", "set/dog/b.jpg"], "set if the class folders are in it"),
        (["2023/a.jpg", "2024/b.jpg"], "look like dates"),
        (["2023-05/a.jpg", "2024-06-01/b.jpg"], "look like dates"),
        (["100CANON/a.jpg", "101CANON/b.jpg"], "look like dates"),
        (["x/a.jpg", "x/a.txt", "y/b.jpg", "y/b.txt"], "x/ has a label file beside each image"),
        (["x/a.jpg", "x/a.xml", "y/b.jpg"], "x/ has a label file beside each image"),
        (["train/cat/a.jpg", "extra/b.jpg"], "train/ is a part of a split and extra/ is none"),
        (["train/a.jpg", "val/b.jpg"], "which are no classes"),
        (["test/c/a.gif"], "no class folders"),
        (["a.gif", "b.heif2"], "no images (skipped:"),
    ],
    ids=str,
)
def test_folders_that_may_be_no_classes(tmp_path: Path, files: list[str], says: str) -> None:
    touch(tmp_path, *files)
    if "boxes_v2" in says:
        says = "boxes_v2/ has files of labels"
    with pytest.raises(GrigriError) as error:
        dataset.load(tmp_path)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_the_user_may_insist(tmp_path: Path) -> None:
    touch(tmp_path, "2023/a.jpg", "2024/b.jpg", "masks/c.jpg", "train/d.jpg")
    data = dataset.load(tmp_path, layout="class-folders")
    assert data.class_names == ["2023", "2024", "masks", "train"]

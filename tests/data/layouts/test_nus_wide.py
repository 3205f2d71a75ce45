import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from grigri_fast.data.layouts import LabelOptions, nus_wide
from grigri_fast.errors import GrigriError

# As the makers write them, line ends of Windows included; two classes of the 81.
FILES = {
    "ImageList/Imagelist.txt": "actor\\0001_21.jpg\r\nactor\\0002_17.jpg\r\nzebra\\0001_99.jpg\r\n",
    "ImageList/TrainImagelist.txt": "zebra\\0001_99.jpg\nactor\\0001_21.jpg\n",
    "ImageList/TestImagelist.txt": "actor\\0002_17.jpg\n",
    "Groundtruth/AllLabels/Labels_sky.txt": "1\n0\n1\n",
    "Groundtruth/AllLabels/Labels_zebra.txt": "0\n0\n1\n",
    "Groundtruth/TrainTestLabels/Labels_sky_Train.txt": "1\n1\n",
    "Groundtruth/TrainTestLabels/Labels_sky_Test.txt": "0\n",
    "Groundtruth/TrainTestLabels/Labels_zebra_Train.txt": "1\n0\n",
    "Groundtruth/TrainTestLabels/Labels_zebra_Test.txt": "0\n",
    "ConceptsList/Concepts81.txt": "sky\nzebra\n",
}
NAMES = ["actor/0001_21.jpg", "actor/0002_17.jpg", "zebra/0001_99.jpg"]
LABELS = [["sky"], [], ["sky", "zebra"]]


def unpacked(folder: Path) -> Path:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    return folder


def test_as_it_is_unpacked(tmp_path: Path) -> None:
    unpacked(tmp_path)
    (tmp_path / "Flickr" / "zebra").mkdir(parents=True)
    (tmp_path / "Flickr" / "zebra" / "0001_99.jpg").touch()
    assert nus_wide.is_here(tmp_path)
    labels = nus_wide.read(tmp_path, LabelOptions())
    assert labels.names == NAMES and labels.labels == LABELS
    assert labels.class_names == ["sky", "zebra"]
    assert labels.parts == ["train", "test", "train"]
    assert labels.paths == [tmp_path / "Flickr" / name for name in NAMES]
    assert labels.notes == [
        "3 images, 2 classes, labels from Groundtruth/AllLabels/",
    ]


def test_labels_of_the_parts(tmp_path: Path) -> None:
    data = unpacked(tmp_path / "NUS-WIDE")
    whole = nus_wide.read(tmp_path, LabelOptions())
    shutil.rmtree(data / "Groundtruth" / "AllLabels")
    (data / "ImageList" / "Imagelist.txt").unlink()
    assert nus_wide.is_here(tmp_path)
    labels = nus_wide.read(tmp_path, LabelOptions())
    assert labels.class_names == ["sky", "zebra"]
    assert labels.parts == ["train", "train", "test"]
    by_name = dict(zip(labels.names, labels.labels, strict=True))
    assert by_name == dict(zip(whole.names, whole.labels, strict=True))


def test_images_all_in_one_folder(tmp_path: Path) -> None:
    unpacked(tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    (images / "0002_17.jpg").touch()
    labels = nus_wide.read(tmp_path, LabelOptions())
    assert labels.names == NAMES and labels.paths[2] == images / "0001_99.jpg"
    for name in ("Imagelist", "TestImagelist"):
        file = tmp_path / "ImageList" / f"{name}.txt"
        file.write_text(file.read_text().replace("0002_17", "0001_99"))
    (images / "0001_99.jpg").touch()
    with pytest.raises(GrigriError, match="have one name, and here they are all in one folder"):
        nus_wide.read(tmp_path, LabelOptions())
    elsewhere = nus_wide.read(tmp_path, LabelOptions(images=tmp_path / "x"))
    assert elsewhere.paths[0] == tmp_path / "x" / NAMES[0]


def test_others_are_not_nus_wide(tmp_path: Path) -> None:
    unpacked(tmp_path)
    shutil.rmtree(tmp_path / "Groundtruth")
    assert not nus_wide.is_here(tmp_path)
    assert not nus_wide.is_here(tmp_path / "ImageList" / "Imagelist.txt")


Change = Callable[[Path], object]


def changed(name: str, old: str, new: str) -> Change:
    return lambda data: (data / name).write_text((data / name).read_text().replace(old, new, 1))


def gone(name: str) -> Change:
    return lambda data: shutil.rmtree(data / name) if (data / name).is_dir() else (
        data / name
    ).unlink()  # fmt: skip


ALL = "Groundtruth/AllLabels"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(f"{ALL}/Labels_sky.txt", "1\n0\n", "1\n"), "sky.txt: 2 labels where the list nam"),
        (changed(f"{ALL}/Labels_sky.txt", "0\n", "2\n"), "sky.txt line 2: a label must be 0 or 1"),
        (changed("ImageList/Imagelist.txt", "0002_17", "0001_21"), "line 2: .* stands there twice"),
        (changed("ImageList/Imagelist.txt", "0002_17", "0002_18"), "17.jpg is in a part, but not"),
        (changed("ImageList/TestImagelist.txt", "2_17", "1_21"), "is in both the train and the te"),
        (changed("ImageList/Imagelist.txt", "actor", "\0"), "contains NUL"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, change: Change, message: str) -> None:
    data = unpacked(tmp_path)
    change(data)
    with pytest.raises(GrigriError, match=message) as error:
        nus_wide.read(data, LabelOptions())
    assert str(error.value).startswith(str(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (gone("Groundtruth/TrainTestLabels/Labels_sky_Test.txt"), "the class 'sky' is not in all"),
        (gone("Groundtruth/TrainTestLabels"), "no labels with a list of images"),
        (changed("ImageList/TrainImagelist.txt", "zebra\\0001_99.jpg\n", ""), "2 labels where the"),
    ],
)
def test_wrong_files_of_parts_are_refused(tmp_path: Path, change: Change, message: str) -> None:
    data = unpacked(tmp_path)
    gone(ALL)(data)
    change(data)
    with pytest.raises(GrigriError, match=message):
        nus_wide.read(data, LabelOptions())


def test_what_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GrigriError, match="no NUS-WIDE; expected ImageList"):
        nus_wide.read(tmp_path, LabelOptions())
    for name in ("one", "two"):
        unpacked(tmp_path / name)
    with pytest.raises(GrigriError, match="found one and two; name one of them as DATA"):
        nus_wide.read(tmp_path, LabelOptions())
    with pytest.raises(GrigriError, match="--split-column does not go with NUS-WIDE"):
        nus_wide.read(tmp_path / "one", LabelOptions(split_column="x"))
    (tmp_path / "one" / "ImageList" / "Imagelist.txt").write_text("\n")
    with pytest.raises(GrigriError, match="names no images"):
        nus_wide.read(tmp_path / "one", LabelOptions())

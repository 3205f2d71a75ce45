import shutil
from pathlib import Path

import pytest

from grigri_fast.data.layouts import LabelOptions, yolo
from grigri_fast.errors import GrigriError

# As Ultralytics' coco8.yaml, shortened.
YAML = """# Ultralytics YOLO
path: ../datasets/coco8 # dataset root dir
train: images/train
val: images/val
test: # test images (optional)

names:
  0: person
  1: traffic light
  2: cat
"""
LABELS = {
    "labels/train/a.txt": "2 0.5 0.5 0.25 0.25\n0 0.1 0.1 0.2 0.2\n2 0.3 0.3 0.1 0.1\n",
    "labels/train/b.txt": "",
    "labels/val/d.txt": "1 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n",  # a polygon
}
IMAGES = ["images/train/a.jpg", "images/train/b.png", "images/train/deep/c.jpg", "images/val/d.jpg"]
EXPECTED = [["cat", "person"], [], [], ["traffic light"]]


def write(file: Path, text: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def unpacked(folder: Path) -> Path:
    write(folder / "data.yaml", YAML)
    for name, text in LABELS.items():
        write(folder / name, text)
    for name in IMAGES:
        write(folder / name)
    return folder


@pytest.mark.parametrize("data", [".", "data.yaml"])
def test_as_it_is_unpacked(tmp_path: Path, data: str) -> None:
    unpacked(tmp_path)
    write(tmp_path / "labels" / "val" / "lone.txt", "0 1 1 1 1")
    assert yolo.is_here(tmp_path / data)
    labels = yolo.read(tmp_path / data, LabelOptions())
    assert labels.names == IMAGES and labels.labels == EXPECTED
    assert labels.paths == [tmp_path / name for name in IMAGES]
    assert labels.class_names == ["person", "traffic light", "cat"]
    assert labels.parts == ["train", "train", "train", "val"]
    assert labels.notes == [
        "4 images, with the labels of 4 boxes in 3 files; classes from data.yaml",
        "2 images without a box: no label",
        "left out: 1 label file without an image (lone.txt)",
    ]


def test_roboflow(tmp_path: Path) -> None:
    text = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\n"
    write(tmp_path / "data.yaml", f"{text}names: ['dog', 'cat']\nroboflow:\n  project: pets\n")
    for part in ("train", "valid"):
        write(tmp_path / part / "images" / "a_jpg.rf.0a1b.jpg")
        write(tmp_path / part / "labels" / "a_jpg.rf.0a1b.txt", "1 0.5 0.5 1 1\n")
    labels = yolo.read(tmp_path, LabelOptions())
    assert labels.names == ["train/images/a_jpg.rf.0a1b.jpg", "valid/images/a_jpg.rf.0a1b.jpg"]
    assert labels.labels == [["cat"], ["cat"]] and labels.parts == ["train", "val"]
    assert "left out: the part test, ../test/images is not there" in labels.notes


def test_a_folder_that_was_moved(tmp_path: Path) -> None:
    unpacked(tmp_path)
    text = YAML.replace("../datasets/coco8", "/content/coco8")
    write(tmp_path / "data.yaml", text.replace("images/train", "/content/coco8/images/train"))
    assert yolo.read(tmp_path, LabelOptions()).names == IMAGES


def test_one_folder_for_train_and_val_is_no_split(tmp_path: Path) -> None:
    unpacked(tmp_path)
    write(tmp_path / "data.yaml", YAML.replace("images/val", "images/train"))
    labels = yolo.read(tmp_path, LabelOptions())
    assert labels.names == IMAGES[:3] and labels.parts is None
    assert labels.notes[-1] == "train and val are the same images, so that no split is given"


def test_train_alone(tmp_path: Path) -> None:
    unpacked(tmp_path)
    write(tmp_path / "data.yaml", YAML.replace("val:", "# val:"))
    labels = yolo.read(tmp_path, LabelOptions())
    assert labels.names == IMAGES[:3] and labels.parts is None
    assert labels.notes[-1] == "data.yaml names no val"


def test_lists_of_images(tmp_path: Path) -> None:
    unpacked(tmp_path)
    write(tmp_path / "data.yaml", YAML.replace("images/train", "train.txt"))
    write(tmp_path / "train.txt", "./images/train/a.jpg\nimages/train/b.png\n")
    labels = yolo.read(tmp_path, LabelOptions())
    assert labels.names == [IMAGES[0], IMAGES[1], IMAGES[3]]
    assert labels.labels == [EXPECTED[0], EXPECTED[1], EXPECTED[3]]


def test_classes_txt(tmp_path: Path) -> None:
    unpacked(tmp_path)
    (tmp_path / "data.yaml").unlink()
    assert yolo.is_here(tmp_path)
    with pytest.raises(GrigriError, match=r"write them into classes\.txt, one a line"):
        yolo.read(tmp_path, LabelOptions())
    write(tmp_path / "classes.txt", "person\ntraffic light\ncat\n")
    labels = yolo.read(tmp_path, LabelOptions())
    assert labels.names == IMAGES and labels.labels == EXPECTED
    assert labels.parts == ["train", "train", "train", "val"]


def test_a_test_part_without_labels_is_left_out(tmp_path: Path) -> None:
    unpacked(tmp_path)
    write(tmp_path / "data.yaml", YAML.replace("test:", "test: images/test"))
    write(tmp_path / "images" / "test" / "z.jpg")
    labels = yolo.read(tmp_path, LabelOptions())
    assert labels.names == IMAGES
    assert "left out: the part test, which has no label files" in labels.notes


def test_others_are_not_yolo(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.jpg")
    write(tmp_path / "labels" / "a.txt", "cat\ndog\n")
    write(tmp_path / "conf.yaml", "train: {lr: 1}\n")
    assert not any(yolo.is_here(tmp_path / n) for n in (".", "conf.yaml", "labels/a.txt", "none"))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("data.yaml", YAML.replace("names:", "nams:"), "no names of classes; expected"),
        ("data.yaml", YAML.replace("2: cat", "3: cat"), "names must be numbered from 0 to 2"),
        ("data.yaml", YAML.replace("2: cat", "2: no"), "names must be texts; put them in quotes"),
        ("data.yaml", YAML.replace("2: cat", "2: person"), "two classes are named 'person'"),
        ("data.yaml", YAML + "nc: 4\n", "nc is 4, and there are 3 names"),
        ("data.yaml", YAML.replace("images/val", "images/v"), "val: images/v: no such folder"),
        ("data.yaml", YAML.replace("images/val", "3"), "val: expected the name of an image, not 3"),
        ("data.yaml", "names: [a]\n", "names no folder of train"),
        ("data.yaml", "names: [a\ntrain: b", "not valid YAML"),
        ("data.yaml", "names: " + "[" * 20_000, "so long or nested"),
        ("data.yaml", "- " * 20_000, "so long or nested"),
        ("data.yaml", "names: " + "[" * 400, "not valid YAML"),
        ("data.yaml", YAML.replace("2: cat", "2: !!python/name:os.system cat"), "not valid YAML"),
        ("data.yaml", "a: &a [x]\nnames: *a\ntrain: b", "references"),
        ("data.yaml", YAML.replace("2: cat", "1: cat"), "a key stands twice"),
        ("data.yaml", "- names\n", "not a data.yaml"),
        ("labels/train/a.txt", "3 0.5 0.5 0.1 0.1\n", "line 1: no class has the number 3; data"),
        ("labels/train/a.txt", "-1 0.5 0.5 0.1 0.1\n", "no class has the number -1"),
        ("labels/train/a.txt", "\ncat 0.5 0.5 0.1 0.1\n", "line 2: expected the number of a class"),
        ("labels/train/a.txt", "0 0.5 0.5 0.1\n", "line 1: expected the number of a class and a"),
        ("labels/train/a.txt", "0.5 0.5 0.5 0.1 0.1\n", "line 1: expected the number of a class"),
        ("labels/train/a.txt", "inf 0.5 0.5 0.1 0.1\n", "line 1: expected the number of a class"),
        ("labels/train/a.txt", "\0", "contains NUL"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, file: str, text: str, message: str) -> None:
    data = unpacked(tmp_path)
    write(data / file, text)
    with pytest.raises(GrigriError, match=message) as error:
        yolo.read(data / "data.yaml", LabelOptions())
    assert str(error.value).startswith(str(data / file))


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GrigriError, match=r"no YOLO; expected data\.yaml"):
        yolo.read(tmp_path, LabelOptions())
    data = unpacked(tmp_path)
    with pytest.raises(GrigriError, match="--images does not go with YOLO"):
        yolo.read(data, LabelOptions(images=data))
    write(data / "more.yml", YAML)
    with pytest.raises(GrigriError, match=r"found data\.yaml, more\.yml; name one of them"):
        yolo.read(data, LabelOptions())
    (data / "more.yml").unlink()
    shutil.rmtree(data / "labels" / "val")
    with pytest.raises(GrigriError, match=r"no label file for the images in images/val; expected"):
        yolo.read(data, LabelOptions())
    (data / "images" / "val" / "d.jpg").unlink()
    with pytest.raises(GrigriError, match="no images in images/val"):
        yolo.read(data, LabelOptions())

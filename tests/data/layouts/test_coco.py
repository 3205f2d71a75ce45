import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grigri_fast.data.layouts import LabelOptions, coco
from grigri_fast.errors import GrigriError

# As the makers write them, with three images and two categories of the 80.
TRAIN = {
    "info": {"description": "COCO 2017 Dataset", "year": 2017},
    "licenses": [{"id": 1, "name": "Attribution"}],
    "images": [
        {"license": 1, "file_name": "000000391895.jpg", "height": 360, "width": 640, "id": 391895},
        {"license": 1, "file_name": "000000522418.jpg", "height": 480, "width": 640, "id": 522418},
        {"license": 1, "file_name": "000000184613.jpg", "height": 336, "width": 500, "id": 184613},
    ],
    "annotations": [
        {"image_id": 391895, "bbox": [1, 2, 3, 4], "category_id": 18, "iscrowd": 0, "id": 1},
        {"image_id": 391895, "bbox": [1, 2, 3, 4], "category_id": 1, "iscrowd": 1, "id": 2},
        {"image_id": 391895, "bbox": [5, 2, 3, 4], "category_id": 18, "iscrowd": 0, "id": 3},
        {"image_id": 184613, "bbox": [5, 2, 3, 4], "category_id": 1, "iscrowd": 0, "id": 4},
    ],
    "categories": [
        {"supercategory": "person", "id": 1, "name": "person"},
        {"supercategory": "animal", "id": 18, "name": "dog"},
    ],
}
VAL = {
    **TRAIN,
    "images": [{"file_name": "000000397133.jpg", "id": 397133}],
    "annotations": [{"image_id": 397133, "category_id": 1, "iscrowd": 0, "id": 9}],
}
NAMES = ["000000391895.jpg", "000000522418.jpg", "000000184613.jpg"]
LABELS = [["dog", "person"], [], ["person"]]


def write(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def unpacked(folder: Path) -> Path:
    """Write COCO 2017 as it is unpacked."""
    write(folder / "annotations" / "instances_train2017.json", TRAIN)
    write(folder / "annotations" / "instances_val2017.json", VAL)
    write(folder / "annotations" / "captions_val2017.json", {"images": [], "annotations": []})
    for name in NAMES:
        (folder / "train2017").mkdir(exist_ok=True)
        (folder / "train2017" / name).touch()
    return folder


def test_as_it_is_unpacked(tmp_path: Path) -> None:
    data = unpacked(tmp_path)
    assert coco.is_here(data)
    labels = coco.read(data, LabelOptions())
    assert labels.names == [*(f"train2017/{name}" for name in NAMES), "val2017/000000397133.jpg"]
    assert labels.paths == [tmp_path / name for name in labels.names]
    assert labels.labels == [*LABELS, ["person"]]
    assert labels.class_names == ["person", "dog"]
    assert labels.parts == ["train", "train", "train", "val"]
    assert labels.unknown is None and labels.groups is None
    assert labels.notes == [
        "instances_train2017.json: 3 images in train2017/, 4 boxes (1 around crowds)",
        "instances_val2017.json: 1 image in val2017/, 1 box",
        "1 image without a box: no label",
        "captions_val2017.json: not read, no boxes of objects",
    ]


def test_one_file(tmp_path: Path) -> None:
    file = unpacked(tmp_path) / "annotations" / "instances_train2017.json"
    assert coco.is_here(file)
    labels = coco.read(file, LabelOptions())
    assert labels.names == NAMES and labels.labels == LABELS and labels.parts is None
    assert labels.paths[0] == tmp_path / "train2017" / NAMES[0]


@pytest.mark.parametrize("where", ["images", "images/default", ".", "data"])
def test_the_folder_of_the_images_is_found(tmp_path: Path, where: str) -> None:
    write(tmp_path / "data" / "annotations" / "instances_default.json", TRAIN)
    folder = tmp_path / "data" / where
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAMES[1]).touch()
    labels = coco.read(tmp_path / "data", LabelOptions())
    assert labels.names == NAMES
    assert labels.paths[0].resolve() == (folder / NAMES[0]).resolve()
    elsewhere = coco.read(tmp_path / "data", LabelOptions(images=tmp_path))
    assert elsewhere.paths[0] == tmp_path / NAMES[0]


def test_numbers_of_pandas(tmp_path: Path) -> None:
    boxes = [{**box, "image_id": float(box["image_id"])} for box in TRAIN["annotations"]]
    write(tmp_path / "a.json", {**TRAIN, "annotations": boxes})
    assert coco.read(tmp_path, LabelOptions()).labels == LABELS


def test_label_studios_names(tmp_path: Path) -> None:
    images = [{"id": 0, "file_name": "images\\1f-a.jpg"}, {"id": 1, "file_name": "images/b.jpg"}]
    write(tmp_path / "result.json", {**TRAIN, "images": images, "annotations": []})
    assert coco.read(tmp_path, LabelOptions()).paths == [
        tmp_path / "images" / "1f-a.jpg",
        tmp_path / "images" / "b.jpg",
    ]


def test_roboflow(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "pets"},
        {"id": 18, "name": "pets", "supercategory": "pets"},
    ]
    for part, content in (("train", TRAIN), ("valid", TRAIN)):
        boxes = [{**box, "category_id": 18} for box in content["annotations"]]
        content = {**content, "categories": categories, "annotations": boxes}
        write(tmp_path / part / "_annotations.coco.json", content)
        (tmp_path / part / NAMES[0]).touch()
    assert coco.is_here(tmp_path)
    labels = coco.read(tmp_path, LabelOptions())
    assert labels.class_names == ["cat", "pets"]
    assert labels.labels == [["pets"], [], ["pets"]] * 2
    assert labels.parts == ["train"] * 3 + ["val"] * 3
    assert labels.paths[3] == tmp_path / "valid" / NAMES[0]


@pytest.mark.parametrize(
    "text",
    [
        '[{"images": [], "annotations": [], "categories": []}]',
        '{"images": "a", "annotations": [1], "x": []}',
        "",
        "images,annotations,categories\n",
    ],
)
def test_other_files_are_not_coco(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    assert not coco.is_here(file) and not coco.is_here(tmp_path)
    assert not coco.is_here(tmp_path / "none")


def test_a_large_file_is_known_by_its_ends(tmp_path: Path) -> None:
    filler = {"info": "x" * 200_000}
    file = write(tmp_path / "a.json", {"images": [], **filler, "annotations": [], "categories": []})
    assert coco.is_here(file)


def changed(change: Callable[[dict[str, Any]], Any]) -> Any:
    content = json.loads(json.dumps(TRAIN))
    return change(content) or content


WRONG: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("no top", lambda c: [c], "not COCO; expected"),
    ("captions", lambda c: c.pop("categories") and c, "nothing named 'categories'"),
    ("no list", lambda c: c.update(images={}), "no list named 'images'"),
    ("no images", lambda c: c.update(images=[], annotations=[]), "no images"),
    ("no categories", lambda c: c.update(categories=[]), "no categories"),
    ("id twice", lambda c: c["images"][1].update(id=391895), r"images\[1\]: the id 391895 stands"),
    (
        "name twice",
        lambda c: c["images"][1].update(file_name="./000000391895.jpg"),
        r"images\[1\]: 000000391895.jpg was in .*images\[0\] already",
    ),
    ("image without name", lambda c: c["images"][2].pop("file_name") and c, "no file_name"),
    ("name no text", lambda c: c["images"][2].update(file_name=7), "expected the name of an image"),
    ("image no object", lambda c: c["images"].append("a.jpg"), r"images\[3\]: no id"),
    ("unknown image", lambda c: c["annotations"][1].update(image_id=5), "no image has the id 5"),
    (
        "unknown category",
        lambda c: c["annotations"][1].update(category_id=2),
        r"annotations\[1\]: no category has the id 2",
    ),
    ("list as id", lambda c: c["annotations"][1].update(category_id=[1]), "no category_id"),
    ("category twice", lambda c: c["categories"][1].update(id=1), r"categories\[1\]: the id 1"),
    ("same names", lambda c: c["categories"][1].update(name="person"), "both named 'person'"),
    ("class no text", lambda c: c["categories"][1].update(name=None), "the name of a class"),
    ("keypoints", lambda c: c["categories"][0].update(keypoints=["nose"]), "a file of keypoints"),
    ("LVIS", lambda c: c["images"][0].update(neg_category_ids=[1]), "LVIS"),
]


@pytest.mark.parametrize(("change", "message"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_wrong_files_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    file = write(tmp_path / "instances_default.json", changed(change))
    with pytest.raises(GrigriError, match=message) as error:
        coco.read(file, LabelOptions())
    assert str(error.value).startswith(str(file))


def test_a_part_without_boxes(tmp_path: Path) -> None:
    data = unpacked(tmp_path)
    write(data / "annotations" / "instances_test2017.json", {**TRAIN, "annotations": []})
    labels = coco.read(data, LabelOptions())
    assert len(labels.names) == 4
    assert "left out: instances_test2017.json, which has no boxes" in labels.notes
    write(data / "annotations" / "instances_val2017.json", {**TRAIN, "annotations": []})
    with pytest.raises(GrigriError, match=r"instances_val2017\.json: 3 images and no boxes"):
        coco.read(data, LabelOptions())


def test_a_damaged_part_is_not_overlooked(tmp_path: Path) -> None:
    file = unpacked(tmp_path) / "annotations" / "instances_val2017.json"
    file.write_text(file.read_text()[:20])
    with pytest.raises(GrigriError, match=r"instances_val2017.json: not valid JSON"):
        coco.read(tmp_path, LabelOptions())


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["instances_train2014.json"], "not one train, val and test part each; name one"),
        (["instances_minival2017.json"], "not one train, val and test part each; name one"),
        (["mine.json"], "not one train, val and test part each; name one"),
    ],
)
def test_ambiguous_folders_are_refused(tmp_path: Path, others: list[str], message: str) -> None:
    data = unpacked(tmp_path)
    for name in others:
        write(data / "annotations" / name, TRAIN)
    with pytest.raises(GrigriError, match=message):
        coco.read(data, LabelOptions())


def test_folders_without_boxes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GrigriError, match="no COCO file; expected a JSON file"):
        coco.read(tmp_path, LabelOptions())
    captions = {"images": TRAIN["images"], "annotations": [{"image_id": 391895, "caption": "x"}]}
    for part in ("train", "val"):
        write(tmp_path / "annotations" / f"captions_{part}2017.json", captions)
    assert coco.is_here(tmp_path)
    with pytest.raises(GrigriError, match=r"only captions_train2017\.json, captions_val2017\.json"):
        coco.read(tmp_path, LabelOptions())
    with pytest.raises(GrigriError, match="--separator does not go with COCO"):
        coco.read(tmp_path, LabelOptions(separator="|"))

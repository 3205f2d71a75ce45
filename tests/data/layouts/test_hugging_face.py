import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from small_set import write_image

from grigri_fast.data.layouts import LabelOptions, hugging_face, hugging_face_files
from grigri_fast.errors import GrigriError

CLASSES = {"names": ["cat", "dog", "sky"], "_type": "ClassLabel"}
# As datasets 5 writes them; older versions say Sequence, or write a list of one.
FEATURES = {"image": {"_type": "Image"}, "labels": {"feature": CLASSES, "_type": "List"}}
OF_IMAGE = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
TRAIN: list[Any] = [[0, 1], [], [2]]
VAL: list[Any] = [[0, 2]]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def table(
    folder: Path, labels: list[Any], features: Any = FEATURES, kind: Any = None, **columns: Any
) -> Any:
    """Return a table of images, within it, with their labels."""
    images = []
    for row in range(len(labels)):
        write_image(folder / "photo.jpg", row)
        images.append({"bytes": (folder / "photo.jpg").read_bytes(), "path": f"im{row}.jpg"})
        (folder / "photo.jpg").unlink()
    kind = kind or pyarrow.list_(pyarrow.int64())
    found = pyarrow.table(
        {"image": pyarrow.array(images, OF_IMAGE), "labels": pyarrow.array(labels, kind), **columns}
    )
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features else {}
    return found.replace_schema_metadata(metadata)


def save(folder: Path, shards: list[Any], features: Any = FEATURES) -> Path:
    """Write what save_to_disk writes."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{n:05}-of-{len(shards):05}.arrow" for n in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        with pyarrow.ipc.new_stream(str(folder / name), shard.schema) as stream:
            stream.write_table(shard, max_chunksize=2)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


def unpacked(folder: Path) -> Path:
    """Write a dictionary of data sets as save_to_disk does."""
    save(folder / "train", [table(folder, TRAIN[:2]), table(folder, TRAIN[2:])])
    save(folder / "validation", [table(folder, VAL)])
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["validation", "train"]}))
    return folder


def on_hub(folder: Path, **shards: Any) -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, shard in shards.items():
        file = folder / "data" / f"{name}-00000-of-00001.parquet"
        pyarrow.parquet.write_table(shard, file, row_group_size=2)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


def test_saved_to_disk(tmp_path: Path) -> None:
    data = unpacked(tmp_path / "data")
    assert hugging_face.is_here(data) and hugging_face.is_here(data / "train")
    labels = hugging_face.read(data, LabelOptions())
    names = ["00000000.jpg", "00000001.jpg", "00000002.jpg"]  # im0.jpg is in both files
    assert labels.names == [*(f"train/{name}" for name in names), "validation/im0.jpg"]
    assert labels.labels == [["cat", "dog"], [], ["sky"], ["cat", "sky"]]
    assert labels.class_names == ["cat", "dog", "sky"]
    assert labels.parts == ["train", "train", "train", "val"]
    folder = labels.paths[0].parent.parent
    assert folder.parent == tmp_path / "cache" / "grigri-fast" / "hugging-face-1"
    for path, row in zip(labels.paths, [0, 1, 0, 0], strict=True):
        write_image(tmp_path / "photo.jpg", row)
        assert path.read_bytes() == (tmp_path / "photo.jpg").read_bytes()
    assert labels.notes == [
        "labels from labels, images from image",
        f"the images were written to {folder}",
    ]


def test_images_are_written_once(tmp_path: Path) -> None:
    data = unpacked(tmp_path / "data")
    first = hugging_face.read(data, LabelOptions()).paths
    first[0].write_bytes(b"seen")
    assert hugging_face.read(data, LabelOptions()).paths == first
    assert first[0].read_bytes() == b"seen"
    save(data / "validation", [table(data, [[1], [1]])])
    other = hugging_face.read(data, LabelOptions())
    assert len(other.paths) == 5 and other.paths[0].read_bytes() != b"seen"
    (other.paths[0].parent.parent / "names.json").write_text("{")
    assert hugging_face.read(data, LabelOptions()).paths == other.paths


def test_from_the_hub(tmp_path: Path) -> None:
    features = {"image": {"_type": "Image"}, "labels": CLASSES}
    train = table(tmp_path, [0, 2, None, 1, -1], features, pyarrow.int64())
    data = on_hub(tmp_path / "hub", train=train, test=train.slice(3, 1))
    assert hugging_face.is_here(data) and hugging_face.is_here(data / "data")
    labels = hugging_face.read(data, LabelOptions())
    assert labels.names == ["train/im0.jpg", "train/im1.jpg", "train/im3.jpg", "test/im3.jpg"]
    assert labels.labels == [["cat"], ["sky"], ["dog"], ["dog"]]
    assert labels.parts == ["train", "train", "train", "test"]
    assert "left out: 2 images without labels (-1)" in labels.notes
    one = hugging_face.read(data / "data" / "train-00000-of-00001.parquet", LabelOptions())
    assert one.labels == labels.labels[:3] and one.parts is None


@pytest.mark.parametrize(
    ("feature", "kind", "values"),
    [
        (
            {"feature": {"category": CLASSES}, "_type": "List"},
            pyarrow.list_(pyarrow.struct({"category": pyarrow.int64()})),
            [[{"category": 0}, {"category": 2}], []],
        ),
        (
            {"category": {"feature": CLASSES, "length": -1, "_type": "Sequence"}},
            pyarrow.struct({"category": pyarrow.list_(pyarrow.int64())}),
            [{"category": [0, 2]}, {"category": []}],
        ),
        (
            [{"category": CLASSES}],
            pyarrow.list_(pyarrow.struct({"category": pyarrow.int64()})),
            [[{"category": 0}, {"category": 2}], []],
        ),
    ],
)
def test_boxes(tmp_path: Path, feature: Any, kind: Any, values: list[Any]) -> None:
    features = {"image": {"_type": "Image"}, "labels": feature}
    save(tmp_path, [table(tmp_path, values, features, kind)])
    labels = hugging_face.read(tmp_path, LabelOptions())
    assert labels.labels == [["cat", "sky"], []] and labels.names == ["im0.jpg", "im1.jpg"]
    assert labels.notes[0] == "labels from labels.category, images from image"


def test_files_of_other_programs(tmp_path: Path) -> None:
    kind = pyarrow.list_(pyarrow.string())
    shard = table(tmp_path, [["b", "a"], []], None, kind, caption=["x", "y"], a=[True, False])
    on_hub(tmp_path, train=shard)
    labels = hugging_face.read(tmp_path, LabelOptions())
    assert labels.labels == [["b", "a"], []] and labels.class_names == ["a", "b"]
    flags = hugging_face.read(tmp_path, LabelOptions(label_columns=("a",)))
    assert flags.labels == [["a"], []] and flags.class_names == ["a"]


def test_images_beside_the_files(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.jpg", 0)
    shard = pyarrow.table({"image": ["images/a.jpg", "images/b.jpg"], "label": ["x", ""]})
    on_hub(tmp_path, train=shard)
    labels = hugging_face.read(tmp_path, LabelOptions())
    assert labels.paths == [tmp_path / "images" / "a.jpg", tmp_path / "images" / "b.jpg"]
    assert labels.names == ["train/images/a.jpg", "train/images/b.jpg"]
    assert labels.labels == [["x"], []] and len(labels.notes) == 1
    assert not list((tmp_path / "cache" / "grigri-fast" / "hugging-face-1").iterdir())


def test_converted_by_the_hub(tmp_path: Path) -> None:
    (tmp_path / "default" / "train").mkdir(parents=True)
    shard = table(tmp_path, TRAIN)
    pyarrow.parquet.write_table(shard, tmp_path / "default" / "train" / "0000.parquet")
    assert hugging_face.is_here(tmp_path)
    assert hugging_face.read(tmp_path, LabelOptions()).names[0] == "train/im0.jpg"


def test_others_are_not_of_hugging_face(tmp_path: Path) -> None:
    on_hub(tmp_path / "x", train=table(tmp_path, TRAIN))
    (tmp_path / "x" / "data" / "train-00000-of-00001.parquet").rename(tmp_path / "labels.parquet")
    (tmp_path / "state.json").write_text("{}")
    for name in (".", "x", "labels.parquet", "none"):
        assert not hugging_face.is_here(tmp_path / name)


Change = Callable[[Path], object]


def text(name: str, content: Any) -> Change:
    return lambda data: (data / name).write_text(json.dumps(content))


def train_of(labels: list[Any], features: Any = FEATURES, kind: Any = None) -> Change:
    return lambda data: save(data / "train", [table(data, labels, features, kind)])


def cut(data: Path) -> None:
    file = data / "train" / "data-00001-of-00002.arrow"
    file.write_bytes(file.read_bytes()[:-400])


TWO = {**FEATURES, "coarse": CLASSES}
WRONG: list[tuple[str, Change, str]] = [
    ("no splits", text("dataset_dict.json", {}), "no list of splits"),
    ("split gone", text("dataset_dict.json", {"splits": ["test"]}), "test/state.json: No such"),
    ("no files", text("train/state.json", {"_data_files": []}), "names no files"),
    ("file gone", lambda d: next((d / "train").glob("*.arrow")).unlink(), "no such file, but"),
    (
        "indices",
        text("train/state.json", {"_data_files": [{"filename": "data-00000-of-00002.arrow"}],
                                  "_indices_data_files": ["x"]}),
        "rows chosen by indices",
    ),
    ("cut", cut, "damaged"),
    ("number 3", train_of([[3]]), "row 0, column labels: 3 is not the number of one of the 3 cla"),
    ("other columns", train_of([[0]], {**FEATURES, "labels": CLASSES}), "have other columns"),
    ("no such column", train_of([[0]], TWO), "its features do not fit its columns"),
    ("no names", train_of([[0]], {**FEATURES, "labels": {"_type": "ClassLabel"}}), "other columns"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_wrong_folders_are_refused(tmp_path: Path, change: Change, message: str) -> None:
    data = unpacked(tmp_path / "data")
    change(data)
    with pytest.raises(GrigriError, match=message) as error:
        hugging_face.read(data, LabelOptions())
    assert str(error.value).startswith(str(data))
    assert not list((tmp_path / "cache").rglob("names.json")) or message.startswith("row 0")


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        ({"labels": CLASSES, "more": CLASSES}, {}, "labels, more can be the labels; --label-col"),
        ({"labels": {"dtype": "int64", "_type": "Value"}}, {}, "no column has names of classes"),
        ({"labels": CLASSES}, {"label_columns": ("x",)}, "--label-columns x: no such column"),
        ({"labels": CLASSES}, {"image_column": "x"}, "--image-column x: no such column"),
        ({"labels": CLASSES}, {"no_label": ()}, "--no-label does not go with Hugging Face"),
        ({"labels": CLASSES, "more": {"_type": "Image"}}, {}, "image, more are images; --image-c"),
        ({"labels": {"names": [], "_type": "ClassLabel"}}, {}, "labels: no names of classes"),
        ({"labels": {"names": ["a", "a"], "_type": "ClassLabel"}}, {}, "two classes are named 'a'"),
        ({"labels": {"_type": "Audio"}}, {"label_columns": ("labels",)}, "neither classes, names"),
    ],
)
def test_ambiguous_columns_are_refused(
    tmp_path: Path, features: Any, options: Any, message: str
) -> None:
    features = {"image": {"_type": "Image"}, **features}
    save(tmp_path, [table(tmp_path, [0, 1], features, pyarrow.int64(), more=[0, 1])])
    with pytest.raises(GrigriError, match=message):
        hugging_face.read(tmp_path, LabelOptions(**options))


def test_what_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GrigriError, match="no data set of Hugging Face; expected a folder from"):
        hugging_face.read(tmp_path, LabelOptions())
    file = on_hub(tmp_path, train=table(tmp_path, TRAIN)) / "data" / "train-00000-of-00001.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:-5])
    with pytest.raises(GrigriError, match=r"00001\.parquet: not readable"):
        hugging_face.read(tmp_path, LabelOptions())
    file.write_bytes(content)
    file.rename(file.with_name("train-00001-of-00003.parquet"))
    with pytest.raises(GrigriError, match="of the 3 files of train, number 0 is missing"):
        hugging_face.read(tmp_path, LabelOptions())
    for name in ("one", "two"):
        on_hub(tmp_path / "configs" / name, train=table(tmp_path, TRAIN))
        (tmp_path / "configs" / name / "data").rename(tmp_path / "configs" / f"{name}-data")
    with pytest.raises(GrigriError, match="found one-data, two-data; name one of them as DATA"):
        hugging_face.read(tmp_path / "configs", LabelOptions())


def test_a_row_without_image_is_refused(tmp_path: Path) -> None:
    image = pyarrow.array([{"bytes": None, "path": None}], OF_IMAGE)
    on_hub(tmp_path, train=pyarrow.table({"image": image, "label": ["x"]}))
    with pytest.raises(GrigriError, match="row 0, column image: no image"):
        hugging_face.read(tmp_path, LabelOptions())
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = unpacked(tmp_path / "data")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert hugging_face.is_here(data)
    with pytest.raises(GrigriError, match=r"pip install 'grigri-fast\[tables\]'"):
        hugging_face_files.features(hugging_face_files.find(data)[0])

import json
from pathlib import Path

import numpy as np
import pytest
from small_set import CLASSES, labels_of, write_image

from grigri_fast.data import dataset
from grigri_fast.errors import GrigriError

# Four images: two labels, none, one, one.
LABELS = {"a.jpg": ["cat", "sky"], "b.jpg": [], "c.jpg": ["dog"], "d.jpg": ["sky"]}
TARGETS = [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]]


def write_images(folder: Path) -> None:
    for row, name in enumerate(LABELS):
        write_image(folder / name, row)


def assert_is_labels(data: dataset.Dataset, folder: Path) -> None:
    assert data.names == list(LABELS)
    assert data.class_names == list(CLASSES)
    assert data.targets_NC.tolist() == TARGETS
    assert data.targets_NC.dtype == np.float32
    assert [p.resolve() for p in data.paths] == [(folder / n).resolve() for n in LABELS]
    assert all(path.is_file() for path in data.paths)


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message and message
    return message


# ------------------------------------------------------------------------ the five formats


def test_annotations(photos: Path) -> None:
    data = dataset.load(photos)
    assert data.names == [f"im{n}.jpg" for n in range(1, 49)]
    assert data.class_names == list(CLASSES)  # README.txt is no class
    expected = [[name in labels_of(row) for name in CLASSES] for row in range(48)]
    assert data.targets_NC.tolist() == np.array(expected, dtype=float).tolist()
    assert (data.targets_NC.sum(1) == 0).any()
    assert all(path.is_file() for path in data.paths)


def test_annotations_with_blank_lines_and_other_line_ends(photos: Path) -> None:
    (photos / "annotations" / "cat.txt").write_bytes(b"\r\n 2 \r\n\r\n10\n")
    (photos / "annotations" / "empty.txt").write_bytes(b"")
    data = dataset.load(photos)
    cat = data.targets_NC[:, data.class_names.index("cat")]
    assert np.flatnonzero(cat).tolist() == [1, 9]
    assert "empty" in data.class_names


def test_one_hot_csv(tmp_path: Path) -> None:
    write_images(tmp_path)
    rows = [[name, *map(str, map(int, row))] for name, row in zip(LABELS, TARGETS, strict=True)]
    text = "image,cat,dog,sky\n" + "".join(",".join(row) + "\n" for row in rows)
    (tmp_path / "labels.csv").write_text(text)
    assert_is_labels(dataset.load(tmp_path / "labels.csv"), tmp_path)
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert_is_labels(dataset.load(tmp_path / "labels.csv"), tmp_path)
    (tmp_path / "labels.csv").write_text(text.replace(",", "\t"))
    assert_is_labels(dataset.load(tmp_path / "labels.csv"), tmp_path)


@pytest.mark.parametrize("separator", ["|", ";", " | ", "json"])
def test_label_column_csv(tmp_path: Path, separator: str) -> None:
    write_images(tmp_path)
    lines = ["image,labels"]
    for name, labels in LABELS.items():
        cell = json.dumps(labels) if separator == "json" else separator.join(labels)
        lines.append(f'"{name}","{cell.replace(chr(34), chr(34) * 2)}"')
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    assert_is_labels(dataset.load(tmp_path / "labels.csv"), tmp_path)


def test_class_names_may_contain_spaces_where_another_separator_is_used(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,labels\na.jpg,hot dog|night sky\nb.jpg,hot dog\n")
    assert dataset.load(tmp_path / "labels.csv").class_names == ["hot dog", "night sky"]


@pytest.mark.parametrize("where", ["--images", "beside", "images/"])
def test_where_a_csvs_images_are(tmp_path: Path, where: str) -> None:
    folder = {"--images": tmp_path / "far", "beside": tmp_path, "images/": tmp_path / "images"}
    write_images(folder[where])
    text = "".join(f"{name},{'|'.join(labels)}\n" for name, labels in LABELS.items())
    (tmp_path / "labels.csv").write_text("file,tags\n" + text)
    images = folder[where] if where == "--images" else None
    assert_is_labels(dataset.load(tmp_path / "labels.csv", images), folder[where])
    if where == "images/":  # the folder itself can be named then
        assert_is_labels(dataset.load(tmp_path), folder[where])


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_metadata(tmp_path: Path, kind: str) -> None:
    write_images(tmp_path)
    if kind == "csv":
        text = "file_name,labels\n"
        text += "".join(f"{name},{';'.join(labels)}\n" for name, labels in LABELS.items())
    else:
        records = [{"file_name": name, "labels": labels} for name, labels in LABELS.items()]
        text = "\n\n".join(map(json.dumps, records))
    (tmp_path / f"metadata.{kind}").write_text(text)
    assert_is_labels(dataset.load(tmp_path), tmp_path)


def test_metadata_jsonl_with_a_single_label_and_null(tmp_path: Path) -> None:
    lines = ['{"file_name": "a.jpg", "label": "cat"}', '{"file_name": "b.jpg", "label": null}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert dataset.load(tmp_path).targets_NC.tolist() == [[1], [0]]


def test_class_folders(tmp_path: Path) -> None:
    for row, (name, labels) in enumerate(LABELS.items()):
        for label in labels:
            write_image(tmp_path / label / name, row)
        if not labels:  # an image beside the folders has no label
            write_image(tmp_path / name, row)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()  # no images: no class
    data = dataset.load(tmp_path)
    assert data.names == list(LABELS)
    assert data.class_names == list(CLASSES)
    assert data.targets_NC.tolist() == TARGETS
    assert all(path.is_file() for path in data.paths)


def test_class_folders_may_hold_links_to_one_file(tmp_path: Path) -> None:
    write_image(tmp_path / "cat" / "a.jpg", 0)
    (tmp_path / "sky").mkdir()
    (tmp_path / "sky" / "a.jpg").symlink_to(tmp_path / "cat" / "a.jpg")
    assert dataset.load(tmp_path).targets_NC.tolist() == [[1, 1]]


def test_the_real_set(grigri: Path) -> None:
    data = dataset.load(grigri)
    assert len(data) == 12_000 and len(data.class_names) == 14
    assert (data.targets_NC.sum(1) == 0).sum() == 5890
    from_csv = dataset.load(grigri / "labels_20000.csv")
    rows = {name: i for i, name in enumerate(from_csv.names)}
    same = from_csv.targets_NC[[rows[name] for name in data.names]]
    assert from_csv.class_names == data.class_names
    assert (same == data.targets_NC).all()


# ------------------------------------------------------------------------- wrong layouts


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


@pytest.mark.parametrize(
    "files, says",
    [
        ([], "no images"),
        (["a.jpg", "b.jpg"], "2 images but no labels"),
        (["images/a.jpg"], "'images' is no class"),
        (["train/a.jpg", "val/b.jpg"], "which are no classes"),
        (["annotations/cat.txt"], "no images/ beside it"),
        (["annotations/cat.txt", "images/x.jpg"], "expected files named im1.jpg"),
        (["annotations/README.txt", "images/im1.jpg"], "expected a <class>.txt per class"),
        (["annotations/cat.txt", "images/im1.jpg", "images/im01.jpg"], "both image 1"),
        (["metadata.csv", "metadata.jsonl"], "ambiguous"),
        (["metadata.csv", "annotations/cat.txt"], "ambiguous"),
        (["one.csv", "two.csv", "images/a.jpg"], "ambiguous"),
        (["one.csv", "cat/a.jpg", "dog/b.jpg"], "ambiguous"),
    ],
    ids=str,
)
def test_wrong_layouts(tmp_path: Path, files: list[str], says: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(GrigriError) as error:
        dataset.load(tmp_path)
    assert says in one_line(error) and str(tmp_path) in one_line(error)


def test_data_that_is_not_there_or_no_table(tmp_path: Path) -> None:
    touch(tmp_path, "photo.jpg")
    for name, says in (("nowhere", "no such file or folder"), ("photo.jpg", "no .csv")):
        with pytest.raises(GrigriError, match=says) as error:
            dataset.load(tmp_path / name)
        assert name in one_line(error)


def test_images_option_where_it_would_be_ignored(photos: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "folders" / "cat" / "a.jpg", 0)
    for data in (photos, tmp_path / "folders"):
        with pytest.raises(GrigriError, match="--images does not go with"):
            dataset.load(data, tmp_path)
    with pytest.raises(GrigriError, match=r"--images .*no such folder"):
        dataset.load(photos, tmp_path / "nowhere")


@pytest.mark.parametrize(
    "line, says",
    [
        ("seven", "cat.txt line 3: expected an image number"),
        ("-1", "cat.txt line 3: expected an image number"),
        ("0", "cat.txt line 3: expected an image number"),
        ("4.5", "cat.txt line 3: expected an image number"),
        ("4 5", "cat.txt line 3: expected an image number"),
        ("٣", "cat.txt line 3: expected an image number"),
        ("999", "cat.txt line 3: label without image"),
    ],
)
def test_wrong_lines_of_a_class_file(photos: Path, line: str, says: str) -> None:
    (photos / "annotations" / "cat.txt").write_text(f"1\n\n{line}\n2\n")
    with pytest.raises(GrigriError) as error:
        dataset.load(photos)
    assert says in one_line(error)


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "expected a header"),
        ("image,labels\n", "expected a header"),
        ("image\na.jpg\n", "expected a header"),
        ("image,labels\na.jpg,\n", "no labels"),
        ("image,cat,dog\na.jpg,0,0\n", "no labels"),
        ("image,cat,cat\na.jpg,0,1\n", "line 1: the column 'cat' stands there twice"),
        ("image,cat,dog\na.jpg,1,0\nb.jpg,1\n", "line 3: 2 cells where the header has 3"),
        ("image,cat,dog\na.jpg,1,0\nb.jpg,1,2\n", "line 3, column 'dog': '2'"),
        ("image,cat,dog\na.jpg,1,0\nb.jpg,yes,0\n", "line 3, column 'cat': 'yes'"),
        ("image,labels\na.jpg,cat\na.jpg,dog\n", "line 3: a.jpg was in line 2 already"),
        ("image,labels\na.jpg,cat\n,dog\n", "line 3: no image name"),
        (
            "image,labels\na.jpg,cat|sky\nb.jpg,dog;sky\n",
            "by both '|' ('cat|sky') and ';' ('dog;sky'); --separator '|' or ';'",
        ),
        ('image,labels\na.jpg,"[""cat"""\n', "line 2: not a JSON list"),
        ('image,labels\na.jpg,"[1]"\n', "line 2: expected a list of names"),
        ('image,labels\na.jpg,"cat\n', "not a valid CSV"),
        (b"image,labels\na.jpg,caf\xe9\n", "not UTF-8"),
        (b"image,labels\na.jpg,c\0at\n", "NUL"),
        ("image,labels\na.jpg,c\x07at\n", "is not a class name"),
    ],
    ids=repr,
)
def test_wrong_csvs(tmp_path: Path, text: str | bytes, says: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(GrigriError) as error:
        dataset.load(file)
    assert says in one_line(error) and "labels.csv" in one_line(error)


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "no images"),
        ('{"file_name": "a.jpg", "labels": ["cat"]}\n{', "line 2: not valid JSON"),
        ("[" * 100_000, "line 1: not valid JSON"),
        ('["a.jpg"]', "line 1: expected an object"),
        ('{"labels": ["cat"]}', "no column names the images"),
        ('{"file_name": 3, "labels": ["cat"]}', "line 1: file_name must be a text"),
        ('{"file_name": "a.jpg"}', "no column holds labels"),
        ('{"file_name": "a.jpg", "labels": {"cat": 1}}', "is neither a name nor a list of names"),
        ('{"file_name": "a.jpg", "labels": [1.5]}', "line 1: expected a list of names"),
        ('{"file_name": "a.jpg", "labels": []}', "no labels"),
    ],
    ids=lambda text: text[:40],
)
def test_wrong_jsonl(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(GrigriError) as error:
        dataset.load(tmp_path)
    assert says in one_line(error)


def test_one_name_for_two_pictures_is_not_taken_for_two_labels(tmp_path: Path) -> None:
    write_image(tmp_path / "cat" / "IMG_1.jpg", 1)
    write_image(tmp_path / "dog" / "IMG_1.jpg", 3)
    with pytest.raises(GrigriError, match="different pictures"):
        dataset.load(tmp_path)


def test_labels_alone_are_enough(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,labels\na.jpg,cat\nb.jpg,dog\n")
    assert len(dataset.load(tmp_path / "labels.csv")) == 2  # to split; images are checked later


# -------------------------------------------------------------------------- odd tables


def one_line_error(data: Path) -> str:
    with pytest.raises(GrigriError) as caught:
        dataset.load(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0c", "\x1e"], ids=ascii)
def test_only_a_newline_ends_a_line(tmp_path: Path, separator: str) -> None:
    """json.dumps(..., ensure_ascii=False) leaves U+2028 in a name as it is; it is no line end."""
    text = f"image,labels\nodd{separator}name.jpg,cat\nb.jpg,cat\n"
    (tmp_path / "m.csv").write_text(text, encoding="utf-8")
    assert dataset.load(tmp_path / "m.csv").names == [f"odd{separator}name.jpg", "b.jpg"]
    if separator > "\x1f":  # JSON has to escape the others
        line = json.dumps({"file_name": f"a{separator}b.jpg", "label": "x"}, ensure_ascii=False)
        (tmp_path / "m.jsonl").write_text(line + "\n", encoding="utf-8")
        assert dataset.load(tmp_path / "m.jsonl").names == [f"a{separator}b.jpg"]


def test_the_line_is_right_after_a_cell_of_two_lines(tmp_path: Path) -> None:
    text = 'image,note,labels\na.jpg,"two\nlines",cat\nb.jpg,cat\n'
    (tmp_path / "l.csv").write_text(text)
    assert "line 4: 2 cells" in one_line_error(tmp_path / "l.csv")


def test_an_endless_number_is_a_wrong_line(tmp_path: Path) -> None:
    for folder in ("images", "annotations"):
        (tmp_path / folder).mkdir()
    (tmp_path / "images/im1.jpg").write_text("x")
    (tmp_path / "annotations/cat.txt").write_text("1\n" + "9" * 5000 + "\n")
    assert "cat.txt line 2" in one_line_error(tmp_path)


def test_a_column_of_labels_may_hold_the_classes_0_and_1(tmp_path: Path) -> None:
    """Or it is one class, which images have or not: the user says which."""
    (tmp_path / "l.csv").write_text("image,label\na.jpg,0\nb.jpg,1\n")
    assert "--layout label-column" in one_line_error(tmp_path / "l.csv")
    found = dataset.load(tmp_path / "l.csv", layout="label-column")
    assert found.class_names == ["0", "1"]
    assert found.targets_NC.tolist() == [[1, 0], [0, 1]]
    one = dataset.load(tmp_path / "l.csv", layout="one-hot", label_columns=("label",))
    assert one.class_names == ["label"]
    assert one.targets_NC.tolist() == [[0], [1]]


def test_an_image_under_two_spellings_of_its_path_is_one_image(tmp_path: Path) -> None:
    """Otherwise it can be in train and in val at once."""
    (tmp_path / "l.csv").write_text("image,labels\na.jpg,cat\n./a.jpg,cat\n")
    assert "line 3" in one_line_error(tmp_path / "l.csv")


@pytest.mark.parametrize("number", ["9" * 5000, "-" + "9" * 5000])
def test_a_number_without_end_in_json_is_a_wrong_line(tmp_path: Path, number: str) -> None:
    """Python refuses to read integers of more than 4,300 digits (found by benchmarks/fuzz.py)."""
    (tmp_path / "l.jsonl").write_text('{"file_name": "a.jpg", "label": "x"}\n' + number + "\n")
    assert "l.jsonl line 2: not valid JSON" in one_line_error(tmp_path / "l.jsonl")
    (tmp_path / "l.csv").write_text(f"image,labels\na.jpg,[{number}]\n")
    assert "l.csv line 2: not a JSON list" in one_line_error(tmp_path / "l.csv")

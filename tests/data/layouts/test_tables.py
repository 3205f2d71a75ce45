"""Tables: what is read, what is said of it, and what is refused since it can be read in two ways.

Each input stands for a kind that was misread in silence once.
"""

from pathlib import Path

import pytest

from grigri_fast.data import dataset
from grigri_fast.data.layouts import HowLabels
from grigri_fast.errors import GrigriError


def load(folder: Path, text: str, name: str = "l.csv", **how) -> dataset.Dataset:
    (folder / name).write_text(text)
    return dataset.load(folder / name, **how)


def labels_of(data: dataset.Dataset) -> list[str]:
    """Return the labels of each image, joined by +."""
    return [
        "+".join(name for name, yes in zip(data.class_names, row, strict=True) if yes)
        for row in data.targets_NC
    ]


def table(column: str, *cells: str) -> str:
    rows = (f'{i}.jpg,"{cell.replace(chr(34), chr(34) * 2)}"' for i, cell in enumerate(cells))
    return f"image,{column}\n" + "\n".join(rows) + "\n"


# ------------------------------------------------------------------- cells with several labels


@pytest.mark.parametrize(
    "cells, how, labels, says",
    [
        (["cat, dog", "cat", "dog"], {}, ["cat+dog", "cat", "dog"], "separated by ','"),
        (["cat,dog,", "cat", ""], {}, ["cat+dog", "cat", ""], "separated by ','"),
        (["hot dog|sky", "hot dog", "sky"], {}, ["hot dog+sky", "hot dog", "sky"], "by '|'"),
        (["a;b", "b;a", "a"], {}, ["a+b", "a+b", "a"], "separated by ';'"),
        (["cat", "dog"], {}, ["cat", "dog"], "a cell is one label"),
        (["cat dog", "dog"], {"separator": "space"}, ["cat+dog", "dog"], "by space"),
        (["hot dog", "dog"], {"separator": "none"}, ["hot dog", "dog"], "a cell is one label"),
        (["a/b", "b"], {"separator": "/"}, ["a+b", "b"], "separated by '/'"),
        (["a|b, c", "a"], {"separator": "pipe"}, ["a+b, c", "a"], "separated by '|'"),
        (['["cat", "dog"]', "[]", ""], {}, ["cat+dog", "", ""], "a list of labels"),
        (["['cat', 'dog']", "['dog']"], {}, ["cat+dog", "dog"], "a list of labels"),
    ],
    ids=repr,
)
def test_cells(
    tmp_path: Path, cells: list[str], how: HowLabels, labels: list[str], says: str
) -> None:
    data = load(tmp_path, table("labels", *cells), **how)
    assert labels_of(data) == labels
    assert any(says in note for note in data.notes), data.notes


@pytest.mark.parametrize(
    "cells, says",
    [
        (["cat|dog", "cat, bird"], "both '|' ('cat|dog') and ',' ('cat, bird')"),
        (["No Finding", "Pleural Thickening"], "--separator space) or one label"),
        (["golden retriever", "great dane"], "'golden', 'retriever' (--separator space)"),
        (["tench, Tinca tinca", "goldfish, Carassius"], "(--separator ,) or one label"),
        (['["cat", "dog"]', "dog"], "line 3: 'dog' is no list"),
        (["dog", "['cat']"], "line 2: 'dog' is no list"),
        (['{"choices": ["cat"]}', "dog"], "is neither a name nor a list"),
        (["[1, 2]", "[3]"], "expected a list of names"),
        (["['cat', 'dog'", "['dog']"], "line 2: not a JSON list"),
        (["[[[[" * 2000, "[]"], "line 2: not a JSON list"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_cells_that_can_be_read_in_two_ways(tmp_path: Path, cells: list[str], says: str) -> None:
    assert says in refused(tmp_path, table("labels", *cells))


def refused(folder: Path, text: str, **how) -> str:
    with pytest.raises(GrigriError) as error:
        load(folder, text, **how)
    message = str(error.value)
    assert "\n" not in message and "l.csv" in message
    return message


def test_words_for_no_label(tmp_path: Path) -> None:
    cells = ["cat|dog", "nan", "NaN", "None", "n/a", "cat|NA", "-", "cat"]
    data = load(tmp_path, table("labels", *cells))
    assert labels_of(data) == ["cat+dog", "", "", "", "", "cat", "", "cat"]
    note = next(note for note in data.notes if "no label" in note)
    assert "'nan' (1)" in note and "'NA' (1)" in note
    none = load(tmp_path, table("labels", *cells), no_label="")
    assert {"nan", "None", "n/a"} <= set(none.class_names)
    own = load(tmp_path, table("labels", "cat", "No Finding"), no_label="No Finding")
    assert labels_of(own) == ["cat", ""]


def test_texts_in_json_lines_are_cells_and_lists_are_lists(tmp_path: Path) -> None:
    lines = (
        '{"file_name": "a.jpg", "labels": "cat, dog"}\n{"file_name": "b.jpg", "labels": "dog"}\n'
    )
    assert labels_of(load(tmp_path, lines, "m.jsonl")) == ["cat+dog", "dog"]
    mixed = lines + '{"file_name": "c.jpg", "labels": "cat|dog"}\n'
    with pytest.raises(GrigriError, match="by both"):
        load(tmp_path, mixed, "m.jsonl")
    lists = '{"file_name": "a.jpg", "labels": ["hot dog", "a, b"]}\n'
    assert labels_of(load(tmp_path, lists, "m.jsonl")) == ["a, b+hot dog"]


def test_the_csv_of_predict_can_be_read_back(tmp_path: Path) -> None:
    text = (
        "image,labels,error,golden retriever,great dane\na.jpg,golden retriever,,0.9,0.1\n"
        "b.jpg,golden retriever|great dane,,0.9,0.9\nc.jpg,,cannot be decoded,,\n"
    )
    data = load(tmp_path, text)
    assert labels_of(data) == ["golden retriever", "golden retriever+great dane"]
    assert "left out: 1 rows with an error" in data.notes


# --------------------------------------------------------------------------- which column is what


@pytest.mark.parametrize(
    "header, rows, labels",
    [
        ("image,cat,dog,is_valid", ["1,0,0", "1,1,1"], ["cat", "cat+dog"]),
        ("image,cat,dog,fold", ["1,0,0", "1,1,1"], ["cat", "cat+dog"]),
        ("image,cat,dog,fold,split", ["1,0,0,train", "1,1,1,val"], ["cat", "cat+dog"]),
        ("image,width,height,cat,dog", ["640,480,1,0", "640,480,1,1"], ["cat", "cat+dog"]),
        ("image,labels,note", ["cat,nice", "cat|dog,very"], ["cat", "cat+dog"]),
        (",image,cat,dog", None, ["cat", "cat+dog"]),
        ("image,cat,dog", ["True,False", "True,True"], ["cat", "cat+dog"]),
        ("image,cat,dog", ["yes,no", "yes,yes"], ["cat", "cat+dog"]),
        ("image,label,tag", ["1,0", "1,1"], ["label", "label+tag"]),
    ],
    ids=str,
)
def test_columns(tmp_path: Path, header: str, rows: list[str] | None, labels: list[str]) -> None:
    lines = ["0,0.jpg,1,0", "1,1.jpg,1,1"]
    if rows is not None:
        lines = [f"{i}.jpg,{row}" for i, row in enumerate(rows)]
    assert labels_of(load(tmp_path, "\n".join([header, *lines]))) == labels


def test_what_is_not_used_is_said(tmp_path: Path) -> None:
    data = load(tmp_path, "image,cat,fold,url\na.jpg,1,0,http://x\nb.jpg,0,1,http://y\n")
    assert data.class_names == ["cat"]
    assert "columns not used: 'fold', 'url'" in data.notes
    assert data.notes[0] == "'image' names the images, 'cat' their classes, 0 or 1"


@pytest.mark.parametrize(
    "text, says",
    [
        ("image,label\na.jpg,1\nb.jpg,0\n", "--layout one-hot --label-columns label"),
        ("image,label,fold\na.jpg,1,0\nb.jpg,0,1\n", "--layout label-column"),
        ("image,labels,cat\na.jpg,dog,1\nb.jpg,cat,0\n", "--label-columns labels) or in 'cat'"),
        ("image,label,category\na.jpg,x,y\nb.jpg,y,y\n", "'label' and 'category' can both"),
        ("image,tags,classes\na.jpg,x,y\nb.jpg,y,y\n", "--label-columns tags, classes or"),
        ("image,animal\na.jpg,cat\nb.jpg,cat\n", "--label-columns says which of animal"),
        ("image,animal,dark\na.jpg,cat,1\nb.jpg,cat,0\nc.jpg,cat,1\n", "can hold labels, too"),
        ("image,cat\na.jpg,-1\nb.jpg,1\n", "'not' with --layout plus-minus and 'not known'"),
        ("image,cat\na.jpg,1\nb.jpg,0.5\n", "line 3, column 'cat': '0.5' is neither 0 nor 1"),
        ("image,cat\na.jpg,1\nb.jpg,\n", "line 3, column 'cat': '' is neither 0 nor 1"),
        ("image,cat\na.jpg,1\nb.jpg,True\n", "line 3, column 'cat': 'True' is neither"),
        ("a.jpg,cat\nb.jpg,dog\n", "looks like a row, not like a header"),
        ("what,labels\nx,cat\ny,dog\n", "--image-column says which of 'what', 'labels'"),
        ("left,right,labels\na.jpg,b.jpg,x\nc.jpg,d.jpg,x\n", "--image-column left or"),
        ("image,labels,split\na.jpg,x,train\nb.jpg,y,holdout\n", "'holdout' is no part of a split"),
        ("image,labels,split,is_valid\na.jpg,x,val,1\nb.jpg,y,train,0\n", "can both be the split"),
        ("image,labels,patient,group\na.jpg,x,1,1\nb.jpg,y,2,2\n", "can both be groups"),
        ("image,labels\na.jpg,x\na.jpg,y\nb.jpg,x\n", "--layout long if a row is one label"),
        ("image,cat\na.jpg,1\na.jpg,0\n", "line 3: a.jpg was in line 2 already"),
        ("image,labels\nhttp://x/a.jpg,x\nhttp://x/b.jpg,y\n", "is an address"),
    ],
    ids=lambda value: value[:30],
)
def test_tables_that_are_not_surely_understood(tmp_path: Path, text: str, says: str) -> None:
    assert says in refused(tmp_path, text)


@pytest.mark.parametrize(
    "how, says",
    [
        ({"image_column": "photo"}, "--image-column photo: no such column; there are image"),
        ({"label_columns": "cat,bird"}, "--label-columns bird: no such column"),
        ({"label_columns": ("cat", "note")}, "'cat' holds 0 and 1, 'note' holds 'x'"),
        ({"split_column": "note"}, "'x' is no part of a split"),
        ({"group_column": "nowhere"}, "--group-column nowhere: no such column"),
        ({"classes": "cat,bird"}, "--classes bird: no such class; there are cat, dog"),
        ({"classes": "cat,cat"}, "twice"),
        ({"layout": "coc"}, "--layout coc: the layouts are"),
        ({"layout": "class-folders"}, "is of a folder"),
    ],
    ids=str,
)
def test_options_that_do_not_fit(tmp_path: Path, how: HowLabels, says: str) -> None:
    (tmp_path / "l.csv").write_text("image,cat,dog,note\na.jpg,1,0,x\nb.jpg,0,1,y\n")
    with pytest.raises(GrigriError) as error:
        dataset.load(tmp_path / "l.csv", **how)
    assert says in str(error.value)


def test_options_choose(tmp_path: Path) -> None:
    text = "photo,name,label,kind\na.jpg,x.jpg,cat dog,0\nb.jpg,y.jpg,dog,1\n"
    assert "can both name the images" in refused(tmp_path, text)
    data = load(
        tmp_path,
        text,
        image_column="photo",
        label_columns=["label"],
        separator="space",
        split_column="kind",
        group_column="name",
        classes="dog",
    )
    assert (data.names, labels_of(data)) == (["a.jpg", "b.jpg"], ["dog", "dog"])
    assert (data.parts, data.class_names) == (["train", "val"], ["dog"])
    assert data.groups is not None and data.groups.tolist() == [0, 1]
    assert "left out by --classes: cat" in data.notes
    assert "all images have, so there is nothing to learn: dog" in data.notes


def test_several_columns_of_labels(tmp_path: Path) -> None:
    text = "image,animal,place\na.jpg,cat,sea\nb.jpg,dog,\n"
    assert labels_of(load(tmp_path, text, label_columns="animal,place")) == ["cat+sea", "dog"]


def test_parts_and_groups(tmp_path: Path) -> None:
    text = (
        "image,labels,Split,Patient ID\na.jpg,x,Train,7\nb.jpg,x,dev,8\nc.jpg,y,TEST,8\nd.jpg,y,,\n"
    )
    data = load(tmp_path, text)
    assert data.parts == ["train", "val", "test", ""]
    assert "the data come with a split: 1 train, 1 val, 1 test, 1 in no part" in data.notes
    assert data.groups is not None and data.groups.tolist() == [0, 1, 1, 2]
    without = load(tmp_path, text, split_column="none", group_column="none")
    assert without.parts is None and without.groups is None


def test_a_row_per_image_and_label(tmp_path: Path) -> None:
    text = "image,label\na.jpg,cat\na.jpg,hot dog\nb.jpg,cat\nb.jpg,sea\nc.jpg,cat\n"
    data = load(tmp_path, text, layout="long", separator="none")
    assert (data.names, labels_of(data)) == (
        ["a.jpg", "b.jpg", "c.jpg"],
        ["cat+hot dog", "cat+sea", "cat"],
    )
    sure = load(tmp_path, text.replace("hot ", "hot-"))
    assert labels_of(sure) == ["cat+hot-dog", "cat+sea", "cat"]
    assert "each row is one label of an image" in sure.notes
    parts = "image,label,split\na.jpg,cat,train\na.jpg,dog,val\nb.jpg,x,train\nb.jpg,y,train\n"
    assert "line 3: a.jpg is in another part in line 2" in refused(tmp_path, parts)


# ------------------------------------------------------------------------- where the images are


def test_names_without_suffix(tmp_path: Path) -> None:
    (tmp_path / "train-jpg").mkdir()
    for name in ("train_0.jpg", "train_1.JPG"):
        (tmp_path / "train-jpg" / name).write_bytes(b"x")
    text = "image_name,tags\ntrain_0,haze|primary\ntrain_1,clear\n"
    data = load(tmp_path, text)
    assert data.names == ["train_0.jpg", "train_1.JPG"]
    assert all(path.is_file() for path in data.paths)
    (tmp_path / "train-jpg" / "train_0.png").write_bytes(b"x")
    assert "line 2: train_0 can be train_0.jpg or train_0.png" in refused(tmp_path, text)


def test_images_in_two_folders_are_asked_about(tmp_path: Path) -> None:
    for folder in ("small", "large"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.jpg").write_bytes(b"x")
    assert "the images are in large and in small; --images" in refused_anywhere(
        tmp_path, table("labels", "x", "y")
    )


def refused_anywhere(folder: Path, text: str) -> str:
    with pytest.raises(GrigriError) as error:
        load(folder, text)
    return str(error.value)


def test_images_that_a_table_does_not_name_are_counted(tmp_path: Path) -> None:
    for name in ("0.jpg", "1.jpg", "new.jpg", "._0.jpg"):
        (tmp_path / name).write_bytes(b"x")
    data = load(tmp_path, table("labels", "x", "y"))
    assert "left out: 1 images that it does not name (new.jpg)" in data.notes


def test_paths_of_windows(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.jpg").write_bytes(b"x")
    data = load(tmp_path, "image,labels\na\\0.jpg,x\na\\1.jpg,y\n")
    assert data.names == ["a/0.jpg", "a/1.jpg"] and data.paths[0].is_file()


# --------------------------------------------------------------------------------- like classes


@pytest.mark.parametrize(
    "one, other",
    [("cat", "Cat"), ("hot dog", "hot-dog"), ("cat", "cat."), ("caf\u00e9", "cafe\u0301")],
)
def test_classes_of_almost_one_name_are_said(tmp_path: Path, one: str, other: str) -> None:
    data = load(tmp_path, table("labels", f"{one}|x", other, "x"))
    note = f"almost the same name, yet two classes: {min(one, other)!r} (1 images)"
    assert any(n.startswith(note) for n in data.notes), data.notes


def test_classes_of_none_and_of_all_are_said(tmp_path: Path) -> None:
    data = load(tmp_path, "image,cat,dog,bird\na.jpg,1,1,0\nb.jpg,1,0,0\n")
    assert "no image has: bird" in data.notes
    assert "all images have, so there is nothing to learn: cat" in data.notes


@pytest.mark.parametrize(
    "layout, labels, unknown",
    [
        ("plus-minus", ["cat", "cat+dog", ""], [[], [], ["cat", "dog"]]),
        ("uncertain", ["cat", "cat+dog", ""], [["dog"], [], ["dog"]]),
    ],
)
def test_minus_one(tmp_path: Path, layout: str, labels: list[str], unknown: list) -> None:
    text = "image,cat,dog,is_valid\na.jpg,1,-1,0\nb.jpg,1.0,1,1\nc.jpg,0,,0\n"
    data = load(tmp_path, text, layout=layout)
    assert (labels_of(data), data.parts) == (labels, ["train", "val", "train"])
    assert data.unknown_NC is not None
    names = [
        [name for name, is_unknown in zip(data.class_names, row, strict=True) if is_unknown]
        for row in data.unknown_NC
    ]
    assert names == unknown
    assert "no column holds" in refused(tmp_path, "image,cat\na.jpg,x\n", layout=layout)

from pathlib import Path

import numpy as np
import pytest

from grigri_fast.data import dataset, split
from grigri_fast.errors import GrigriError

LABELS = "image,labels\na.jpg,cat\nb.jpg,cat|dog\nc.jpg,\nd.jpg,dog\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "l.csv").write_text(LABELS)
    return tmp_path


def load(folder: Path, lines: str, header: str = "image,class,value", **how) -> dataset.Dataset:
    (folder / "fix.csv").write_text(f"{header}\n{lines}")
    return dataset.load(folder / "l.csv", corrections=folder / "fix.csv", **how)


def test_labels_are_corrected_and_the_note_says_how_many(folder: Path) -> None:
    data = load(folder, "a.jpg,cat,0\na.jpg,dog,1\nb.jpg,dog,unknown\nc.jpg,cat,1\nd.jpg,dog,1\n")
    assert data.class_names == ["cat", "dog"]
    assert data.targets_NC.tolist() == [[0, 1], [1, 0], [1, 0], [0, 1]]
    assert np.argwhere(data.unknown_NC).tolist() == [[1, 1]]
    assert data.notes[-1] == (
        "4 of 5 labels in fix.csv differ from the data's: 2 added, 1 removed, 1 unknown,"
        " of 3 images"
    )
    assert (folder / "l.csv").read_text() == LABELS


def test_the_last_line_about_a_label_counts(folder: Path) -> None:
    data = load(folder, "a.jpg,cat,0\nc.jpg,dog,1\na.jpg,cat,given\nc.jpg,dog,0\nc.jpg,dog,1\n")
    assert data.targets_NC.tolist() == [[1, 0], [1, 1], [0, 1], [0, 1]]
    assert data.unknown_NC is None
    assert "1 of 1 labels in fix.csv" in data.notes[-1]


def test_other_columns_and_another_order_are_read(folder: Path) -> None:
    data = load(folder, "9,0,cat,a.jpg\n", header="seconds,value,class,image")
    assert data.targets_NC[0].tolist() == [0, 0]


def test_a_label_that_was_unknown_may_be_known(folder: Path) -> None:
    (folder / "l.csv").write_text("image,cat,dog\na.jpg,1,-1\nb.jpg,0,1\n")
    data = load(folder, "a.jpg,dog,1\n", layout="uncertain")
    assert data.targets_NC.tolist() == [[1, 1], [0, 1]] and data.unknown_NC is None


def test_what_is_said_of_a_class_that_is_left_out_is_skipped(folder: Path) -> None:
    data = load(folder, "a.jpg,dog,1\na.jpg,cat,0\n", classes="cat")
    assert data.targets_NC[:, 0].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("a.jpg,cat,1\nx.jpg,cat,1\n", "line 3: no image is named 'x.jpg'"),
        ("a.jpg,cow,1\n", "line 2: no class is named 'cow'"),
        ("a.jpg,cat,yes\n", "line 2: 'yes' is none of 1, 0, unknown, given"),
    ],
)
def test_what_there_is_not_is_one_line(folder: Path, lines: str, says: str) -> None:
    with pytest.raises(GrigriError, match=r"^--corrections .*fix\.csv " + says):
        load(folder, lines)


def test_a_table_of_something_else_is_one_line(folder: Path) -> None:
    with pytest.raises(GrigriError, match="expected the columns image, class, value; it has a, b"):
        load(folder, "1,2\n", header="a,b")


# -------------------------------------------------- photographs that the data do not have


def test_photographs_are_added_to_the_training_part(folder: Path) -> None:
    lines = "/p/x.jpg,cat,1\n/p/x.jpg,dog,0\na.jpg,dog,1\n/p/y.jpg,dog,1\n/p/z.jpg,cat,unknown\n"
    data = load(folder, lines + "/p/undone.jpg,cat,1\n/p/undone.jpg,cat,given\n")
    assert data.names == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "/p/x.jpg", "/p/y.jpg"]
    assert data.paths[4:] == [Path("/p/x.jpg"), Path("/p/y.jpg")] and data.num_added == 2
    assert data.targets_NC[[0, 4, 5]].tolist() == [[1, 1], [1, 0], [0, 1]]
    assert np.argwhere(data.unknown_NC).tolist() == [[5, 0]], "nobody has said whether y is a cat"
    assert data.notes[-1] == (
        "1 of 1 labels in fix.csv differ from the data's: 1 added, 0 removed, 0 unknown, of 1"
        " images; 2 photographs of fix.csv are added to the training part"
    )
    alone = load(folder, "/p/x.jpg,cat,1\n")
    assert alone.notes[-1] == "1 photograph of fix.csv is added to the training part"


def many(tmp_path: Path, **columns: str) -> Path:
    header = ",".join(("image", "labels", *columns))
    rows = [f"{i}.jpg,{'cat' if i % 3 else 'dog'}" for i in range(20)]
    for column in columns.values():
        rows = [f"{row},{column.split()[i]}" for i, row in enumerate(rows)]
    (tmp_path / "l.csv").write_text("\n".join([header, *rows, ""]))
    (tmp_path / "fix.csv").write_text("image,class,value\n/p/x.jpg,cat,1\n/p/y.jpg,dog,1\n")
    return tmp_path / "l.csv"


def of_parts(parts: split.Split, data: dataset.Dataset) -> dict[str, list[str]]:
    return {part: [data.names[row] for row in rows] for part, rows in parts.parts.items()}


def test_the_other_parts_are_what_they_were(tmp_path: Path) -> None:
    file = many(tmp_path)
    before, after = dataset.load(file), dataset.load(file, corrections=tmp_path / "fix.csv")
    old, new = split.choose(before, 0.2, 0.2), split.choose(after, 0.2, 0.2)
    expected = of_parts(old, before)
    expected["train"] += ["/p/x.jpg", "/p/y.jpg"]
    assert of_parts(new, after) == expected and new.notes == old.notes

    (tmp_path / "old.json").write_text(split.to_json(old, before))
    by_file = split.choose(after, file=tmp_path / "old.json")
    assert of_parts(by_file, after) == expected and not by_file.notes
    (tmp_path / "lists").mkdir()
    for part in ("train", "val"):
        (tmp_path / "lists" / f"{part}.txt").write_text("\n".join(of_parts(old, before)[part]))
    by_lists = of_parts(split.choose(after, file=tmp_path / "lists"), after)
    assert by_lists == {part: expected[part] for part in ("train", "val")}


def test_they_go_with_parts_and_groups_of_the_data(tmp_path: Path) -> None:
    parts = " ".join(["train"] * 12 + ["val"] * 8)
    groups = " ".join(f"g{i // 2}" for i in range(20))
    file = many(tmp_path, split=parts, patient=groups)
    data = dataset.load(file, corrections=tmp_path / "fix.csv", group_column="patient")
    found = split.choose(data)
    assert found.parts["train"].tolist() == [*range(12), 20, 21]
    assert found.parts["val"].tolist() == list(range(12, 20))
    assert len(set(data.groups.tolist())) == 12 and data.groups[0] == data.groups[1]


def test_a_split_with_them_is_read_without_them(tmp_path: Path) -> None:
    file = many(tmp_path)
    data = dataset.load(file, corrections=tmp_path / "fix.csv")
    (tmp_path / "s.json").write_text(split.to_json(split.choose(data, 0.2), data))
    found = split.read(tmp_path / "s.json", data)
    assert [data.names[row] for row in found.parts["train"][-2:]] == ["/p/x.jpg", "/p/y.jpg"]
    alone = split.read(tmp_path / "s.json", dataset.load(file))
    assert alone.parts["train"].tolist() == found.parts["train"][:-2].tolist()
    assert alone.notes == (
        f"without 2 photographs of split file {tmp_path}/s.json, added by corrections: /p/x.jpg,"
        " /p/y.jpg",
    )


def test_folds_have_them_as_any_other(tmp_path: Path) -> None:
    lines = "".join(f"/p/{i}.jpg,{'cat' if i % 2 else 'dog'},1\n" for i in range(20))
    file = many(tmp_path)
    (tmp_path / "fix.csv").write_text(f"image,class,value\n{lines}")
    data = dataset.load(file, corrections=tmp_path / "fix.csv")
    found = split.folds(data, 4)
    assert sorted(np.concatenate(found).tolist()) == list(range(40))
    assert all(9 <= len(rows) <= 11 for rows in found)
    assert all((rows >= 20).any() and (rows < 20).any() for rows in found)

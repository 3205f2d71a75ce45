from pathlib import Path

import pytest
from label_samples import LONG_VALUES, Sample, csv_of

from grigri_fast.data.layouts import LabelOptions, Labels, pairs, read_labels
from grigri_fast.errors import GrigriError


def read(folder: Path, *rows: str, **how) -> Labels:
    return read_labels(Sample({"l.csv": csv_of(*rows)}, (), "l.csv").write(folder),
                       LabelOptions(**how))  # fmt: skip


def test_a_row_per_image_label_and_value(tmp_path: Path) -> None:
    labels = read_labels(LONG_VALUES.write(tmp_path), LabelOptions())
    assert labels.names == ["a.jpg", "b.jpg"]
    assert labels.labels == [["cat"], ["sky"]]
    assert labels.unknown is not None and list(labels.unknown) == [["sky"], ["dog"]]
    assert any("'present' is 1 if the image has it" in note for note in labels.notes)
    assert any("2 rows say that a label is absent" in note for note in labels.notes)


@pytest.mark.parametrize("header", ["image,label,value", "img,tag,has_label", "file,category,y"])
def test_all_pairs_are_listed(tmp_path: Path, header: str) -> None:
    rows = ("a.jpg,cat,1", "a.jpg,hot dog,0", "b.jpg,cat,0", "b.jpg,hot dog,0")
    labels = read(tmp_path, header, *rows)
    assert labels.labels == [["cat"], []] and labels.unknown is None
    assert labels.class_names == ["cat", "hot dog"]
    assert read(tmp_path, header, *rows, layout="long").labels == labels.labels
    assert read(tmp_path, header, *rows, layout="long-values").labels == labels.labels


def test_only_ones(tmp_path: Path) -> None:
    labels = read(tmp_path, "image,label,value", "a.jpg,cat,1", "a.jpg,dog,1", "b.jpg,cat,1")
    assert labels.labels == [["cat", "dog"], ["cat"]] and labels.unknown is None
    assert "labels that are not listed for an image are taken as absent" in labels.notes


def test_parts_groups_and_no_label(tmp_path: Path) -> None:
    labels = read(
        tmp_path,
        "image,label,present,split,patient_id",
        "a.jpg,cat,true,train,p1",
        "a.jpg,dog,false,train,p1",
        "b.jpg,none,true,test,p2",
    )
    assert labels.labels == [["cat"], []] and labels.class_names == ["cat", "dog"]
    assert labels.parts == ["train", "test"] and labels.groups == ["p1", "p2"]


def test_contradictions_are_unknown() -> None:
    found = pairs.joined("aab", ["cat", "cat", "cat"], [1, 0, 1])
    assert found.labels == [[], ["cat"]]
    assert found.unknown is not None and list(found.unknown) == [["cat"], []]
    assert "unknown: 1 label that an image has in one row and has not in another" in found.notes


def test_contradictions_where_other_labels_are_unknown() -> None:
    found = pairs.joined("aabb", ["cat", "cat", "cat", "dog"], [1, 0, 1, 0])
    assert found.labels == [[], ["cat"]]
    assert found.unknown is not None and list(found.unknown) == [["cat", "dog"], []]


@pytest.mark.parametrize(
    "rows, says",
    [
        (("image,label,value", "a.jpg,cat,1", "b.jpg,dog,0"), "(--layout one-hot)"),
        (("image,label,value", "a.jpg,cat|dog,1", "a.jpg,cat,0"), "several labels, and one value"),
        (("image,label,value,split", "a.jpg,cat,1,train", "a.jpg,dog,0,test"), "another part in"),
        (("image,label,value,group", "a.jpg,cat,1,x", "a.jpg,dog,0,y"), "in another group in line"),
        (("image,label,tag,value", "a.jpg,x,y,1", "a.jpg,u,v,0"), "'label' and 'tag' can both"),
        (("image,label,value", ",cat,1", "a.jpg,dog,0", "a.jpg,cat,0"), "line 2: no image name"),
        (("image,label,foo", "a.jpg,cat,1", "a.jpg,dog,0"), "--label-columns label"),
    ],
)
def test_wrong_tables(tmp_path: Path, rows: tuple[str, ...], says: str) -> None:
    how = {"separator": "|"} if "cat|dog" in rows[1] else {}
    with pytest.raises(GrigriError) as error:
        read(tmp_path, *rows, **how)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_confidences_can_be_read_in_two_ways(tmp_path: Path) -> None:
    rows = ("image,label,score", "a.jpg,cat,0.9", "a.jpg,dog,0.2", "b.jpg,cat,0.4", "b.jpg,sky,1")
    with pytest.raises(GrigriError, match=r"--layout long\), or one if 'score' is at least 0\.5"):
        read(tmp_path, *rows)
    assert read(tmp_path, *rows, layout="long").labels == [["cat", "dog"], ["cat", "sky"]]
    labels = read(tmp_path, *rows, layout="long-values")
    assert labels.labels == [["cat"], ["sky"]] and labels.unknown is None
    assert "an image has a label from a confidence of 0.5 on" in labels.notes


@pytest.mark.parametrize("odd", ["2", "-1", "", "x", "nan"])
def test_a_damaged_value_does_not_make_all_rows_labels(tmp_path: Path, odd: str) -> None:
    rows = ("image,label,value", "a.jpg,cat,1", "a.jpg,dog,0", f"b.jpg,cat,{odd}")
    with pytest.raises(GrigriError, match=r"line 4, column 'value': .* is neither 0 nor 1"):
        read(tmp_path, *rows)


def test_it_is_asked_for_and_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GrigriError, match="expected a column of labels and one of 0 and 1"):
        read(tmp_path, "image,label", "a.jpg,cat", layout="long-values")


# ------------------------------------------------------------------ without a column of values


@pytest.mark.parametrize("header", ["ImageFileName,ClassName", "photo,keywords", "x,Category"])
def test_long_tables_with_odd_headers(tmp_path: Path, header: str) -> None:
    labels = read(tmp_path, header, "a.jpg,hot_dog", "a.jpg,cat", "b.jpg,cat", "b.jpg,sky")
    assert labels.names == ["a.jpg", "b.jpg"]
    assert labels.labels == [["hot_dog", "cat"], ["cat", "sky"]]
    assert "each row is one label of an image" in labels.notes


def test_long_tables_of_words_that_are_not_known(tmp_path: Path) -> None:
    rows = ("bild,stichwort", "a.jpg,cat", "a.jpg,dog", "b.jpg,cat", "b.jpg,sky")
    with pytest.raises(GrigriError, match="--label-columns"):
        read(tmp_path, *rows)
    labels = read(tmp_path, *rows, label_columns=("stichwort",))
    assert labels.labels == [["cat", "dog"], ["cat", "sky"]]

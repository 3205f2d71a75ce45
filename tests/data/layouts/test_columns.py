"""More tables of the kinds that were misread in silence once: columns that are no labels."""

from pathlib import Path

import pytest

from grigri_fast.data.layouts import LabelOptions, columns
from grigri_fast.data.layouts.table import Table
from grigri_fast.errors import GrigriError


def find(*rows: str, **how) -> tuple[Table, columns.Columns]:
    cells = [row.split(",") for row in rows]
    table = Table(Path("l.csv"), cells[0], cells[1:], list(range(2, 1 + len(cells))))
    return table, columns.find(table, LabelOptions(**how))


def names(table: Table, found: columns.Columns) -> list[str]:
    return [table.header[i] for i in found.labels]


def refused(*rows: str, says: str, **how) -> None:
    with pytest.raises(GrigriError) as error:
        find(*rows, **how)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["is_valid", "isValid", "is-val", "IS_VALIDATION", "is_test"])
def test_a_flag_of_a_part_is_no_class(name: str) -> None:
    table, found = find(f"image,cat,dog,{name}", "a.jpg,1,0,0", "b.jpg,0,1,1")
    assert names(table, found) == ["cat", "dog"]
    assert found.parts == ["train", "test" if name == "is_test" else "val"]
    assert f"{name!r} says what is for training, validation and test" in found.notes


@pytest.mark.parametrize("name", ["fold", "kfold", "Unnamed: 0", "index", "weight", "width"])
def test_flags_that_are_no_classes(name: str) -> None:
    table, found = find(f"{name},image,cat,dog", "0,a.jpg,1,0", "1,b.jpg,0,1")
    assert names(table, found) == ["cat", "dog"] and found.parts is None
    assert f"columns not used: {name!r}" in found.notes


def test_a_fold_beside_a_binary_label_is_asked_about() -> None:
    rows = ("image,target,kfold", "a.jpg,1,0", "b.jpg,0,1", "c.jpg,1,2")
    refused(*rows, says="one class 'target' that an image has or not (--layout one-hot")
    table, found = find(*rows, label_columns=("target",))
    assert names(table, found) == ["target"] and found.kind == "label-column"


def test_parts_in_words_and_columns_beside_them() -> None:
    table, found = find(
        "file,labels,phase,md5", "a.jpg,x,Training,1", "b.jpg,y,dev,2", "c.jpg,y,TEST,3"
    )
    assert found.parts == ["train", "val", "test"] and names(table, found) == ["labels"]
    assert "columns not used: 'md5'" in found.notes


@pytest.mark.parametrize(
    "rows, says",
    [
        (("image,labels,split", "a.jpg,x,train", "b.jpg,y,holdout"), "'holdout' is no part"),
        (("image,labels,split,set", "a.jpg,x,train,val", "b.jpg,y,val,train"), "both be the split"),
        (("image,labels,patient,group", "a.jpg,x,1,2", "b.jpg,y,1,2"), "can both be groups"),
        (("image,cat,dog", "a.jpg,1,0", "b.jpg,0,maybe"), "'maybe' is neither 0 nor 1, as its"),
        (("image,cat,dog", "a.jpg,1,yes", "b.jpg,0,1"), "is neither 0 nor 1, as its other cells"),
        (("image,cat,place", "a.jpg,1,sea", "b.jpg,0,sea"), "'place' (such as 'sea') beside 0/1"),
        (("image,labels,tags", "a.jpg,x,y", "b.jpg,y,z"), "'labels' and 'tags' can both hold"),
        (("image,file,labels", "a.jpg,c.jpg,x", "b.jpg,d.jpg,y"), "can both name the images"),
        (("x,y", "1,2", "3,4"), "no column names the images"),
        (("a.jpg,cat", "b.jpg,dog"), "looks like a row, not like a header"),
        (("image,labels,cat", "a.jpg,x,1", "b.jpg,y,0"), "labels can be in 'labels'"),
    ],
)
def test_two_readings_are_refused(rows: tuple[str, ...], says: str) -> None:
    refused(*rows, says=says)


def test_options_settle_what_is_refused() -> None:
    rows = ("image,labels,split,set", "a.jpg,x,train,1", "b.jpg,y,val,2")
    assert find(*rows, split_column="none")[1].parts is None
    assert find(*rows, split_column="split")[1].parts == ["train", "val"]
    refused(*rows, says="no such column; there are image, labels", split_column="sett")
    grouped = find("image,labels,who", "a.jpg,x,p", "b.jpg,y,p", group_column="who")[1]
    assert grouped.groups == ["p", "p"]

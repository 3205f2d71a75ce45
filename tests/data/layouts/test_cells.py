"""More inputs of the kinds that were misread in silence once: cells, separators, "no label"."""

import pytest

from grigri_fast.data.layouts import LabelOptions, cells
from grigri_fast.errors import GrigriError


def read(*column: str, usual: str | None = None, **how) -> cells.Cells:
    options = LabelOptions(**how)
    place = "l.csv, column 'labels'"
    return cells.read_cells(place, column, lambda row: f"l.csv line {row + 2}", options, usual)


def refused(*column: str, says: str, **how) -> None:
    with pytest.raises(GrigriError) as error:
        read(*column, **how)
    assert says in str(error.value) and "\n" not in str(error.value)


# ------------------------------------------------------- labels are split by a rule that they obey


def test_commas_and_spaces_around_them() -> None:
    found = read("sea ,sky", "sea", "sky,  boat , sea", "boat")
    assert found.labels == [["sea", "sky"], ["sea"], ["sky", "boat", "sea"], ["boat"]]
    assert found.notes == ["labels are separated by ','"]


def test_a_comma_at_the_end_makes_no_class() -> None:
    assert read("cat,dog,", "cat,", "dog").labels == [["cat", "dog"], ["cat"], ["dog"]]


def test_names_from_wordnet_are_not_split() -> None:
    names = ("tench, Tinca tinca", "goldfish, Carassius auratus", "great white shark, man-eater")
    refused(*names, says="--separator ,) or one label (--separator none)")
    assert read(*names, separator="none").labels == [[name] for name in names]


def test_a_tab_between_labels_is_asked_about() -> None:
    refused("cat\tdog", "cat", says="(--separator space) or one label")
    assert read("cat\tdog", "cat", separator="tab").labels == [["cat", "dog"], ["cat"]]


def test_slashes_are_part_of_a_name_unless_asked() -> None:
    assert read("animal/cat", "animal/dog").labels == [["animal/cat"], ["animal/dog"]]
    assert read("cat/dog", "cat", separator="/").labels == [["cat", "dog"], ["cat"]]


# -------------------------------------------------------------------------- labels with spaces


def test_words_beside_a_separator_are_names() -> None:
    found = read("Pleural Thickening|No Finding", "Pleural Thickening", "Lung Opacity")
    assert found.labels[2] == ["Lung Opacity"]
    assert found.labels[0] == ["Pleural Thickening", "No Finding"]


def test_words_alone_are_asked_about_and_underscores_are_not() -> None:
    refused("great dane", "golden retriever", "pug", says="'great', 'dane' (--separator space)")
    assert read("great_dane", "pug").labels == [["great_dane"], ["pug"]]
    assert read("great dane", "pug", usual=" ").labels == [["great", "dane"], ["pug"]]
    assert read("great dane", "pug", separator="none").labels == [["great dane"], ["pug"]]


# ------------------------------------------------------------------------- structures in cells


def test_lists_of_python_and_of_json() -> None:
    assert read("['hot dog', \"cat's\"]", '["cat"]', "[]").labels == [
        ["hot dog", "cat's"],
        ["cat"],
        [],
    ]


@pytest.mark.parametrize(
    "column, says",
    [
        (['["cat", "dog"]', "cat|dog"], "line 3: 'cat|dog' is no list, and other cells are lists"),
        (['{"cat": 1}', '{"dog": 1}'], "is neither a name nor a list of names"),
        (['["cat", ["dog"]]'], "line 2: expected a list of names"),
        (['["cat", null]'], "line 2: expected a list of names"),
        (["['cat' 'dog', 3]"], "line 2: expected a list of names"),
        (["[cat, dog]"], "line 2: not a JSON list: '[cat, dog]'"),
        (["['a'] * 10**9"], "line 2: not a JSON list"),
    ],
)
def test_damaged_or_mixed_structures(column: list[str], says: str) -> None:
    refused(*column, says=says)


# ------------------------------------------------------------------------ ways to say "no label"


@pytest.mark.parametrize("word", ["NULL", "<NA>", "#N/A", "n/a", "--", "NIL"])
def test_more_words_for_no_label(word: str) -> None:
    found = read("cat|dog", word, f"cat|{word}")
    assert found.labels == [["cat", "dog"], [], ["cat"]]
    assert found.notes[1] == f"read as no label (--no-label): {word!r} (2)"


def test_words_that_only_look_like_no_label() -> None:
    assert read("nana", "no", "background").labels == [["nana"], ["no"], ["background"]]
    own = read("background", "NaN", no_label=("Background",))
    assert own.labels == [[], ["NaN"]]


def test_no_label_within_lists() -> None:
    assert read('["nan"]', '["cat", "None"]').labels == [[], ["cat"]]

"""Packed names and paths are what was packed, whatever the names are."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from grigri_fast.data import packed

NAMES = ["a.jpg", "", "é/ü.jpg", "\udcff.jpg", "\U0001f431", "a.jpg"]  # one is no UTF-8 on the disk


def test_the_items_are_those_that_were_packed() -> None:
    found = packed.names(iter(NAMES))
    assert list(found) == NAMES and found == NAMES and found == packed.names(NAMES)
    assert [found[i] for i in range(-6, 6)] == [*NAMES, *NAMES]
    assert found[np.intp(2)] == "é/ü.jpg"
    assert found[1:5:2] == NAMES[1:5:2]
    assert found != [*NAMES[:5], "b.jpg"] and found != packed.names(NAMES[:5])
    assert pickle.loads(pickle.dumps(found)) == NAMES
    assert packed.names([]) == [] and list(packed.names([])) == []
    for outside in (6, -7):
        with pytest.raises(IndexError):
            found[outside]


def test_the_same_characters_cut_otherwise_are_other_items() -> None:
    assert packed.names(["ab", "c"]) != packed.names(["a", "bc"])


def test_paths_may_be_given_as_texts() -> None:
    found = packed.paths(["/a/b.jpg", Path("c") / "\udcff.jpg"])
    assert found == [Path("/a/b.jpg"), Path("c/\udcff.jpg")]
    assert isinstance(found[0], Path)
    assert packed.paths(found) is found


def test_there_are_more_items_than_are_looked_at_in_a_row() -> None:
    names = [f"{i}.jpg" for i in range(2 * packed._AT_A_TIME + 1)]
    assert list(packed.names(names)) == names

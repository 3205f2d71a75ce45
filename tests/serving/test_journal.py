import os
from pathlib import Path

import pytest

from grigri_fast.data import corrections
from grigri_fast.errors import GrigriError
from grigri_fast.serving.journal import Journal


def test_each_decision_is_in_the_file_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "c.csv")
    assert not journal.path.exists()
    journal.add(("a, b.jpg", 'say "x"', "1"))
    journal.add(("a, b.jpg", 'say "x"', "unknown"))
    found = corrections.read(journal.path)
    assert [(one.image, one.label, one.value) for one in found] == [
        ("a, b.jpg", 'say "x"', "1"),
        ("a, b.jpg", 'say "x"', "unknown"),
    ]
    assert journal.value_of("a, b.jpg", 'say "x"') == "unknown"
    assert journal.value_of("other.jpg", "x") == "given"
    journal.close()
    again = Journal(journal.path)
    assert again.values == journal.values
    again.close()


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_kill_within_a_line_costs_that_line_at_most(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "c.csv"
    journal = Journal(path)
    journal.add(("a.jpg", "cat", "1"))
    whole = path.stat().st_size
    journal.add(("b.jpg", "dog", "unknown"))
    journal.close()
    os.truncate(path, max(whole, path.stat().st_size - cut))
    journal = Journal(path)
    assert journal.value_of("a.jpg", "cat") == "1"
    assert journal.value_of("b.jpg", "dog") in ("unknown", "given")
    journal.add(("c.jpg", "cat", "0"))
    journal.close()
    assert corrections.read(path)[-1].image == "c.jpg"
    assert Journal(path).value_of("c.jpg", "cat") == "0"


def test_a_file_that_an_editor_has_written_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("\ufeffvalue,who,image,class\r\n1,me,a.jpg,cat", encoding="utf-8")
    journal = Journal(path)
    journal.add(("b.jpg", "dog", "0"))
    journal.close()
    found = [(one.image, one.label, one.value) for one in corrections.read(path)]
    assert found == [("a.jpg", "cat", "1"), ("b.jpg", "dog", "0")]


def test_two_do_not_write_one_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "c.csv")
    journal.add(("a.jpg", "cat", "1"))
    with pytest.raises(GrigriError, match="another grigri-fast serve is writing it"):
        Journal(tmp_path / "c.csv")
    journal.close()
    Journal(tmp_path / "c.csv").close()


def test_what_cannot_be_written_leaves_the_file_whole(tmp_path: Path, monkeypatch) -> None:
    journal = Journal(tmp_path / "c.csv")
    journal.add(("a.jpg", "cat", "1"))
    before = journal.path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GrigriError, match="No space left on device"):
        journal.add(("b.jpg", "cat", "1"))
    assert journal.path.read_bytes() == before
    assert journal.value_of("b.jpg", "cat") == "given"
    journal.close()


def test_another_kind_of_file_and_a_folder_that_is_not_there_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("milk,bread\n1,2\n")
    with pytest.raises(GrigriError, match="expected the columns image, class, value"):
        Journal(tmp_path / "notes.csv")
    assert (tmp_path / "notes.csv").read_text() == "milk,bread\n1,2\n"
    with pytest.raises(GrigriError, match="corrections cannot be written there"):
        Journal(tmp_path / "gone" / "c.csv")

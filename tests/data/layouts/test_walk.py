"""Images in folders: what is found, and what is skipped and why."""

import os
from pathlib import Path

import pytest

from grigri_fast.data.layouts.labels import IMAGE_SUFFIXES
from grigri_fast.data.layouts.walk import images_below


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def below(folder: Path, paths: list[Path]) -> list[str]:
    return [str(path.relative_to(folder)) for path in paths]


def test_every_suffix_of_an_image_counts_in_any_case(tmp_path: Path) -> None:
    names = [
        *("a.jpg", "b.jpeg", "c.jpe", "d.jfif", "e.JPG", "f.Jfif", "g.PNG", "h.webp"),
        *("i.bmp", "j.TIF", "k.tiff"),
    ]
    write(tmp_path, *names)
    found = images_below(tmp_path, recursive=False)
    assert below(tmp_path, found.images) == sorted(names)
    assert not found.skipped and not found.in_words()


def test_what_is_no_image_is_counted_by_its_suffix(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "b.txt", "c.TXT", "d.gif", "e.tar.gz", "LICENSE", "f.jpg.part")
    found = images_below(tmp_path, recursive=True)
    assert below(tmp_path, found.images) == ["a.jpg"]
    assert {reason: len(paths) for reason, paths in found.skipped.items()} == {
        ".txt": 2,
        ".gif": 1,
        ".gz": 1,
        ".part": 1,
        "no suffix": 1,
    }
    assert found.in_words() == "1 .gif, 1 .gz, 1 .part, 2 .txt, 1 no suffix (LICENSE)"


HIDDEN = ["._a.jpg", ".b.jpg", ".ipynb_checkpoints/a.jpg", ".Trash-1000/files/a.jpg"]
SYSTEM = [
    *("@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", "__MACOSX/._a.jpg", "$RECYCLE.BIN/$R1.jpg"),
    *("#recycle/a.jpg", "System Volume Information/a.jpg", "lost+found/a.jpg", "Thumbs.db"),
]


@pytest.mark.parametrize("inside", ["", "holiday/2025"])
def test_hidden_and_system_files_and_folders_are_skipped(tmp_path: Path, inside: str) -> None:
    write(tmp_path / inside, "a.jpg", *HIDDEN, *SYSTEM)
    found = images_below(tmp_path, recursive=True)
    assert found.images == [tmp_path / inside / "a.jpg"]
    assert set(found.skipped) == {"hidden", "system"}
    for reason, names in (("hidden", HIDDEN), ("system", SYSTEM)):
        tops = sorted({name.split("/")[0] for name in names})
        assert below(tmp_path / inside, found.skipped[reason]) == tops
    assert found.in_words() == "4 hidden (.Trash-1000, ...), 7 system (#recycle, ...)"


def test_a_folder_that_is_asked_for_is_searched_whatever_its_name(tmp_path: Path) -> None:
    write(tmp_path, ".cache/@eaDir/a.jpg")
    found = images_below(tmp_path / ".cache/@eaDir", recursive=True)
    assert below(tmp_path, found.images) == [".cache/@eaDir/a.jpg"]


def test_folders_are_searched_only_if_asked(tmp_path: Path) -> None:
    write(tmp_path, "b.jpg", "a/c.jpg", "a/d/e.jpg", "photo.jpg/f.jpg", ".git/g.jpg")
    flat = images_below(tmp_path, recursive=False)
    assert below(tmp_path, flat.images) == ["b.jpg"]
    assert below(tmp_path, flat.folders) == ["a", "photo.jpg"]
    deep = images_below(tmp_path, recursive=True)
    assert below(tmp_path, deep.images) == ["a/c.jpg", "a/d/e.jpg", "b.jpg", "photo.jpg/f.jpg"]
    assert not deep.folders


def test_links_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path, "photos/z/a.jpg", "elsewhere/b.jpg")
    photos = tmp_path / "photos"
    (photos / "loop").symlink_to(photos)
    (photos / "a").symlink_to(photos / "z")  # sorts before z, and yet z is searched by its name
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(photos / "linked")
    (photos / "gone.jpg").symlink_to(tmp_path / "nowhere")  # the check says what is wrong with it
    found = images_below(photos, recursive=True)
    assert below(photos, found.images) == ["gone.jpg", "linked/b.jpg", "z/a.jpg"]
    assert below(photos, found.skipped["linked twice"]) == ["a", "linked/back", "loop"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "a/b.jpg")
    (tmp_path / "a").chmod(0)
    try:
        with pytest.raises(PermissionError) as raised:
            images_below(tmp_path, recursive=True)
        assert raised.value.filename == str(tmp_path / "a")
    finally:
        (tmp_path / "a").chmod(0o755)


@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".avif"])
def test_heif_is_an_image_or_names_what_to_install(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, f"a{suffix}")
    found = images_below(tmp_path, recursive=True)
    if suffix.lower() in IMAGE_SUFFIXES:
        assert below(tmp_path, found.images) == [f"a{suffix}"]
    else:
        assert found.in_words() == f"1 {suffix.lower()} (pip install pillow-heif reads them)"

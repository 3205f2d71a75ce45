"""Images in folders: what is found, and what is skipped and why."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_images_that_need_a_library_name_it(tmp_path: Path) -> None:
    """HEIC and AVIF are images; without the library that reads them it is said what to install."""
    write(tmp_path, "a.heic", "b.HEIF", "c.avif")
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"  # as if it were not installed
        "from PIL import features; features.check = lambda name: False\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name: None if name == 'pillow_heif' else find(name)\n"
        "from pathlib import Path; from grigri_fast.data.layouts.walk import images_below\n"
        "found = images_below(Path(sys.argv[1]), True); print(found.images, found.in_words())"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "[] 1 .avif (to read them: pip install -U pillow), "
        "1 .heic (to read them: pip install pillow-heif), "
        "1 .heif (to read them: pip install pillow-heif)"
    )
    pytest.importorskip("pillow_heif")
    assert below(tmp_path, images_below(tmp_path, True).images) == ["a.heic", "b.HEIF", "c.avif"]

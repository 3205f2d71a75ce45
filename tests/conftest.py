"""Fixtures that many tests use."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

os.environ["KINETO_LOG_LEVEL"] = "99"  # read when PyTorch is imported; see cli.profile

import pytest
from pages import BROWSER, browse
from small_set import write_photos

from grigri_fast.cli.main import main
from grigri_fast.runtime import cpu_share

# A shell that runs tests in the background has Ctrl-C ignored, and so would what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch) -> None:
    """Use one CPU thread where none is asked for: two wait for each other if a machine is busy."""
    monkeypatch.setattr(cpu_share, "usable_cpus", lambda: 1)


@pytest.fixture(scope="session", autouse=True)
def not_the_users_cache(tmp_path_factory) -> Iterator[None]:
    """Keep what fixtures of a module remember of checked files out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory) -> None:
    """Give each test a cache of its own, so that no test depends on what another remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def cli(capfd):
    """Run the real command in this process: returns (exit code, stdout, stderr)."""

    def call(*args: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(a) for a in args])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return the small data set, for a test to change."""
    return write_photos(tmp_path / "photos")


@pytest.fixture(scope="session")
def photos_once(tmp_path_factory) -> Path:
    """Return the small data set, for tests that leave it as it is."""
    return write_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="session")
def grigri() -> Path:
    """Return the real data set; skip where GRIGRI_DATA does not name it."""
    folder = os.environ.get("GRIGRI_DATA")
    if not folder:
        pytest.skip("GRIGRI_DATA does not name the real data set")
    return Path(folder)


@pytest.fixture
def browser(tmp_path: Path) -> None:
    """Skip where there is no browser, or one that cannot even open a blank page."""
    if BROWSER is None:
        pytest.skip("no chromium or google-chrome to open the page in")
    blank = tmp_path / "blank.html"
    blank.write_text("<p>hello</p>")
    try:
        assert "hello" in browse(blank, tmp_path / "profile", "light", 1280)[0]
    except (AssertionError, OSError, subprocess.TimeoutExpired) as e:
        pytest.skip(f"{BROWSER} does not start here: {str(e)[-200:]}")

"""Fixtures that many tests use."""

import gc
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

os.environ["KINETO_LOG_LEVEL"] = "99"  # read when PyTorch is imported; see cli.profile

import pytest
import torch
import warm_check
from pages import BROWSER, browse
from small_set import write_photos

from grigri_fast.cli.main import main
from grigri_fast.pipeline import check
from grigri_fast.runtime import cpu_share

# A shell that runs tests in the background has Ctrl-C ignored, and so would what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


# The modules that take longest, in the order in which several processes begin them: each takes a
# module at a time, and all end together if none begins a long one last.
LONGEST = (
    "test_readme.py",
    "training/test_interruption.py",
    "test_acceptance.py",
    "models/test_timm_networks.py",
    "data/test_demo.py",
    "experiments/test_reproduce.py",
    "runtime/test_distributed.py",
    "training/test_autobatch.py",
    "data/test_stratification.py",
    "serving/test_browser.py",
    "cli/test_main.py",
    "training/test_resume.py",
    "cli/test_train.py",
    "test_public_api.py",
    "experiments/test_tuner.py",
    "data/test_download.py",
    "cli/test_evaluate.py",
    "inference/test_exporter.py",
    "inference/test_onnx.py",
    "training/test_trainer.py",
    "curation/test_check.py",
    "profiling/test_benchmark.py",
    "training/test_linear_probe.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return two processes more than CPUs: tests wait for files, processes and signals."""
    return len(os.sched_getaffinity(0)) + 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest modules where several processes share the work."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over the libraries and tests: half a million objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def one_thread(monkeypatch) -> None:
    """Use one CPU thread where none is asked for: two wait for each other if a machine is busy."""
    monkeypatch.setattr(cpu_share, "usable_cpus", lambda: 1)
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def warm_checks() -> Iterator[None]:
    """Fork the process that checks images; test_check.py starts it as the program does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check._Process, "start", warm_check.start)
        yield


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

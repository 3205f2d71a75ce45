from collections.abc import Iterator
from pathlib import Path

import pytest
from small_site import client_of, train, write_nasty_photos
from starlette.testclient import TestClient

from grigri_fast.runtime.compute import Compute
from grigri_fast.serving.scored_run import ScoredRun


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """Return a run of a small set with a class name that is HTML, all of it in one folder."""
    return train(write_nasty_photos(tmp_path_factory.mktemp("serve") / "photos"), name="first")


@pytest.fixture(scope="session")
def scored(run: Path) -> ScoredRun:
    return ScoredRun.of(run, "last", Compute.resolve(device="cpu", threads=1), 10_000_000)


@pytest.fixture
def site(scored: ScoredRun, tmp_path: Path) -> Iterator[TestClient]:
    with client_of(scored, tmp_path / "c.csv") as client:
        yield client

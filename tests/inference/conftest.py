from pathlib import Path

import pytest
from exported_runs import make_run

from grigri_fast.inference import exporter


@pytest.fixture(scope="session")
def good(tmp_path_factory, photos_once: Path) -> Path:
    """Return a run with an exported file, for tests that leave both as they are."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "good", photos_once, "grigri", 32)
    exporter.export(folder, threads=1)
    return folder

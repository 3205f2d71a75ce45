"""The files that other programs read about this project agree with it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from grigri_fast import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_has_the_version_and_licence_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (__version__, PROJECT["license"])
    assert citation["title"] == PROJECT["name"]


def test_the_public_workflow_runs_what_ci_runs_on_every_version_that_is_claimed() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    of_python = re.compile(r"Programming Language :: Python :: (3\.\d+)")
    claimed = [m[1] for m in map(of_python.fullmatch, PROJECT["classifiers"]) if m]
    assert job["strategy"]["matrix"]["python"] == claimed
    assert PROJECT["requires-python"] == f">={claimed[0]}"


def test_the_linter_before_a_commit_is_that_of_ci() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (revision,) = [r["rev"] for r in config["repos"] if r["repo"].endswith("ruff-pre-commit")]
    assert f"ruff=={revision.removeprefix('v')}" in (ROOT / "constraints.txt").read_text().split()


def test_the_image_is_made_of_files_and_extras_that_are_there() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    assert set(copied) == kept
    assert all((ROOT / name).exists() for name in copied)
    (extras,) = re.findall(r'"/src\[(.+)\]"', "\n".join(lines))
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


@pytest.mark.slow
def test_the_manual_becomes_pages_that_work_without_a_network(tmp_path) -> None:
    """Every link in it leads somewhere: Sphinx would warn, and -W makes that an error."""
    words = ["-m", "sphinx", "-q", "-W", "--keep-going", "-c", ".manual", ".", str(tmp_path)]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    manual = [p.relative_to(ROOT) for p in (ROOT / "grigri_fast").rglob("README.md")]
    for page in ("index.html", "search.html", *(p.with_suffix(".html") for p in manual)):
        html = (tmp_path / page).read_text()
        loads = re.findall(r'<(?:script|link|img|source)\b[^>]*(?:src|href|srcset)="([^"]*)"', html)
        assert loads
        assert not [url for url in loads if "//" in url], page
    assert "threshold" in (tmp_path / "searchindex.js").read_text()

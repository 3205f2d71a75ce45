"""Make a record's result.json of finished run folders: config, environment, every epoch, scores.

    python benchmarks/record_runs.py RUN [RUN ...] --out benchmarks/records/<name>/result.json

Where things lie on this machine is left out. Runs that the file holds already are kept.
"""

import argparse
from pathlib import Path
from typing import Any

from grigri_fast import config
from grigri_fast.runs import run_folder
from grigri_fast.runtime import files

_PLACES = ("data", "images", "split", "out", "name")


def of_run(folder: Path, commit: str) -> dict[str, Any]:
    """Return what a run folder says, without places."""
    options = config.read_toml(folder / run_folder.CONFIG)
    environment = files.read_json(folder / run_folder.ENVIRONMENT)
    environment.pop("platform", None)
    words = environment["command"].split(" --out ")[0]  # ours are given last
    return {
        "commit": commit,
        "command": words,
        "config": {k: v for k, v in options.items() if k not in _PLACES},
        "environment": environment | {"command": words},
        "epochs": run_folder.read_results(folder / run_folder.RESULTS),
        "summary": files.read_json(folder / run_folder.SUMMARY),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--commit", required=True, help="that they were made with")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    runs = files.read_json(options.out).get("runs", [])
    runs += [of_run(folder, options.commit) for folder in options.runs]
    files.write_json(options.out, {"n": len(runs), "runs": runs})


if __name__ == "__main__":
    main()

"""The house's rules, read from the source: who may import whom, and what --help may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "grigri_fast"
FLOORS = [
    {"errors"},
    {"files", "interrupt", "networks", "verbosity", "watcher"},
    {
        *("config", "metrics", "losses", "optim", "geometry", "devices", "imagefile", "memory"),
        *("plan", "charts", "page", "document", "download", "distributed"),
    },
    {
        *("dataset", "split", "models", "run", "demo", "verdicts", "decode", "warp", "usual"),
        *("ledger", "sampling", "fetch"),
    },
    {
        "augment",
        "inspection",
        "pipeline",
        "step",
        "tuning",
        "checkpoint",
        "provenance",
        "quarantine",
        "figures",
        "tracker",
    },
    {"trial", "survey", "evaluating", "export", "predicting", "keeper", "together", "training"},
    {
        *(
            "bench",
            "profiling",
            "tune",
            "reproduce",
            "study",
            "screens",
            "report",
            "clean",
            "info",
            "api",
            "cli",
        ),
    },
]
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}
# Steps within a floor, each with its reason.
SAME_FLOOR = {
    ("optim", "config"),  # an optimizer is made from a config
    ("split", "dataset"),  # a split is of a data set
    ("pipeline", "inspection"),  # only what was checked is decoded
    ("training", "evaluating"),  # an epoch ends with an evaluation
    ("training", "together"),  # of several processes each makes its part
    ("training", "keeper"),  # which keeps what it leaves
    ("tuning", "step"),  # what is measured is the step
    ("config", "imagefile"),  # the limit on pixels is an option
    ("predicting", "evaluating"),  # predicting is the first half of evaluating
    ("export", "evaluating"),  # what is exported is compared with it
    ("export", "trial"),  # on random images where there are no others
    ("predicting", "export"),  # a file that was exported is taken in the place of a run
    ("training", "trial"),  # what a run will take is tried before it
    ("evaluating", "trial"),
    ("predicting", "trial"),
    ("plan", "config"),  # a plan changes a config
    ("profiling", "bench"),  # the same images and the same step
    ("cli", "info"),
    ("cli", "api"),  # a command parses, calls and shows
    ("screens", "profiling"),
    ("cli", "profiling"),
    ("cli", "screens"),
    ("screens", "bench"),
    ("cli", "bench"),
    ("study", "reproduce"),  # what the rows have left behind is shown
    ("screens", "study"),
    ("screens", "reproduce"),
    ("cli", "reproduce"),
    ("cli", "study"),
    ("screens", "tune"),
    ("cli", "tune"),
    ("cli", "report"),
    ("clean", "report"),  # its photographs
    ("screens", "clean"),
    ("cli", "clean"),
    ("page", "charts"),  # its style is a part of the page's
    ("document", "page"),  # it stands in the same frame
    ("document", "charts"),  # and escapes in the same way
}
MODULES = sorted(p.stem for p in PACKAGE.glob("*.py") if not p.stem.startswith("__"))


def imports_of(module: str) -> tuple[set[str], set[str]]:
    """Return the names of the package's modules and of other packages that a module imports."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            others |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            others.add(node.module.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            named = [node.module] if node.module else [alias.name for alias in node.names]
            ours |= {name for name in named if name in FLOOR_OF}
    return ours, others


def test_every_module_has_its_floor() -> None:
    assert set(MODULES) == set(FLOOR_OF)


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_point_down(module: str) -> None:
    ours, _ = imports_of(module)
    for other in ours:
        allowed = FLOOR_OF[other] < FLOOR_OF[module] or (module, other) in SAME_FLOOR
        assert allowed, f"{module} imports {other}"


@pytest.mark.parametrize(
    "package, allowed",
    [
        ("nvidia", {"decode", "pipeline"}),
        ("typer", {"cli"}),
        ("rich", {"screens"}),
        ("skmultilearn", {"split"}),
        ("torchvision", {"models", "usual"}),
        ("matplotlib", {"figures"}),
        ("optuna", {"tune"}),
        ("onnxruntime", {"export"}),
        ("imagehash", {"clean"}),
        ("cleanlab", {"clean"}),
        ("tensorboard", set()),  # torch.utils.tensorboard, in tracker, is the way to it
    ],
)
def test_each_library_is_behind_one_door(package: str, allowed: set[str]) -> None:
    assert {module for module in MODULES if package in imports_of(module)[1]} == allowed


COMMANDS = [
    [],
    ["train"],
    ["tune"],
    ["eval"],
    ["predict"],
    ["export"],
    ["report"],
    ["bench"],
    ["reproduce"],
    ["info"],
    ["data"],
    ["data", "check"],
    ["data", "split"],
    ["data", "demo"],
    ["data", "fetch"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c) or "main")
def test_help_loads_nothing_heavy_and_gives_an_example(command: list[str]) -> None:
    code = (
        "import sys; from grigri_fast.cli.main import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'torchvision', 'nvidia', 'cv2', 'numpy', 'matplotlib', 'sklearn'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr.strip() == "[]"
    assert "Example:  grigri-fast" in done.stdout

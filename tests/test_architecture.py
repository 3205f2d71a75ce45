"""The architecture, read from the source: who may import whom, and what --help may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from exported_runs import make_run

PACKAGE = Path(__file__).parent.parent / "grigri_fast"
# What each sub-package may import besides itself, `errors` and `runtime`. The data flow down this
# table; nothing imports a row below its own.
MAY_IMPORT = {
    "runtime": set(),
    "config": set(),
    "models": set(),
    "data": set(),
    "pipeline": {"models"},
    "runs": {"config", "data", "models"},
    "inference": {"config", "data", "pipeline", "models", "runs"},
    "evaluation": {"config", "data", "pipeline", "inference", "runs"},
    "reporting": {"config", "evaluation", "pipeline", "runs"},
    "training": {
        *("config", "models", "data", "pipeline", "runs"),
        *("inference", "evaluation", "reporting"),
    },
    "curation": {
        *("config", "data", "pipeline", "inference", "evaluation", "reporting", "runs"),
        "training",
    },
    "experiments": {
        *("config", "data", "pipeline", "inference", "evaluation", "reporting", "runs"),
        *("training", "models"),
    },
    "profiling": {
        *("config", "data", "pipeline", "inference", "models", "reporting", "runs"),
        "training",
    },
}
MAY_IMPORT["serving"] = {
    *("config", "data", "pipeline", "inference", "evaluation", "reporting", "runs"),
    "curation",
}
MAY_IMPORT["cli"] = set(MAY_IMPORT)
GROUND = {"errors", "runtime"}
# Libraries that one module alone imports, so that one place knows each of them.
ONE_DOOR = {
    "nvidia": {"pipeline.decode"},
    "typer": {"cli"},
    "rich": {"cli"},
    "skmultilearn": {"data.stratification"},
    "torchvision": {"profiling.baseline"},  # others by runtime.imports
    "matplotlib": {"reporting.plots"},
    "jinja2": {"reporting.html"},
    "markdown_it": {"reporting.markdown"},
    "optuna": {"experiments.tuner"},
    "timm": {"models.timm_networks"},
    "huggingface_hub": {"models.timm_networks", "runtime.environment"},
    "onnxruntime": {"inference.onnx"},
    "openvino": {"inference.openvino"},
    "imagehash": {"curation.duplicates"},
    "cleanlab": {"curation.label_issues"},
    "starlette": {"serving.guard", "serving.site"},
    "uvicorn": {"serving.serve"},
    "tensorboard": set(),  # torch.utils.tensorboard, in training.tensorboard, is the way to it
}
FILES = sorted(PACKAGE.rglob("*.py"))
_TOP = {"__init__", "__main__"}  # the public face, and the program: they may name everything


def name_of(file: Path) -> str:
    """Return a module's name below the package, like ``data.split`` or ``config``."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports_of(file: Path) -> tuple[set[str], set[str]]:
    """Return the parts of the package and the other packages that a module imports."""
    folder = file.relative_to(PACKAGE).parts[:-1]
    ours, others = set(), set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            others |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            others.add(node.module.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            start = folder[: len(folder) - node.level + 1]
            path = [*start, *(node.module.split(".") if node.module else [])]
            ours |= {path[0]} if path else {alias.name for alias in node.names}
    return ours & {*MAY_IMPORT, *GROUND}, others


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_module_imports_only_what_its_folder_may(file: Path) -> None:
    name = name_of(file)
    part = name.partition(".")[0]
    if part in _TOP:
        return
    allowed = MAY_IMPORT.get(part, set()) | GROUND | {part}
    assert imports_of(file)[0] <= allowed, f"{name} imports {imports_of(file)[0] - allowed}"


def test_the_table_has_every_folder_and_no_circle() -> None:
    parts = {name_of(file).partition(".")[0] for file in FILES} - _TOP
    assert parts == {*MAY_IMPORT, "errors"}
    order = list(MAY_IMPORT)
    for part, allowed in MAY_IMPORT.items():
        assert all(order.index(other) < order.index(part) or part == "cli" for other in allowed)


@pytest.mark.slow
@pytest.mark.parametrize("package", ONE_DOOR)
def test_each_library_is_behind_one_door(package: str) -> None:
    found = {name_of(file) for file in FILES if package in imports_of(file)[1]}
    if ONE_DOOR[package] == {"cli"}:
        assert found and all(name.startswith("cli.") for name in found)
    else:
        assert found == ONE_DOOR[package]


def test_files_and_functions_are_of_a_size_to_read() -> None:
    """At most 500 lines a file; a function of more than 80 says why, where it begins."""
    for file in FILES:
        text = file.read_text()
        lines = text.splitlines()
        is_small_by_nature = file.stem in {"__init__", "__main__", "errors"}
        assert len(lines) <= 500, f"{name_of(file)}: {len(lines)} lines"
        assert len(lines) >= 40 or is_small_by_nature, f"{name_of(file)}: {len(lines)} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                reason = "long: " in lines[node.lineno - 2]
                assert length <= 80 or reason, f"{name_of(file)}.{node.name}: {length} lines"


COMMANDS = [
    [],
    ["train"],
    ["tune"],
    ["eval"],
    ["predict"],
    ["export"],
    ["report"],
    ["learning-curve"],
    ["suggest"],
    ["bench"],
    ["profile"],
    ["reproduce"],
    ["info"],
    ["data"],
    ["data", "check"],
    ["data", "split"],
    ["data", "demo"],
    ["data", "fetch"],
]


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "also"), [("grigri", {"torchvision"}), ("resnet18", set())])
def test_predict_imports_only_what_it_uses(tmp_path, photos_once, arch: str, also: set) -> None:
    """PyTorch's compiler and torchvision take a second each; SciPy and matplotlib half of one."""
    run = make_run(tmp_path / "run", photos_once, arch, 32)
    unused = {"torch._dynamo", "timm", "scipy", "sklearn", "matplotlib"} | also
    code = (
        "import sys; from grigri_fast.cli.main import main; code = main(sys.argv[1:]);"
        f"print(sorted({unused} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    image = next(photos_once.rglob("*.jpg"))
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", run, image, "--threads=1"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")


@pytest.mark.slow
def test_torchvision_without_the_compiler_is_torchvision() -> None:
    """In a process of its own: what is imported once is there for good."""
    code = (
        "import sys, torch; from grigri_fast.runtime import imports\n"
        "torchvision = imports.torchvision()\n"
        "assert not [name for name in sys.modules if name.startswith('torch._dynamo')]\n"
        "box = torch.tensor([[0.0, 0, 0, 4, 4]])\n"
        "x = torch.arange(64.0).reshape(1, 1, 8, 8)\n"
        "found = torchvision.ops.roi_align(x, box, 2, aligned=False)\n"
        "assert found.flatten().tolist() == [9, 11, 25, 27], found\n"
        "import torch._dynamo; assert torch._dynamo.utils.counters is not None\n"
        "assert imports.torchvision() is torchvision\n"
        "del sys.modules['torch._dynamo.utils']\n"
        "later = sys.modules['torch._dynamo.utils'] = imports._Later('torch._dynamo.utils')\n"
        "from torch._dynamo.utils import counters  # what torchvision may ask for one day\n"
        "assert sys.modules['torch._dynamo.utils'] is not later\n"
        "assert later.is_compile_supported('cpu') in (True, False)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")

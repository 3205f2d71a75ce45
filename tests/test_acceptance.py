"""The GPU acceptance run: its logic, with real processes, and a rehearsal of all parts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "gpu_acceptance.py"
sys.path.append(str(ROOT / "benchmarks"))

import gpu_plan  # noqa: E402
from gpu_record import Goal, Part, Record  # noqa: E402

# A plan whose parts go wrong in all ways; it needs neither PyTorch nor a GPU.
FAKE = """
import os, pathlib, signal, time
from gpu_record import Goal, Part, SkippedError

def part(name, box_s, *figures):
    return Part(name, 1 + (name == "later"), name, box_s, f"fake_plan:{name}", figures)

PARTS = (
    part("good", 9, "x", "pid"), part("raising", 9, "x", "y"), part("undeclared", 9, "x"),
    part("lacking", 9, "x", "y"), part("skipped", 9, "x"), part("poisoning", 9, "x", "pid"),
    part("crashing", 9, "x", "pid"), part("slow", 1, "x", "y", "pid"),
    part("exiting", 9, "x"), part("odd", 9, "x", "pid"), part("later", 9, "x"),
)
GOALS = (
    Goal("good", "x", "at most", 1, "why"), Goal("raising", "x", "at least", 5, "why"),
    Goal("raising", "y", "at least", 5, "why"), Goal("odd", "x", "at least", 5, "why"),
)
broken = False
def environment(): return {"gpu": "a GPU", "cpu": "a CPU", "packages": {"torch": "2.15"}}
def has_gpu(): return "NO_GPU" not in os.environ
def clean_up():
    if broken: raise RuntimeError("CUDA error: an illegal memory access was encountered")
def good(place, put): put("x", 1); put("pid", os.getpid())
def raising(place, put):
    put("x", 1)
    raise ValueError("the reason")
def undeclared(place, put): put("z", 1)
def lacking(place, put): put("x", 1)
def skipped(place, put): raise SkippedError("no such wheel")
def poisoning(place, put):
    global broken
    broken = True
    put("pid", os.getpid())
    raise RuntimeError("CUDA error")
def crashing(place, put):
    put("pid", os.getpid())
    os.kill(os.getpid(), signal.SIGSEGV)
def slow(place, put):
    put("pid", os.getpid())
    put("x", 1)
    child = os.fork()
    if child == 0:
        while True: time.sleep(1)
    (place.out / "grandchild").write_text(str(child))
    time.sleep(60)
def exiting(place, put): raise SystemExit("FAILED: as a benchmark ends")
def odd(place, put): put("x", float("nan")); put("pid", os.getpid())
def later(place, put): put("x", 1)
"""
ALL = ("good", "raising", "undeclared", "lacking", "skipped", "poisoning", "crashing", "slow")
ALL += ("exiting", "odd")


def start(tmp_path: Path, *words: object, plan: str = FAKE, **environment: str):
    (tmp_path / "fake_plan.py").write_text(plan)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, SCRIPT, tmp_path, "--out", tmp_path / "o", "--plan=fake_plan", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def acceptance(tmp_path: Path, *words: object, **more: str) -> tuple[int, str, dict]:
    process = start(tmp_path, *words, **more)
    said, _ = process.communicate()
    file = tmp_path / "o" / "result.json"
    return process.returncode, said, json.loads(file.read_text()) if file.exists() else {}


def test_whatever_a_part_does_the_next_one_is_done_and_figures_stay(tmp_path: Path) -> None:
    code, said, result = acceptance(tmp_path, "--stage=1", "--commit=abc")
    assert code == 1 and tuple(result["parts"]) == ALL, said
    parts = result["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "good": "done",
        "raising": "failed",
        "undeclared": "failed",
        "lacking": "failed",
        "skipped": "skipped",
        "poisoning": "failed",
        "crashing": "crashed",
        "slow": "out of time",
        "exiting": "failed",
        "odd": "done",
    }
    assert parts["raising"]["error"][-1] == "ValueError: the reason"
    assert parts["raising"]["figures"] == {"x": 1}
    assert "'z'" in parts["undeclared"]["error"][-1]
    assert parts["lacking"]["error"] == ["figures are missing: y"]
    assert parts["skipped"]["error"] == ["no such wheel"]
    assert "SIGSEGV" in parts["crashing"]["error"][-1]
    assert "more than its 1 s" in parts["slow"]["error"][-1] and 1 <= parts["slow"]["seconds"] < 9
    assert parts["slow"]["figures"]["x"] == 1
    # One process until something breaks it, and a new one after that.
    pids = [parts[n]["figures"]["pid"] for n in ("good", "poisoning", "crashing", "slow", "odd")]
    assert pids[0] == pids[1] and len(set(pids)) == 4
    call = result["calls"][0]
    assert [child["from"] for child in call["processes"]] == ["good", "crashing", "slow", "exiting"]
    assert call["commit"] == "abc" and call["seconds"] > 1
    # What the part that was killed had started is gone, too.
    grandchild = int((tmp_path / "o" / "grandchild").read_text())
    assert not Path(f"/proc/{grandchild}/cmdline").exists() or not (
        Path(f"/proc/{grandchild}/cmdline").read_bytes()
    )
    outcomes = [(goal["outcome"], goal["found"]) for goal in result["goals"]]
    expected = [("met", 1), ("missed", 1), ("not measured", None), ("missed", "nan")]
    assert outcomes == expected
    assert "missed        raising.x at least 5  (found 1)" in said
    assert "ValueError: the reason" in (tmp_path / "o" / "stage-1.log").read_text()
    draft = (tmp_path / "o" / "README.md").read_text()
    assert "| raising.x at least 5 (why) | 1 | missed |" in draft and "torch 2.15" in draft
    assert "| raising | failed: ValueError: the reason |" in draft and call["started"] in draft
    assert call["environment"]["gpu"] == "a GPU"
    # Another call keeps what is there, but for what it does anew.
    code, said, result = acceptance(tmp_path, "--only", "later", "good")
    assert tuple(result["parts"]) == (*ALL[1:], "good", "later") and len(result["calls"]) == 2


def test_all_is_well_where_all_is_done_and_goals_are_met(tmp_path: Path) -> None:
    code, said, result = acceptance(tmp_path, "--only", "good", "skipped", "later")
    assert code == 0 and "missed" not in said and result["is_rehearsal"] is False
    code, said, _ = acceptance(tmp_path, "--only", "nothing")
    assert code == 2 and "'nothing'" in said


def test_a_rehearsal_cannot_be_taken_for_a_measurement(tmp_path: Path) -> None:
    code, _, result = acceptance(tmp_path, "--rehearse", "--only", "good", "odd", NO_GPU="1")
    assert code == 0 and result["is_rehearsal"] is True and "rehearsal" in result["note"]
    assert not (tmp_path / "o" / "README.md").exists()
    assert all("figures" not in part for part in result["parts"].values())
    assert result["parts"]["good"]["rehearsed_figures"]["x"] == 1
    assert {goal["outcome"] for goal in result["goals"]} == {"not measured"}
    assert [g["rehearsed"] for g in result["goals"]] == ["met", *2 * ["not measured"], "missed"]
    code, said, after = acceptance(tmp_path, "--only", "good")
    assert code == 1 and "is of a rehearsal" in said and said.count("\n") == 1 and after == result


def test_without_a_gpu_it_says_so_in_a_line_and_leaves_nothing(tmp_path: Path) -> None:
    code, said, result = acceptance(tmp_path, "--only", "good", NO_GPU="1")
    assert code == 1 and "no CUDA GPU" in said and said.count("\n") == 1 and not result


@pytest.mark.slow
def test_the_time_of_a_call_ends_it(tmp_path: Path) -> None:
    plan = FAKE.replace('part("slow", 1,', 'part("slow", 99,')
    start_s = time.monotonic()
    words = ["--only", "good", "slow", "odd", "--minutes=0.1"]
    code, said, result = acceptance(tmp_path, *words, plan=plan)
    assert code == 1 and 4 < time.monotonic() - start_s < 20
    statuses = {name: part["status"] for name, part in result["parts"].items()}
    assert statuses == {"good": "done", "slow": "out of time", "odd": "not reached"}, said
    assert result["parts"]["slow"]["figures"]["x"] == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_call_that_is_killed_keeps_its_figures(tmp_path: Path, how: signal.Signals) -> None:
    plan = FAKE.replace('part("slow", 1,', 'part("slow", 99,')
    process = start(tmp_path, "--only", "good", "slow", "odd", plan=plan)
    while not (tmp_path / "o" / "grandchild").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(how)
    process.communicate(timeout=20)
    assert process.returncode == (143 if how == signal.SIGTERM else -how)
    parts = json.loads((tmp_path / "o" / "result.json").read_text())["parts"]
    assert parts["good"]["status"] == "done" and parts["slow"]["figures"]["x"] == 1
    assert parts["slow"]["status"] == ("cut off" if how == signal.SIGTERM else "running")
    pid = parts["slow"]["figures"]["pid"]
    for _ in range(100):  # the child ends with its parent
        if not Path(f"/proc/{pid}").exists() or "Z" in state_of(pid):
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child goes on")
    if how == signal.SIGKILL:
        os.kill(int((tmp_path / "o" / "grandchild").read_text()), signal.SIGKILL)
    # The next call says what became of the one before.
    assert acceptance(tmp_path, "--only", "later")[2]["parts"]["slow"]["status"] == "cut off"


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_plan_that_cannot_be_loaded_ends_the_call(tmp_path: Path) -> None:
    plan = FAKE + "\nimport sys\nif '--parts' in sys.argv: raise ImportError('no libcuda')\n"
    code, said, result = acceptance(tmp_path, "--only", "good", "odd", plan=plan)
    assert code == 1 and "no libcuda" in said and not result["parts"]
    assert "did not get to its first part" in result["calls"][0]["ended"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from gpu_record import Part, Record
part = Part("p", 1, "", 9, "", ("x", "y"))
record = Record(Path(sys.argv[1]), (), False)
record.begin(part)
record.put(part, "x", 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
record.put(part, "y", [0] * 100_000)
"""


def test_a_write_that_fails_half_way_leaves_the_record_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    words = [sys.executable, "-c", FULL_DISK, file]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert "File too large" in done.stderr
    assert json.loads(file.read_text())["parts"]["p"]["figures"] == {"x": 1}


def test_figures_of_all_kinds_are_written(tmp_path: Path) -> None:
    part = Part("p", 1, "", 9, "", ("x",))
    record = Record(tmp_path / "result.json", (), False)
    record.begin(part)
    record.put(part, "x", [float("inf"), torch.tensor(2.5), {"a": Path("b")}, (1, None)])
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["parts"]["p"]["figures"]["x"] == ["inf", 2.5, {"a": "b"}, [1, None]]


@pytest.mark.parametrize(
    "relation, found, outcome",
    [
        ("at most", 5, "met"),
        ("at most", 5.1, "missed"),
        ("at least", 5, "met"),
        ("at least", 4.9, "missed"),
        ("equal to", 5, "met"),
        ("equal to", 4, "missed"),
        ("at least", "nan", "missed"),
        ("at least", None, "not measured"),
    ],
)
def test_goals(relation: str, found: object, outcome: str) -> None:
    goal = Goal("part", "figure", relation, 5, "")
    assert goal.outcome({"part": {"figures": {"figure": found}}}) == outcome
    assert goal.outcome({"part": {"rehearsed_figures": {"figure": found}}}, True) == outcome
    assert goal.outcome({"part": {"figures": {}}}) == goal.outcome({}) == "not measured"


def test_the_plan_fits_its_calls_and_its_goals_are_of_its_figures() -> None:
    figures = {part.name: part.figures for part in gpu_plan.PARTS}
    assert len(figures) == len(gpu_plan.PARTS)
    assert all(goal.figure in figures[goal.part] for goal in gpu_plan.GOALS)
    stages = [part.stage for part in gpu_plan.PARTS]
    assert stages == sorted(stages) and set(stages) == {1, 2, 3}
    for stage in (1, 2, 3):  # with the start of a process, in eight minutes
        boxes_s = sum(part.box_s for part in gpu_plan.PARTS if part.stage == stage)
        assert boxes_s + 45 <= 480


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_part_is_rehearsed(photos: Path, tmp_path: Path) -> None:
    (photos / "images" / "im1.jpg").unlink()  # as where a part of the images was carried
    out = tmp_path / "o"
    words = [sys.executable, SCRIPT, photos, "--rehearse", "--out", out]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # two wait for each other on a busy machine
    done = subprocess.run(words, cwd=tmp_path, env=one_thread, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((out / "result.json").read_text())
    assert list(result["parts"]) == [part.name for part in gpu_plan.PARTS]
    for part in gpu_plan.PARTS:
        found = result["parts"][part.name]
        assert found["status"] == "done", found
        assert set(found["rehearsed_figures"]) == set(part.figures)
    assert len(result["goals"]) == len(gpu_plan.GOALS)
    for goal in result["goals"]:
        assert goal["outcome"] == "not measured" and goal["rehearsed"] in ("met", "missed")
    assert [child["ended"] for child in result["calls"][0]["processes"]] == ["exit code 0"]

"""Everything that only a GPU can show, in three stages of at most eight minutes.

    python benchmarks/gpu_acceptance.py DATA --stage 1 --out DIR

The most important comes first; GPU.md says what to type, and what each stage shows. A stage is one
process that does one part after the other; this one watches it. Each part has a time box. A part
that raises is recorded, and the next one begins; where CUDA is unusable afterwards, where the
process has crashed, or where a part has outlasted its box, the next one begins in a new process.
DIR/result.json has each figure as soon as it is there, DIR/stage-N.log what was printed, and
DIR/README.md the beginning of a record.

Needs no network, no git and no installed entry point. With --rehearse all sizes are small: that
shows, with a GPU or without, that the script works, and nothing else.
"""

import argparse
import contextlib
import ctypes
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import gpu_record  # noqa: E402
from gpu_record import Part, Place, Record, SkippedError  # noqa: E402

START_S = 90.0  # the most that importing PyTorch and starting CUDA may take
_SLOWER = 5.0  # how much longer a part may take in a rehearsal: other tests run beside it
_LEAST_S = 3.0  # a part is not begun with less
_POLL_S = 0.1
_BROKEN, _NO_GPU = 75, 76  # exit codes of the child
_PR_SET_PDEATHSIG = 1  # from Linux' prctl.h


# -------------------------------------------------------------------------- the child: measures


def measure(plan: Any, parts: Sequence[Part], place: Place) -> int:
    """Do some parts, one after the other; return the exit code."""
    with contextlib.suppress(AttributeError):  # whoever kills the parent alone means this one, too
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if not place.is_rehearsal and not plan.has_gpu():
        return _NO_GPU
    for part in parts:  # it takes no part's time
        with contextlib.suppress(Exception):  # the part will say so
            importlib.import_module(part.work.partition(":")[0])
    record = Record(place.out / "result.json", plan.GOALS, place.is_rehearsal)
    record.content["calls"][-1]["environment"] = plan.environment()
    for part in parts:
        print(f"==== {part.name}: {part.what}", flush=True)
        record.begin(part)
        start_s = time.perf_counter()
        status, error = _do(part, place, record)
        record.end(part, status, time.perf_counter() - start_s, error)
        print(error, f"==== {status}", flush=True)
        try:
            plan.clean_up()
        except Exception:  # it does not matter which: a new process is clean
            return _BROKEN
    return 0


def _do(part: Part, place: Place, record: Record) -> tuple[str, str]:
    """Do a part; return its status and what there is to say about it."""
    try:
        module, _, name = part.work.partition(":")
        getattr(importlib.import_module(module), name)(
            place, lambda figure, value: record.put(part, figure, value)
        )
    except SkippedError as e:
        return gpu_record.SKIPPED, str(e)
    except (Exception, SystemExit):
        return gpu_record.FAILED, traceback.format_exc()
    lacking = record.lacking(part)
    if lacking:
        return gpu_record.FAILED, f"figures are missing: {', '.join(lacking)}"
    return gpu_record.DONE, ""


# --------------------------------------------------------------------------- the parent: watches


class NoGpuError(Exception):
    """There is no GPU that PyTorch can use."""


class Watcher:
    """Has parts done by child processes, within their time.

    Args:
        plan: the module that has the parts and goals.
        place: what the parts are given.
        words: of the command line, for a child.
        log: takes what children print.
        end_s: when all must be over, by ``time.monotonic``.
    """

    def __init__(
        self, plan: Any, place: Place, words: Sequence[str], log: IO[str], end_s: float
    ) -> None:
        self._plan, self._place, self._words, self._log = plan, place, words, log
        self._end_s = end_s
        self._child: subprocess.Popen[str] | None = None
        self._since_s = 0.0  # when the part that is running, or the start, began

    def do(self, parts: Sequence[Part]) -> list[dict[str, Any]]:
        """Do the parts; return what became of each process.

        Raises:
            ChildProcessError: if a process has ended, or hung, before its first part.
            NoGpuError: if there is none, and this is no rehearsal.
        """
        left, children = list(parts), []
        while left and self._end_s - time.monotonic() > _LEAST_S:
            start_s = time.monotonic()
            first = left[0].name
            ended = self._watch(left)
            done = self._settle(left, ended)
            seconds = round(time.monotonic() - start_s, 1)
            children.append({"from": first, "ended": ended, "seconds": seconds})
            if not done and self._end_s > time.monotonic():
                raise ChildProcessError(ended)
            left = left[done:]
        record = self._record()
        for part in left:
            record.end(part, gpu_record.NOT_REACHED, error="no time was left")
        return children

    def kill(self) -> None:
        """End the child and all that it has started."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()

    def _record(self) -> Record:
        place = self._place
        return Record(place.out / "result.json", self._plan.GOALS, place.is_rehearsal)

    def _watch(self, parts: Sequence[Part]) -> str:
        """Start a child that does the parts; return how it has ended, in words."""
        words = [sys.executable, str(ROOT / "benchmarks" / "gpu_acceptance.py"), *self._words]
        words += ["--parts", *(part.name for part in parts)]
        self._child = subprocess.Popen(
            words, stdout=self._log, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        by_name = {part.name: part for part in parts}
        running, box_s, self._since_s = "the start", START_S, time.monotonic()
        file, stamp = self._place.out / "result.json", -1
        while self._child.poll() is None:
            now_s = time.monotonic()
            if now_s > self._end_s:
                self.kill()
                return "killed: the time of this call was over"
            if now_s - self._since_s > box_s:
                self.kill()
                return f"killed: {running} took more than its {box_s:.0f} s"
            if file.stat().st_mtime_ns != stamp:
                stamp = file.stat().st_mtime_ns
                name = self._record().running
                if name is not None and name != running:
                    running, box_s, self._since_s = name, by_name[name].box_s, now_s
                    box_s *= _SLOWER if self._place.is_rehearsal else 1.0
            time.sleep(_POLL_S)
        code = self._child.returncode
        with contextlib.suppress(ProcessLookupError):  # what it has left behind
            os.killpg(self._child.pid, signal.SIGKILL)
        if code == _NO_GPU:
            raise NoGpuError
        if code == _BROKEN:
            return "ended itself: the part before has left CUDA unusable"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _settle(self, parts: Sequence[Part], ended: str) -> int:
        """Say of the part in which a child has ended how; return how many are behind."""
        record = self._record()
        for part in parts:
            if record.running == part.name:
                is_killed = ended.startswith("killed")
                status = gpu_record.LATE if is_killed else gpu_record.CRASHED
                seconds = time.monotonic() - self._since_s
                record.end(part, status, seconds, f"its process: {ended}")
        return sum(part.name in record.parts for part in parts)


def supervise(plan: Any, parts: Sequence[Part], options: argparse.Namespace) -> int:
    """Do the parts of a call; return the exit code."""
    end_s = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / f"{'stage-' + str(options.stage) if options.stage else 'all'}.log"
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        data = usable_data(options.data.resolve(), work.resolve())
        place = Place(data, options.out.resolve(), work.resolve(), options.rehearse)
        try:
            record = Record(place.out / "result.json", plan.GOALS, place.is_rehearsal)
        except ValueError as e:
            raise SystemExit(f"gpu_acceptance: {e}") from None
        call = {
            "command": " ".join(["python", *map(_shown, sys.argv)]),
            "commit": options.commit,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        record.content["calls"].append(call)
        record.forget([part.name for part in parts])
        record.write()
        words = [str(data), "--out", str(place.out), "--work", str(place.work)]
        words += ["--plan", options.plan, *(["--rehearse"] if options.rehearse else [])]
        stream = stack.enter_context(log.open("w"))
        watcher: Watcher | None = Watcher(plan, place, words, stream, end_s)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        start_s = time.monotonic()
        try:
            call["processes"] = watcher.do(parts)
        except NoGpuError:
            watcher = None  # nothing was begun
            record.content["calls"].pop()
            record.write()
            if not record.content["calls"]:
                (place.out / "result.json").unlink()
            raise SystemExit(
                "gpu_acceptance: no CUDA GPU that PyTorch can use is here;"
                " --rehearse shows with small sizes that the script works"
            ) from None
        except ChildProcessError as e:
            call["ended"] = f"a process did not get to its first part ({e}); see {log.name}"
            print(log.read_text(errors="replace")[-2000:])
        finally:
            if watcher is not None:
                watcher.kill()
                record = Record(place.out / "result.json", plan.GOALS, place.is_rehearsal)
                _ended(record, call, time.monotonic() - start_s)
    if not place.is_rehearsal:
        draft = place.out / "README.md"
        draft.write_text(gpu_record.as_markdown(record.content))
    show(record, parts)
    ended = [record.parts.get(part.name, {}).get("status") for part in parts]
    is_missed = any(goal["outcome"] == "missed" for goal in record.content["goals"])
    return int(is_missed or not set(ended) <= {gpu_record.DONE, gpu_record.SKIPPED})


def _shown(word: str) -> str:
    """Return a word of the command line; of a path its last part, as in other records."""
    return Path(word).name if word.endswith(".py") or Path(word).is_absolute() else word


def _ended(record: Record, call: dict[str, Any], seconds: float) -> None:
    """Note that a call has ended, or was ended."""
    record.content["calls"][-1] |= {**call, "seconds": round(seconds, 1)}
    record.forget([])
    record.write()


def show(record: Record, parts: Sequence[Part]) -> None:
    """Print what became of the parts, and the goals of those."""
    for part in parts:
        entry = record.parts.get(part.name, {"status": gpu_record.NOT_REACHED})
        print(f"{part.name:22} {entry.get('seconds', 0):6.1f} s  {entry['status']}")
        for line in entry.get("error", [])[-8:]:
            print(f"    {line}")
    names = {part.name for part in parts}
    for goal in record.content["goals"]:
        if goal["goal"].partition(".")[0] in names:
            print(f"{goal['outcome']:12}  {goal['goal']}  (found {goal.get('found')})")


def usable_data(data: Path, work: Path) -> Path:
    """Return DATA, or a folder with those of its labels whose images are here.

    A part of the images may have been carried to the machine, with the labels of all.
    """
    names = {path.name for path in (data / "images").glob("im*")}
    lines = {file.name: file.read_text().split() for file in (data / "annotations").glob("*.txt")}
    here = {name: [n for n in numbers if f"im{n}.jpg" in names] for name, numbers in lines.items()}
    if here == lines:
        return data
    found = work / "data"
    (found / "annotations").mkdir(parents=True, exist_ok=True)
    if not (found / "images").exists():
        (found / "images").symlink_to(data / "images")
    for name, numbers in here.items():
        (found / "annotations" / name).write_text("".join(f"{n}\n" for n in numbers))
    return found


def main() -> None:
    """Watch a child that does the parts, or be the child."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="photographs and labels, as train takes them")
    parser.add_argument("--stage", type=int, choices=[1, 2, 3], help="one of them; default: all")
    parser.add_argument("--only", nargs="+", metavar="PART", help="some parts alone")
    parser.add_argument("--out", type=Path, required=True, help="folder of the record")
    parser.add_argument("--work", type=Path, help="folder that later calls find again")
    parser.add_argument("--minutes", type=float, help="of this call; default: 8 for each stage")
    parser.add_argument("--commit", default="unknown", help="what the record says it is of")
    parser.add_argument("--rehearse", action="store_true", help="small sizes, no record")
    parser.add_argument("--plan", default="gpu_plan", help=argparse.SUPPRESS)
    parser.add_argument("--parts", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    plan = importlib.import_module(options.plan)
    by_name = {part.name: part for part in plan.PARTS}
    if options.parts:
        place = Place(options.data, options.out, options.work, options.rehearse)
        sys.exit(measure(plan, [by_name[name] for name in options.parts], place))
    parts = [part for part in plan.PARTS if options.stage in (None, part.stage)]
    if options.only:
        unknown = [name for name in options.only if name not in by_name]
        if unknown:
            parser.error(f"no part {unknown[0]!r}; there are {', '.join(by_name)}")
        parts = [part for part in parts if part.name in options.only]
    options.minutes = options.minutes or 8.0 * len({part.stage for part in parts})
    sys.exit(supervise(plan, parts, options))


if __name__ == "__main__":
    main()

"""The record of a GPU acceptance run: its parts, their figures, and the goals beside them.

DIR/result.json is written anew, atomically, whenever a figure is there, so that whatever ends the
run loses nothing but the figure that is being measured. One process writes at a time: the child
that measures, and once it has ended its parent. Nothing heavy is imported here.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

RUNNING, DONE, FAILED, SKIPPED = "running", "done", "failed", "skipped"
LATE, CRASHED, CUT_OFF, NOT_REACHED = "out of time", "crashed", "cut off", "not reached"

_REHEARSED = (
    "A rehearsal with small sizes: it shows that the script works. None of its figures is a"
    " measurement, and no goal is met or missed by it."
)


@dataclass(frozen=True)
class Part:
    """What is measured in one go.

    Attributes:
        name: in the record, and after ``--only``.
        stage: 1, 2 or 3.
        what: a line about it.
        box_s: the most seconds that it may take.
        work: module and function, called with a :class:`Place` and ``put(figure, value)``.
        figures: all that it has to put.
    """

    name: str
    stage: int
    what: str
    box_s: float
    work: str
    figures: tuple[str, ...]


@dataclass(frozen=True)
class Goal:
    """What a figure is to be.

    Attributes:
        part, figure: which one.
        relation, bound: what holds of it if the goal is met.
        why: where the bound comes from.
    """

    part: str
    figure: str
    relation: Literal["at most", "at least", "equal to"]
    bound: float
    why: str

    def outcome(self, parts: Mapping[str, Any], is_rehearsal: bool = False) -> str:
        """Return ``met``, ``missed`` or ``not measured``; a figure that is no number is missed."""
        figures = parts.get(self.part, {}).get(_key(is_rehearsal), {})
        found = figures.get(self.figure)
        if found is None:
            return "not measured"
        if not isinstance(found, int | float):  # "nan" is written for one that is not finite
            return "missed"
        holds = {
            "at most": found <= self.bound,
            "at least": found >= self.bound,
            "equal to": found == self.bound,
        }[self.relation]
        return "met" if holds else "missed"


@dataclass(frozen=True)
class Place:
    """What every part is given.

    Attributes:
        data: photographs and labels, as ``train`` takes them.
        out: folder for the record and figures.
        work: folder for whatever else is written; a later process of the run finds it again.
        is_rehearsal: whether sizes are small.
    """

    data: Path
    out: Path
    work: Path
    is_rehearsal: bool

    def sized(self, real: Any, small: Any) -> Any:
        """Return a size: the real one, or that of a rehearsal."""
        return small if self.is_rehearsal else real


class SkippedError(Exception):
    """A part cannot be done here; the message is the reason."""


class Record:
    """What is in DIR/result.json.

    Args:
        file: where it is; what is there already is kept.
        goals: beside the figures.
        is_rehearsal: must be that of what is there already.

    Raises:
        ValueError: if a rehearsal and a measurement would be mixed, or the file cannot be read.
    """

    def __init__(self, file: Path, goals: Sequence[Goal], is_rehearsal: bool) -> None:
        self._file, self._goals, self._is_rehearsal = file, goals, is_rehearsal
        self.content: dict[str, Any] = {"is_rehearsal": is_rehearsal}
        if is_rehearsal:
            self.content["note"] = _REHEARSED
        self.content |= {"calls": [], "goals": [], "parts": {}}
        if file.exists():
            self.content = json.loads(file.read_text())
            if self.content.get("is_rehearsal") is not is_rehearsal:
                kind = "no rehearsal" if is_rehearsal else "a rehearsal"
                raise ValueError(f"{file} is of {kind}: give another --out")
        self.parts: dict[str, Any] = self.content["parts"]

    @property
    def running(self) -> str | None:
        """The name of the part that is being done."""
        return next((n for n, part in self.parts.items() if part["status"] == RUNNING), None)

    def forget(self, names: Sequence[str]) -> None:
        """Drop parts that are done anew; one that was running when all was cut off says so."""
        for name in names:
            self.parts.pop(name, None)
        if (name := self.running) is not None:
            self.parts[name]["status"] = CUT_OFF

    def begin(self, part: Part) -> None:
        """Note that a part begins."""
        entry = {"stage": part.stage, "what": part.what, "status": RUNNING, "box_s": part.box_s}
        self.parts[part.name] = {**entry, _key(self._is_rehearsal): {}}
        self.write()

    def put(self, part: Part, figure: str, value: Any) -> None:
        """Note a figure of a part.

        Raises:
            KeyError: if the part has not declared it.
        """
        if figure not in part.figures:
            raise KeyError(f"{part.name} has not declared its figure {figure!r}")
        self.parts[part.name][_key(self._is_rehearsal)][figure] = _finite(value)
        self.write()

    def lacking(self, part: Part) -> list[str]:
        """Return the figures that a part has declared and not put."""
        found = self.parts[part.name][_key(self._is_rehearsal)]
        return [figure for figure in part.figures if figure not in found]

    def end(self, part: Part, status: str, seconds: float = 0.0, error: str = "") -> None:
        """Note how a part has ended; the figures that it has put stay."""
        if part.name not in self.parts:
            self.begin(part)
        self.parts[part.name] |= {"status": status, "seconds": round(seconds, 1)}
        if error:
            self.parts[part.name]["error"] = error.strip().splitlines()[-30:]
        self.write()

    def write(self) -> None:
        """Write the file, with the goals as they stand."""
        self.content["goals"] = [self._judged(goal) for goal in self._goals]
        text = json.dumps(self.content, indent=1, default=str, allow_nan=False) + "\n"
        new = self._file.with_suffix(".new")
        with new.open("w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(self._file)

    def _judged(self, goal: Goal) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "goal": f"{goal.part}.{goal.figure} {goal.relation} {goal.bound:,.10g}",
            "why": goal.why,
        }
        outcome = goal.outcome(self.parts, self._is_rehearsal)
        if self._is_rehearsal:  # the same code has judged it, and it says nothing
            return entry | {"outcome": "not measured", "rehearsed": outcome}
        found = self.parts.get(goal.part, {}).get("figures", {}).get(goal.figure)
        return entry | {"found": found, "outcome": outcome}


def as_markdown(content: Mapping[str, Any]) -> str:
    """Return the beginning of a record's README.md: claims, commands, hardware, what became of all.

    ``content``: of result.json.
    """
    lines = ["# GPU acceptance", "", "| goal | found | |", "|---|---|---|"]
    for goal in content["goals"]:
        found = "" if goal["found"] is None else goal["found"]
        shown = f"{found:,.4g}" if isinstance(found, float) else str(found)
        lines.append(f"| {goal['goal']} ({goal['why']}) | {shown} | {goal['outcome']} |")
    lines += ["", "| part | what became of it | seconds |", "|---|---|---|"]
    for name, part in content["parts"].items():
        status = f"{part['status']}: {part['error'][-1]}" if "error" in part else part["status"]
        lines.append(f"| {name} | {status.replace('|', '/')} | {part.get('seconds', '')} |")
    for call in content["calls"]:
        about = call.get("environment", {})
        packages = about.get("packages", {})
        versions = ", ".join(f"{name} {version}" for name, version in packages.items())
        lines += ["", f"**Command.** `{call['command']}`, {call['started']}, {call['commit']}."]
        lines += [f"**Hardware.** {about.get('gpu', 'unknown')}; {about.get('cpu', 'unknown')}."]
        lines += [f"**Versions.** {versions}."]
    return "\n".join(lines) + "\n"


def _key(is_rehearsal: bool) -> str:
    """Return where figures are: a rehearsal has none that could be taken for a measurement."""
    return "rehearsed_figures" if is_rehearsal else "figures"


def _finite(value: Any) -> Any:
    """Return a value that JSON can hold: "nan", "inf" and "-inf" for such numbers."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a scalar of NumPy or PyTorch
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value

"""Label Studio's exports: JSON, JSON-MIN, CSV and TSV. An image has the labels of its annotation.

The formats: https://labelstud.io/guide/export. Of several annotations of an image the ground truth
counts, else the latest. Images that nobody has annotated are left out: their labels are unknown.
:mod:`label_studio_images` finds the images that the tasks name.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import GrigriError
from . import label_studio_images, reading
from .labels import LabelOptions, Labels
from .table import read_text_table

# Keys of JSON-MIN and CSV that are neither data nor answers.
_ABOUT = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")
_OF_TASKS = re.compile(
    r'"(annotations|completions|completed_by|was_cancelled|result|drafts|predictions|file_upload'
    r'|inner_id)"\s*:'
)
_PLAIN = ("annotation_id", "created_at", "updated_at", "lead_time")  # numbers and times
_OF_MIN = re.compile(r'"(annotator|annotation_id|lead_time)"\s*:')
_TABLES = (".csv", ".tsv")
_EXPECTED = "expected an export of Label Studio: JSON, JSON-MIN or CSV"


def is_here(data: Path) -> bool:
    """Return whether ``data`` is an export of Label Studio, or a folder with one."""
    return _is_export(data) if data.is_file() else bool(_files_in(data))


def read(data: Path, options: LabelOptions) -> Labels:
    """Read an export, or the only one in a folder.

    Raises:
        GrigriError: if there is none or there are several, if it is damaged, or if it is not sure
            what the labels are.
    """
    options.require_only("Label Studio", "images", "image_column", "label_columns")
    files = [data] if data.is_file() else _files_in(data)
    names = ", ".join(file.name for file in files)
    file = reading.only(data, files, names, f"no such file; {_EXPECTED}")
    tasks = _read_tasks(file)
    controls = _controls(file, tasks, options)
    notes = [f"labels from {reading.listed(controls)}"]
    annotated = [task for task in tasks if task.answers]
    if not annotated:
        raise GrigriError(f"{file}: {reading.counted(len(tasks), 'task')}, none is annotated")
    images = label_studio_images.find(
        file, [(task.where, task.data) for task in annotated], options
    )
    notes[0] += f", images from {images.key}"
    num_left_out = len(tasks) - len(annotated)
    if num_left_out:
        left_out = reading.counted(num_left_out, "image")
        notes.append(f"left out: {left_out} without annotation, or skipped by the annotators")
    notes += _several(annotated, controls)
    rows = reading.Rows()
    for name, task in zip(images.names, annotated, strict=True):
        answer = task.latest()
        odd = next((control for control in controls if control in answer.ignored), None)
        if odd is not None:
            raise GrigriError(f"{task.where}: an answer of {odd} is no label, as others are")
        rows.add(name, task.where, answer.labels(controls))
    ignored = {kind for task in annotated for a in task.answers for kind in a.ignored.values()}
    if ignored:
        notes.append(f"left out: answers of the kind {reading.listed(map(repr, sorted(ignored)))}")
    return rows.result(images.paths, rows.classes(), f"{data} (Label Studio)", notes)


# ---------------------------------------------------------------------------- tasks and answers


@dataclass
class _Answer:
    """One annotation of a task.

    Attributes:
        of: the labels by the control that the annotator used.
        texts: what is only known to be text, by control: one label, or something written.
        order: what tells which of several annotations counts; the largest does.
        ignored: kinds of results that are no labels, by control.
    """

    of: dict[str, list[str]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    order: tuple[bool, str] = (False, "")
    ignored: dict[str, str] = field(default_factory=dict)

    def labels(self, controls: list[str]) -> list[str]:
        labels = [label for control in controls for label in self.of.get(control, [])]
        return labels + [self.texts[control] for control in controls if control in self.texts]


@dataclass
class _Task:
    where: str
    data: dict[str, Any]
    answers: list[_Answer] = field(default_factory=list)

    def latest(self) -> _Answer:
        return max(self.answers, key=lambda answer: answer.order)


def _read_tasks(file: Path) -> list[_Task]:
    if file.suffix.lower() in _TABLES:
        table = read_text_table(file)
        records = [
            (table.where(row), dict(zip(table.header, map(_of_cell, cells), strict=True)))
            for row, cells in enumerate(table.rows)
        ]
        return _tasks_of_records(records, file)
    top = reading.read_json(file)
    if not isinstance(top, list) or not top:
        raise GrigriError(f"{file}: not a list of tasks; {_EXPECTED}")
    for number, task in enumerate(top):
        if not isinstance(task, dict):
            raise GrigriError(f"{file}: task {number}: not an object; {_EXPECTED}")
    places = [f"{file}: task {number}" for number in range(len(top))]
    if any("annotations" in task or "completions" in task for task in top):
        return [_task_of_json(task, where) for task, where in zip(top, places, strict=True)]
    return _tasks_of_records(list(zip(places, top, strict=True)), file)


def _task_of_json(record: dict[str, Any], where: str) -> _Task:
    """Return a task of the full JSON, with the annotations that were not cancelled."""
    data = record.get("data")
    annotations = record.get("annotations", record.get("completions"))
    if not isinstance(data, dict) or not isinstance(annotations, list):
        raise GrigriError(f"{where}: no data or no annotations; {_EXPECTED}")
    task = _Task(where, data)
    for annotation in annotations:
        results = annotation.get("result") if isinstance(annotation, dict) else None
        if not isinstance(results, list):
            raise GrigriError(f"{where}: an annotation without a result")
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            continue
        answer = _Answer(order=_order(annotation))
        for result in results:
            if not isinstance(result, dict):
                raise GrigriError(f"{where}: a result that is no object")
            kind, control, value = (result.get(k) for k in ("type", "from_name", "value"))
            if kind == "choices" or (isinstance(kind, str) and kind.endswith("labels")):
                words = value.get(kind) if isinstance(value, dict) else None
                answer.of.setdefault(str(control), []).extend(_names(words, f"{where}: {kind}"))
            else:
                answer.ignored[str(control)] = str(kind)
        task.answers.append(answer)
    return task


def _tasks_of_records(records: list[tuple[str, dict[str, Any]]], file: Path) -> list[_Task]:
    """Return the tasks of JSON-MIN or CSV, where a record is one annotation.

    The keys before ``id`` are the task's data, those after it the answers.
    """
    keys = list(dict.fromkeys(key for _, record in records for key in record))
    if "id" not in keys or ("annotation_id" not in keys and "annotator" not in keys):
        raise GrigriError(f"{file}: neither annotations, nor id and annotation_id; {_EXPECTED}")
    given = keys[: keys.index("id")]
    answering = [key for key in keys[len(given) :] if key not in _ABOUT]
    tasks: dict[str, _Task] = {}
    for where, record in records:
        if not isinstance(record.get("id"), int | str) or record["id"] == "":
            raise GrigriError(f"{where}: no id")
        odd = next((k for k in _PLAIN if isinstance(record.get(k), dict | list)), None)
        if odd is not None:
            raise GrigriError(f"{where}: {odd} holds an answer; the header is mixed up")
        key = str(record["id"])
        data = {name: value for name, value in record.items() if name not in answering}
        task = tasks.setdefault(key, _Task(where, data))
        if any(task.data.get(name) != data.get(name) for name in given):
            raise GrigriError(f"{where}: has the id {key[:40]} of {task.where}, but other data")
        answer = _Answer(order=_order(record))
        for name in answering:
            _read_answer(answer, name, record.get(name), where)
        task.answers.append(answer)
    return list(tasks.values())


def _read_answer(answer: _Answer, control: str, value: Any, where: str) -> None:
    """Add one value of JSON-MIN: a text, ``{"choices": [...]}``, or a list of shapes."""
    if value is None or value == "" or value == []:
        return
    if isinstance(value, str):
        if value.startswith(("{", "[")):  # in a CSV
            raise GrigriError(f"{where}: {control[:40]}: {value[:40]!r} is damaged JSON")
        answer.texts[control] = reading.class_name(value, f"{where}: {control}")
        return
    shapes = value if isinstance(value, list) else [value]
    for shape in shapes:
        kinds = shape if isinstance(shape, dict) else {}
        kind = next((k for k in kinds if k == "choices" or k.endswith("labels")), None)
        if kind is None:
            answer.ignored[control] = control
        else:
            names = _names(kinds[kind], f"{where}: {control}")
            answer.of.setdefault(control, []).extend(names)


def _of_cell(cell: str) -> Any:
    """Return the value in a cell of a CSV, which is JSON where it is more than a text."""
    if not cell.startswith(("{", "[")):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell


def _names(words: Any, where: str) -> list[str]:
    if not isinstance(words, list):
        raise GrigriError(f"{where}: expected a list of labels")
    return [reading.class_name(word, where) for word in words]


def _order(annotation: dict[str, Any]) -> tuple[bool, str]:
    """Return what sorts annotations: ground truth last, else by the time of the last change."""
    when = annotation.get("updated_at") or annotation.get("created_at") or ""
    is_number = isinstance(when, int | float) and not isinstance(when, bool)
    return bool(annotation.get("ground_truth")), f"{when:030.6f}" if is_number else str(when)


# ------------------------------------------------------------------------- which are the labels


def _controls(file: Path, tasks: list[_Task], options: LabelOptions) -> list[str]:
    """Return the controls whose answers are labels.

    Raises:
        GrigriError: if that is not sure, or an option names one that is not there.
    """
    answers = [answer for task in tasks for answer in task.answers]
    sure = list(dict.fromkeys(control for answer in answers for control in answer.of))
    texts = {control for answer in answers for control in answer.texts}
    unsure = sorted(texts - {*sure})
    there = [*sure, *unsure]
    missing = [name for name in options.label_columns if name not in there]
    if missing:
        raise GrigriError(
            f"{file}: --label-columns {missing[0]}: no such answers; there are "
            f"{reading.listed(there)}"
        )
    if options.label_columns:
        return list(options.label_columns)
    if not there:
        raise GrigriError(f"{file}: no annotation has labels (choices, or labels of shapes)")
    if unsure and len(there) > 1:
        raise GrigriError(
            f"{file}: {reading.listed(unsure)} can be labels or written text; --label-columns "
            f"{there[0][:40]} reads one, a list with commas several"
        )
    control_of: dict[str, str] = {}
    for control, label in _pairs(answers, there):
        if control_of.setdefault(label, control) != control:
            raise GrigriError(
                f"{file}: {label!r} is an answer of {control_of[label]} and of {control}; "
                f"--label-columns {control} reads one of them"
            )
    return there


def _pairs(answers: list[_Answer], controls: list[str]) -> Iterator[tuple[str, str]]:
    for answer in answers:
        for control in controls:
            for label in answer.labels([control]):
                yield control, label


def _several(tasks: list[_Task], controls: list[str]) -> list[str]:
    """Return a note on images with several annotations, if there are any."""
    several = [task for task in tasks if len(task.answers) > 1]
    if not several:
        return []
    differ = sum(
        len({frozenset(answer.labels(controls)) for answer in task.answers}) > 1 for task in several
    )
    return [
        f"{reading.counted(len(several), 'image')} with several annotations, which differ in "
        f"{differ:,}: the ground truth counts, else the latest"
    ]


# ------------------------------------------------------------------------------------- files


def _is_export(file: Path) -> bool:
    suffix = file.suffix.lower()
    if suffix in _TABLES:
        header = re.split(r"[,\t]", reading.head(file).split("\n", 1)[0].replace('"', "").strip())
        return {"annotation_id", "annotator"} <= {*header}
    start = reading.head(file) if suffix == ".json" else ""
    if not start.lstrip().startswith("["):
        return False
    return any(len(set(keys.findall(start))) >= 2 for keys in (_OF_TASKS, _OF_MIN))


def _files_in(data: Path) -> list[Path]:
    return [file for file in reading.visible(data, ".json", *_TABLES) if _is_export(file)]

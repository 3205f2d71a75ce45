"""A command has the options of the function that it calls."""

import inspect
from collections.abc import Callable

import pytest

import grigri_fast
from grigri_fast.cli import data, evaluate, performance, train
from grigri_fast.config import OPTIONS

HOW_IT_GOES = {"on_progress", "on_summary", "log", "callback"}  # what a program may listen to


@pytest.mark.parametrize(
    ("command", "function", "own"),
    [
        (evaluate.evaluate, grigri_fast.evaluate, {"as_json"}),
        (evaluate.predict, grigri_fast.predict, {"out"}),
        (evaluate.export, grigri_fast.export, set()),
        (evaluate.report, grigri_fast.report, set()),
        (train.reproduce, grigri_fast.reproduce, set()),
        (performance.bench, grigri_fast.bench, set()),
        (performance.profile, grigri_fast.profile, set()),
        (data.check, grigri_fast.check, set()),
        (data.split, grigri_fast.split, set()),
        (data.demo, grigri_fast.demo, set()),
        (data.fetch, grigri_fast.fetch, {"dataset"}),
        (train.train, grigri_fast.train, set()),
        (train.tune, grigri_fast.tune, set(OPTIONS) - {"data"}),
    ],
)
def test_a_command_has_the_options_of_its_function(
    command: Callable, function: Callable, own: set[str]
) -> None:
    of_command = inspect.signature(command).parameters
    of_function = inspect.signature(function).parameters
    names = {name for name, p in of_function.items() if p.kind is not p.VAR_KEYWORD}
    assert set(of_command) - own == names - own - HOW_IT_GOES

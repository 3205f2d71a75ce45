"""What a search varies: ranges and choices that go with the other options."""

import pytest

from grigri_fast.config import TrainConfig
from grigri_fast.errors import GrigriError
from grigri_fast.experiments.search_space import SEARCHABLE, space_of


def test_what_can_be_searched_has_a_range_or_choices() -> None:
    for about in SEARCHABLE:
        assert about.choices or about.search.low < about.search.high
        for choice in about.choices or (about.search.low * 0.01, about.search.high * 0.01):
            TrainConfig(**{about.name: choice or about.default})


def test_the_space_goes_with_the_options() -> None:
    config = TrainConfig(data="-", optimizer="adam")
    space = space_of(config, {"optimizer"})
    assert set(space) == {"lr", "weight_decay"}
    assert space["lr"] == {"low": pytest.approx(1e-4), "high": pytest.approx(1e-2), "log": True}
    assert set(space_of(config, {"lr"})) == {"weight_decay"}
    asked = space_of(TrainConfig(augment=False), set(), ["augment"])
    assert asked == {"augment": {"choices": [False, True]}}


def test_ranges_hold_the_start_and_respect_what_is_set() -> None:
    space = space_of(TrainConfig(weight_decay=0.1, momentum_min=0.9, momentum=0.95), set())
    assert (space["weight_decay"]["low"], space["weight_decay"]["high"]) == (1e-5, 0.1)
    assert space["momentum"] == {"low": 0.9, "high": 0.99, "log": False}


@pytest.mark.parametrize(
    "config, fixed, asked, says",
    [
        ({}, {"lr", "weight_decay", "momentum"}, [], "all that could be searched is given"),
        ({}, {"lr"}, ["lr"], "--lr is given, so it is fixed"),
        ({}, set(), ["size"], "--search size: can be any of lr, weight_decay"),
        ({"optimizer": "adam"}, set(), ["momentum"], "--search momentum: not with --optimizer"),
        ({"weight_decay": 0.0}, set(), [], "--weight-decay 0 is no start"),
    ],
)
def test_what_cannot_be_searched_is_one_line(config, fixed, asked, says) -> None:
    with pytest.raises(GrigriError, match=says):
        space_of(TrainConfig(**config), fixed, asked)

"""The planner beside a device that answers from a script."""

import pytest

from grigri_fast.training import autobatch
from grigri_fast.training.autobatch import NothingFitsError, Plan

GIB = 2**30
ASKED = Plan(32, 32)


class Device:
    """A device where a step takes a constant and so much per image."""

    def __init__(self, fixed: float, per_image: float, checkpointed: float, runs_out: float = 99):
        self.fixed, self.per_image, self.checkpointed = fixed, per_image, checkpointed
        self.runs_out, self.tried = runs_out, []

    def __call__(self, tried: Plan) -> int | None:
        self.tried.append(tried)
        per_image = self.checkpointed if tried.checkpointing else self.per_image
        peak = self.fixed + tried.micro_batch_size * per_image
        return None if peak > self.runs_out else int(peak * GIB)


def chosen(device: Device, first: Plan = ASKED, limit: float = 4.0) -> autobatch.Choice:
    return autobatch.choose(first, device, int(limit * GIB))


def test_what_fits_as_asked_is_left_alone() -> None:
    device = Device(1, 0.05, 0.02)
    assert chosen(device) == autobatch.Choice(ASKED, int(2.6 * GIB))
    assert device.tried == [ASKED]


@pytest.mark.parametrize("runs_out", [4.0, 99])  # memory runs out, or the limit is passed
def test_then_micro_batches_with_the_same_batch(runs_out: float) -> None:
    device = Device(1, 0.18, 0.02, runs_out)
    found = chosen(device)
    assert found.plan == Plan(32, 16) and found.peak == int(3.88 * GIB)
    assert [tried.micro_batch_size for tried in device.tried] == [32, 16]
    assert "batch 32 in micro-batches of 16 (BatchNorm sees those alone)" in found.plan.in_words()


def test_then_checkpointing_first_of_the_whole_batch() -> None:
    found = chosen(Device(1, 1.0, 0.05))
    assert found.plan == Plan(32, 32, True)
    assert "activation checkpointing" in found.plan.in_words()
    assert chosen(Device(1, 1.0, 0.2)).plan == Plan(32, 8, True)


def test_else_it_is_refused_with_what_would_fit() -> None:
    with pytest.raises(NothingFitsError, match="--batch-size 2 --activation-checkpointing") as e:
        chosen(Device(1, 2.0, 1.0))
    assert str(e.value).startswith("this does not fit") and e.value.least is None
    with pytest.raises(NothingFitsError, match="smaller --size or a lighter --arch") as e:
        chosen(Device(5, 2.0, 0.1))
    assert e.value.least == int(5.2 * GIB)
    with pytest.raises(NothingFitsError, match="nothing fits but a smaller --size") as e:
        chosen(Device(5, 2.0, 0.1, runs_out=4.5))
    assert e.value.least is None


def test_what_was_asked_for_is_where_it_begins() -> None:
    device = Device(1, 1.0, 0.05)
    assert chosen(device, Plan(32, 12)).plan == Plan(32, 12, True)
    assert [t.micro_batch_size for t in device.tried] == [12, 8, 12]
    device = Device(1, 0.01, 0.3)
    assert chosen(device, Plan(32, 32, True)).plan == Plan(32, 8, True)
    assert all(tried.checkpointing for tried in device.tried)


def test_micro_batches_do_not_become_smaller_than_eight() -> None:
    device = Device(1, 1.0, 1.0)
    with pytest.raises(NothingFitsError):
        chosen(device, Plan(100, 100))
    assert [t.micro_batch_size for t in device.tried[:5]] == [100, 50, 25, 13, 8]


def test_the_largest_batch_that_fits() -> None:
    found = autobatch.largest(Device(1, 0.02, 0.01), 4 * GIB, 12_000)
    assert found.plan == Plan(128, 128) and found.peak == int(3.56 * GIB)
    assert autobatch.largest(Device(1, 0.02, 0.01), 4 * GIB, 100).plan.batch_size == 64
    assert autobatch.largest(Device(0, 0.0001, 0.0001), 4 * GIB, 12_000).plan.batch_size == 512
    assert autobatch.largest(Device(1, 1, 1), 4 * GIB, 12_000) is None

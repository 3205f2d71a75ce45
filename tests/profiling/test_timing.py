"""Cases that are run in turns, and what is compared within a turn."""

from grigri_fast.profiling import timing
from grigri_fast.profiling.timing import Case


def test_cases_take_turns_and_the_warm_up_does_not_count() -> None:
    order, notes = [], []

    def case(name: str, speeds: list[float]) -> Case:
        def run() -> float:
            order.append(name)
            if name == "a":
                notes.append(0.5)
            return speeds.pop(0)

        return Case("step", name, "", run, {"notes": notes} if name == "a" else {})

    turns = []
    a, b = case("a", [1.0, 20.0, 30.0]), case("b", [1.0, 10.0, 5.0])
    timing.run_interleaved([a, b], 2, lambda *of: turns.append(of))
    assert order == ["a", "b"] * 3 and turns == [(i, 6) for i in range(1, 7)]
    assert (a.images_per_s, b.images_per_s) == ([20.0, 30.0], [10.0, 5.0])
    assert timing.ratio(a, b) == (4.0, 2.0, 6.0) and a.median == 25.0
    assert len(a.notes["notes"]) == 2  # that of the warm-up is forgotten

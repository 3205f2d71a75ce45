"""Parts that keep a promise: their shares of the images, and every class on all sides.

Three steps, for single images or for groups of them that must stay together (units):

1. Units are put into parts one by one, those of the rarest classes first, each where it brings the
   number of images, of each class and of each frequent pair of classes nearest to what is wanted
   (after Sechidis et al. 2011, but by all labels of a unit instead of its rarest one).
2. While a class lacks a part, a unit that has it is moved there: the one that takes fewest classes
   from where it was. A random step now and then leads out of dead ends (WalkSAT, Selman et al.
   1994).
3. While a part is too large, the units that fit best are moved to the one that is too small, and
   none that its part needs for a class.

Where that does not lead to what was promised, other random orders are tried. Measured in
``benchmarks/records``, against iterative stratification.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random  # of its methods only random() gives the same numbers in every Python

# What it is worth to bring a class to a part that lacks it, in the first try and in the others; all
# that speaks against it is about 2 per label. (Measured: 3 keeps frequencies best, 30 shares.)
_WORTH_OF_A_CLASS, _WORTH_IN_OTHER_TRIES = 3.0, 30.0
_LEAST_IN_A_PART = 2  # images of a pair of classes, in the smallest part, for it to be balanced
_MAX_PAIRS_OF_UNITS = 1_000_000  # beyond, classes alone are balanced: half the time (measured)
_MAX_TRIES = 10  # for a small set; a large one has fewer, and needs none (measured)
_LABELS_OF_ALL_TRIES = 500_000
_MAX_STEPS = 20_000  # of the search for a unit for each class
_ALONE = 2.0**-20  # weight of a class that one unit has, so that all of them weigh less than 1
_REST = 2  # steps for which a unit stays where it has been moved
# To make a part smaller, the best of so many units are moved, and of so many times those that have
# to go. (Assumed: a part of more is as good a choice, and took most of the time.)
_SAMPLE, _CHOICE = 2000, 16
_NOISE = 0.1  # share of its steps that are random (assumed)


@dataclass(frozen=True)
class Units:
    """Images, or groups of them, that are put into parts.

    Attributes:
        labels: the classes of each unit, ascending; the classes are numbers from 0 on.
        counts: how many images of the unit have each of them.
        sizes: how many images each unit is.
        num_classes: how many classes there are.
    """

    labels: list[list[int]]
    counts: list[list[int]]
    sizes: list[int]
    num_classes: int

    def num_with_class(self) -> list[int]:
        """Return for each class how many units have it."""
        counter = Counter(c for labels in self.labels for c in labels)
        return [counter[c] for c in range(self.num_classes)]


def tolerance(num_images: int) -> float:
    """Return by how many images a part may differ from the share that was asked for."""
    return max(0.01 * num_images, 0.5)


def balance(units: Units, shares: Sequence[float], seed: int) -> list[int]:
    """Return the part of each unit, a number from 0 on.

    A class that k units have is in the first k parts if that is possible.

    Args:
        units: what is put into parts.
        shares: of each part; they sum to 1.
        seed: decides between units that are alike.
    """
    num_labels = 1 + sum(map(len, units.labels))
    tries = min(_MAX_TRIES, 1 + _LABELS_OF_ALL_TRIES // num_labels)
    with_pairs = _with_pairs(units, min(shares))
    best: tuple[tuple[float, ...], list[int]] | None = None
    for number in range(tries):
        parts = _Parts(with_pairs, shares, units.num_classes)
        random = Random(seed + (number << 32))
        parts.put_all(random, _WORTH_IN_OTHER_TRIES if number else _WORTH_OF_A_CLASS)
        parts.cover(random, least=1)
        parts.cover(random, least=_ALONE)
        parts.fit()
        missed = parts.missed()
        if best is None or missed < best[0]:
            best = missed, parts.part_of
        if not any(missed):
            break
    assert best is not None
    return best[1]


def _with_pairs(units: Units, least_share: float) -> Units:
    """Return the units with their frequent pairs of classes, as if these were classes, too."""
    if sum(len(labels) ** 2 for labels in units.labels) > 2 * _MAX_PAIRS_OF_UNITS:
        return units
    least = _LEAST_IN_A_PART / least_share

    def pairs(unit: int) -> Iterator[tuple[tuple[int, int], int]]:
        labels, counts = units.labels[unit], units.counts[unit]
        for i, a in enumerate(labels):
            for j in range(i + 1, len(labels)):
                # Of a group it is not known which images have both.
                yield (a, labels[j]), min(counts[i], counts[j])

    in_all: Counter[tuple[int, int]] = Counter()
    for unit in range(len(units.labels)):
        for pair, count in pairs(unit):
            in_all[pair] += count
    frequent = (pair for pair, count in in_all.items() if count >= least)
    number = {pair: units.num_classes + k for k, pair in enumerate(frequent)}
    labels, counts = [], []
    for unit in range(len(units.labels)):
        found = [(number[pair], count) for pair, count in pairs(unit) if pair in number]
        labels.append(units.labels[unit] + [pair for pair, _ in found])
        counts.append(units.counts[unit] + [count for _, count in found])
    return Units(labels, counts, units.sizes, units.num_classes + len(number))


class _Parts:
    """Units in parts, and what each part has and should have.

    Args:
        units: their labels are classes and pairs of classes.
        shares: of the parts.
        num_classes: the labels below this number are classes.
    """

    def __init__(self, units: Units, shares: Sequence[float], num_classes: int) -> None:
        self.labels, self.counts, self.sizes = units.labels, units.counts, units.sizes
        self.num_classes, self.num_parts = num_classes, len(shares)
        self.part_of = [-1] * len(self.sizes)  # -1: in none yet
        self.units_of: list[list[int]] = [[] for _ in range(units.num_classes)]
        in_all = [0] * units.num_classes
        for unit, labels in enumerate(self.labels):
            for c, count in zip(labels, self.counts[unit], strict=True):
                self.units_of[c].append(unit)
                in_all[c] += count
        num_images = sum(self.sizes)
        self.tolerance = tolerance(num_images)
        self.has = [[0] * units.num_classes for _ in shares]
        self.wanted = [[share * count for count in in_all] for share in shares]
        self.num_images = [0] * len(shares)
        self.wanted_images = [share * num_images for share in shares]
        # The weight with which a part should have a class; pairs are balanced, but needed nowhere.
        self.needs = [
            [
                (1.0 if len(units) > 1 else _ALONE)
                if c < num_classes and len(units) > part
                else 0.0
                for c, units in enumerate(self.units_of)
            ]
            for part in range(len(shares))
        ]

    def move(self, unit: int, part: int) -> None:
        """Put a unit into a part."""
        before = self.part_of[unit]
        for where, sign in ((before, -1), (part, 1)):
            if where >= 0:
                has = self.has[where]
                for c, count in zip(self.labels[unit], self.counts[unit], strict=True):
                    has[c] += sign * count
                self.num_images[where] += sign * self.sizes[unit]
        self.part_of[unit] = part

    def cost(self, unit: int, part: int, is_in: bool = False) -> float:
        """Return by how much (has - wanted)^2 / wanted is larger with a unit in a part.

        Summed over labels and the number of images; ``is_in``: the part has the unit now.
        """
        has, wanted, num = self.has[part], self.wanted[part], self.sizes[unit]
        sign = -1 if is_in else 1
        above = self.num_images[part] - self.wanted_images[part]
        total = num * (2 * above + sign * num) / self.wanted_images[part]
        for c, count in zip(self.labels[unit], self.counts[unit], strict=True):
            total += count * (2 * (has[c] - wanted[c]) + sign * count) / wanted[c]
        return total

    def lacking(self, part: int, c: int) -> float:
        """Return the weight of a class that a part should have and lacks; else 0."""
        return 0.0 if self.has[part][c] else self.needs[part][c]

    def taken(self, unit: int) -> float:
        """Return the weight of the classes that a unit's part would lack without it."""
        has, needs = self.has[self.part_of[unit]], self.needs[self.part_of[unit]]
        return sum(
            needs[c]
            for c, count in zip(self.labels[unit], self.counts[unit], strict=True)
            if has[c] == count
        )

    def all_lacking(self) -> dict[tuple[int, int], float]:
        """Return each part and class that it should have and lacks, with its weight."""
        found = {
            (part, c): self.lacking(part, c)
            for part in range(self.num_parts)
            for c in range(self.num_classes)
        }
        return {which: weight for which, weight in found.items() if weight}

    def missed(self) -> tuple[float, ...]:
        """Return how far the parts are from what is promised; the worst comes first."""
        weight = sum(self.all_lacking().values())
        far = max(
            abs(n - wanted) for n, wanted in zip(self.num_images, self.wanted_images, strict=True)
        )
        return weight // 1, far if far > self.tolerance else 0.0, weight

    def put_all(self, random: Random, worth_of_a_class: float) -> None:
        """Put each unit where it fits best, those of the rarest classes and pairs first."""
        num_units = len(self.sizes)
        key = [
            (min((len(self.units_of[c]) for c in labels), default=num_units), random.random())
            for labels in self.labels
        ]
        for unit in sorted(range(num_units), key=key.__getitem__):
            costs = []
            for part in range(self.num_parts):
                has, needs = self.has[part], self.needs[part]
                num_new = sum(bool(needs[c]) and not has[c] for c in self.labels[unit])
                costs.append(self.cost(unit, part) - worth_of_a_class * num_new)
            self.move(unit, costs.index(min(costs)))

    def cover(self, random: Random, least: float) -> None:
        """Move units to parts that lack a class of theirs, until none does or nothing helps.

        Args:
            random: draws what is looked at next.
            least: classes of less weight are not looked at.
        """
        weights = self.all_lacking()
        lacking = _RandomSet(which for which, weight in weights.items() if weight >= least)
        total = fewest = sum(weights.values())
        best = list(self.part_of)
        last_moved = [-_REST - 1] * len(self.sizes)
        for step in range(min(_MAX_STEPS, 500 + 200 * len(lacking))):
            if not lacking:
                break
            part, c = lacking.draw(random)
            units = [
                unit
                for unit in self.units_of[c]
                if self.part_of[unit] != part and step - last_moved[unit] > _REST
            ]
            if not units:
                continue
            if random.random() < _NOISE:
                unit = units[int(random.random() * len(units))]
            else:
                unit = min((self._loss(unit, part), random.random(), unit) for unit in units)[-1]
            before = self.part_of[unit]
            total += self._loss(unit, part)[0]
            self.move(unit, part)
            last_moved[unit] = step
            for label in self.labels[unit]:
                lacking.discard((part, label))
                if self.lacking(before, label) >= max(least, _ALONE):
                    lacking.add((before, label))
            if total < fewest - _ALONE / 2:
                best, fewest = list(self.part_of), total
        for unit, part in enumerate(best):
            if self.part_of[unit] != part:
                self.move(unit, part)

    def _loss(self, unit: int, part: int) -> tuple[float, float]:
        """Return the weight of what parts lack more after a move, and how the sizes suffer."""
        before = self.part_of[unit]
        found = sum(self.lacking(part, c) for c in self.labels[unit])
        above = self.num_images[part] - self.wanted_images[part]
        above_before = self.num_images[before] - self.wanted_images[before]
        return self.taken(unit) - found, self.sizes[unit] * (above - above_before)

    def fit(self) -> None:
        """Move units from the part that is most too large, until the sizes are as wanted."""
        while self._fit_nearer(is_sample=True) or self._fit_nearer(is_sample=False):
            pass

    def _fit_nearer(self, is_sample: bool) -> bool:
        """Move some units to the part that is most too small; return whether there were any.

        Args:
            is_sample: look at a few units of a large part, instead of at all.
        """
        above = [n - wanted for n, wanted in zip(self.num_images, self.wanted_images, strict=True)]
        large, small = above.index(max(above)), above.index(min(above))
        num_missing = min(above[large], -above[small])
        units = [unit for unit, part in enumerate(self.part_of) if part == large]
        if is_sample:
            units = units[:: 1 + len(units) // max(_SAMPLE, round(_CHOICE * num_missing))]
        units = [unit for unit in units if self._may_go(unit, small)]
        units = [unit for _, unit in sorted((self._price(unit, small), unit) for unit in units)]
        # Half of them at once: what a move costs changes with the moves before it, but little.
        num_moved = 0
        for unit in units:
            if num_moved and num_moved >= num_missing / 2:
                break
            if self._may_go(unit, small):
                self.move(unit, small)
                num_moved += self.sizes[unit]
        return num_moved > 0

    def _may_go(self, unit: int, part: int) -> bool:
        """Return whether sizes are nearer with a unit in a part, and its own lacks no class."""
        before = self.part_of[unit]
        above = self.num_images[part] - self.wanted_images[part]
        above_before = self.num_images[before] - self.wanted_images[before]
        return above + self.sizes[unit] < above_before - 1e-9 and self.taken(unit) < 1

    def _price(self, unit: int, part: int) -> tuple[float, float]:
        """Return the weight of the classes that lose their only unit, and the cost of a move."""
        cost = self.cost(unit, part) - self.cost(unit, self.part_of[unit], is_in=True)
        return self.taken(unit), cost


class _RandomSet:
    """A set from which a random element is drawn."""

    def __init__(self, elements: Iterable[tuple[int, int]]) -> None:
        self._elements = list(elements)
        self._place = {element: i for i, element in enumerate(self._elements)}

    def __len__(self) -> int:
        return len(self._elements)

    def add(self, element: tuple[int, int]) -> None:
        """Add an element that is not there."""
        self._place[element] = len(self._elements)
        self._elements.append(element)

    def discard(self, element: tuple[int, int]) -> None:
        """Remove an element if it is there; the last one takes its place."""
        place = self._place.pop(element, None)
        if place is None:
            return
        last = self._elements.pop()
        if last != element:
            self._elements[place] = last
            self._place[last] = place

    def draw(self, random: Random) -> tuple[int, int]:
        """Return a random element."""
        return self._elements[int(random.random() * len(self._elements))]

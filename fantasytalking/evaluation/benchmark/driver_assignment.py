"""Who is driven by whom in cross-reenactment: people of different identities, in an order that nobody chose."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A portrait or a driver of a local copy."""

    name: str
    people: tuple[str, ...]
    """Who is seen in it, from left to right as far as that is known."""
    path: Path

    @property
    def order(self) -> tuple[str, str]:
        """The md5 of the name: an order that is the same for everyone and prefers nothing."""
        return hashlib.md5(self.name.encode(), usedforsecurity=False).hexdigest(), self.name


def cross_pairs(
    portraits: Sequence[Entry], drivers: Sequence[Entry], people: int
) -> Iterator[tuple[Entry, tuple[Entry, ...]]]:
    """Every portrait once, with a driver for each of its `people`; drivers take turns, as far as identities allow.

    Nobody in a portrait is driven by somebody of its own, and no two drivers of a portrait are one person. Portraits
    for which there are too few such drivers are passed over.
    """
    ordered = sorted(drivers, key=lambda driver: driver.order)
    for portrait in sorted(portraits, key=lambda entry: entry.order):
        chosen = tuple(islice(_others(portrait, ordered), people))
        if len(chosen) == people:
            # Who has driven waits until all others had their turn.
            ordered = [driver for driver in ordered if driver not in chosen] + list(chosen)
            yield portrait, chosen


def _others(portrait: Entry, drivers: Sequence[Entry]) -> Iterator[Entry]:
    known = set(portrait.people)
    for driver in drivers:
        if known.isdisjoint(driver.people):
            known.update(driver.people)
            yield driver

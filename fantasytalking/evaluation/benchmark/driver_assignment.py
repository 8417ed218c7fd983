"""Who is driven by whom in cross-reenactment: people of different identities, in an order that nobody chose."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path


@dataclass(frozen=True)
class ReferenceEntry:
    """A portrait or a driver of a local copy."""

    name: str
    identities: tuple[str, ...]
    """Who is seen in it, from left to right as far as that is known."""
    path: Path

    @property
    def sort_key(self) -> tuple[str, str]:
        """The md5 of the name: an order that is the same for everyone and prefers nothing."""
        return hashlib.md5(self.name.encode(), usedforsecurity=False).hexdigest(), self.name


def assign_drivers(
    portraits: Sequence[ReferenceEntry], drivers: Sequence[ReferenceEntry], num_people: int
) -> Iterator[tuple[ReferenceEntry, tuple[ReferenceEntry, ...]]]:
    """Every portrait once, with a driver for each of its `num_people`; drivers take turns, as far as identities allow.

    Nobody in a portrait is driven by somebody of its own, and no two drivers of a portrait are one person. Portraits
    for which there are too few such drivers are passed over.
    """
    ordered = sorted(drivers, key=lambda driver: driver.sort_key)
    for portrait in sorted(portraits, key=lambda entry: entry.sort_key):
        chosen = tuple(islice(_drivers_of_other_identities(portrait, ordered), num_people))
        if len(chosen) == num_people:
            # Who has driven waits until all others had their turn.
            ordered = [driver for driver in ordered if driver not in chosen] + list(chosen)
            yield portrait, chosen


def _drivers_of_other_identities(
    portrait: ReferenceEntry, drivers: Sequence[ReferenceEntry]
) -> Iterator[ReferenceEntry]:
    known = set(portrait.identities)
    for driver in drivers:
        if known.isdisjoint(driver.identities):
            known.update(driver.identities)
            yield driver

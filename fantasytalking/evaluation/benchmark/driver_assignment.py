"""Assignment of drivers to portraits for cross-reenactment, between different identities and in a fixed order."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fantasytalking.common.text import utf8_bytes


@dataclass(frozen=True)
class ReferenceEntry:
    """A portrait or a driving video of a local copy."""

    name: str
    identities: tuple[str, ...]
    """People in it, from left to right if that is known."""
    path: Path

    @property
    def sort_key(self) -> tuple[str, str]:
        """The md5 of the name: the same order on every machine, independent of the content."""
        return hashlib.md5(utf8_bytes(self.name), usedforsecurity=False).hexdigest(), self.name


def assign_drivers(
    portraits: Sequence[ReferenceEntry], drivers: Sequence[ReferenceEntry], num_people: int
) -> Iterator[tuple[ReferenceEntry, tuple[ReferenceEntry, ...]]]:
    """Yields each portrait once with a driver for each of its people; drivers take turns as far as identities allow.

    No driver shows a person of the portrait, and no two drivers of a portrait show the same person. Portraits with too
    few such drivers are skipped.
    """
    ordered = sorted(drivers, key=lambda driver: driver.sort_key)
    for portrait in sorted(portraits, key=lambda entry: entry.sort_key):
        chosen = tuple(islice(_drivers_of_other_identities(portrait, ordered), num_people))
        if len(chosen) == num_people:
            # The chosen drivers move to the end of the queue.
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

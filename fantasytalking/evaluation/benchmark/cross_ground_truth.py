"""The true videos of cross-reenactment for a folder of portrait-world clips: the renderer knows them."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.benchmark.driver_assignment import cross_pairs
from fantasytalking.evaluation.benchmark.layouts import BY, CROSSED, list_world
from fantasytalking.portrait_world.corpus.reenacted_clip import reenact


def make_crossed(references: Path, people: int, clips: int | None = None) -> Iterator[tuple[int, int]]:
    """Makes what crossed/ does not hold yet: each clip's portrait, driven by a clip of another for each of its people.

    Args:
        references: clips of one person, who drive, and, if `people` is not 1, of so many.
        clips: at most so many, in the order of the md5 of the portraits' names; None: all.

    Yields:
        clips that are there by now, and all.

    Raises:
        InputError: there are no such clips, or too few people to pair.
    """
    pairs = list(islice(cross_pairs(list_world(references, people), list_world(references, 1), people), clips))
    if not pairs:
        raise InputError(f"'{references}' holds no {people} and others to drive them; make clips of more identities")
    for done, (portrait, drivers) in enumerate(pairs):
        yield done, len(pairs)
        output = references / CROSSED / (portrait.name + BY + "-".join(driver.name for driver in drivers))
        if not output.is_dir():
            reenact(portrait.path.parent, [driver.path.parent for driver in drivers], output)
    yield len(pairs), len(pairs)

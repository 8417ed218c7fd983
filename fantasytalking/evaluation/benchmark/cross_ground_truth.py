"""The true videos of cross-reenactment for a folder of portrait-world clips: the renderer knows them."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.benchmark.driver_assignment import assign_drivers
from fantasytalking.evaluation.benchmark.layouts import CROSS_REENACTMENTS_FOLDER, DRIVER_SEPARATOR, list_world_clips
from fantasytalking.portrait_world.corpus.reenacted_clip import render_reenactment


def render_cross_ground_truth(
    references: Path, num_people: int, max_clips: int | None = None
) -> Iterator[tuple[int, int]]:
    """Makes what crossed/ does not hold yet: each clip's portrait, driven by a clip of another for each of its people.

    Args:
        references: clips of one person, who drive, and, if `num_people` is not 1, of so many.
        max_clips: at most so many, in the order of the md5 of the portraits' names; None: all.

    Yields:
        clips that are there by now, and all.

    Raises:
        InputError: there are no such clips, or too few people to pair.
    """
    pairs = list(
        islice(
            assign_drivers(list_world_clips(references, num_people), list_world_clips(references, 1), num_people),
            max_clips,
        )
    )
    if not pairs:
        raise InputError(
            f"'{references}' holds no {num_people} and others to drive them; make clips of more identities"
        )
    for done, (portrait, drivers) in enumerate(pairs):
        yield done, len(pairs)
        output = (
            references
            / CROSS_REENACTMENTS_FOLDER
            / (portrait.name + DRIVER_SEPARATOR + "-".join(driver.name for driver in drivers))
        )
        if not output.is_dir():
            render_reenactment(portrait.path.parent, [driver.path.parent for driver in drivers], output)
    yield len(pairs), len(pairs)

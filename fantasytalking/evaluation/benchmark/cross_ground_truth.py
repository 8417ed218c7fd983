"""Rendering of the true cross-reenactments for a folder of portrait-world clips."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.locks import lock_output
from fantasytalking.evaluation.benchmark.driver_assignment import assign_drivers
from fantasytalking.evaluation.benchmark.layouts import CROSS_REENACTMENTS_FOLDER, DRIVER_SEPARATOR, list_world_clips
from fantasytalking.portrait_world.corpus.reenacted_clip import render_reenactment


def render_cross_ground_truth(
    references: Path, num_people: int, max_clips: int | None = None
) -> Iterator[tuple[int, int]]:
    """Renders the missing clips of crossed/: each clip's portrait, driven by clips of other people.

    Args:
        references: folder of clips of one person, the drivers, and of clips of `num_people` people.
        num_people: people per clip, each with a driver.
        max_clips: maximum number of clips, in the order of the md5 of the portraits' names; None = all.

    Yields:
        the number of clips that exist, and the number of all clips.

    Raises:
        InputError: there are no such clips, or too few identities to pair.
    """
    pairs = list(
        islice(
            assign_drivers(list_world_clips(references, num_people), list_world_clips(references, 1), num_people),
            max_clips,
        )
    )
    if not pairs:
        raise InputError(
            f"--references '{references}' contains no clip of {num_people} people with drivers of other identities; "
            "render clips of more identities",
            code=ErrorCode.missing_file,
            field="--references",
            value=str(references),
        )
    folder = references / CROSS_REENACTMENTS_FOLDER
    with lock_output(folder):
        for done, (portrait, drivers) in enumerate(pairs):
            yield done, len(pairs)
            output = folder / (portrait.name + DRIVER_SEPARATOR + "-".join(driver.name for driver in drivers))
            if not output.is_dir():
                render_reenactment(portrait.path.parent, [driver.path.parent for driver in drivers], output)
        yield len(pairs), len(pairs)

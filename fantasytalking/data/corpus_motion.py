"""The motion constants of a run's corpora: one for all of its clips."""

from collections.abc import Sequence
from pathlib import Path

from fantasytalking.common.errors import InputError
from fantasytalking.data.manifest import read_manifest
from fantasytalking.motion_normalizer import NORMALISER, MotionMeasure, MotionNormaliser


def prepared_motion(manifests: Sequence[str | Path]) -> MotionNormaliser | None:
    """The constants that the corpora were prepared with; None where none of them says.

    Raises:
        InputError: they were prepared with different ones, so that 0.6 would not mean the same in all clips.
    """
    known = [(path, found) for path in manifests if (found := MotionNormaliser.beside(path)) is not None]
    for path, found in known[1:]:
        if found != known[0][1]:
            raise InputError(
                f"motion is normalised differently in '{known[0][0]}' and '{path}'; prepare the one with "
                f"normaliser={Path(known[0][0]).parent / NORMALISER}, or train with data.fit_motion=true"
            )
    return known[0][1] if known else None


def fitted_motion(manifests: Sequence[str | Path]) -> MotionNormaliser:
    """Constants fitted on the clips of all corpora together, whatever they were prepared with.

    Raises:
        InputError: a manifest is missing or damaged.
    """
    records = [record for path in manifests for record in read_manifest(path)]
    return MotionNormaliser.fit([MotionMeasure(record.expression_measure, record.body_measure) for record in records])


def check_start_motion(start: str | Path | None, motion: MotionNormaliser | None, fitted: bool) -> None:
    """Holds that clips are normalised as those were that the checkpoint a run starts from was trained on.

    Args:
        start: an adapter folder, or something else, which has no constants.
        fitted: `motion` was fitted on the clips.

    Raises:
        InputError: they are not.
    """
    before = None if start is None else MotionNormaliser.beside(start)
    if before is not None and motion is not None and before != motion:
        cure = f"prepare the corpus with normaliser={Path(start or '') / NORMALISER}"
        raise InputError(
            f"the clips' motion is normalised by other constants than '{start}' was trained with; {cure}"
            f"{' and leave data.fit_motion out' if fitted else ''}"
        )

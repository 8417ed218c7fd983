"""The motion constants of a run's corpora: one for all of its clips."""

from collections.abc import Sequence
from pathlib import Path

from fantasytalking.common.errors import InputError
from fantasytalking.data.manifest import read_manifest
from fantasytalking.motion_normalizer import MOTION_NORMALIZER_FILE, MotionMeasure, MotionNormalizer


def prepared_motion_normalizer(manifests: Sequence[str | Path]) -> MotionNormalizer | None:
    """The constants that the corpora were prepared with; None where none of them says.

    Raises:
        InputError: they were prepared with different ones, so that 0.6 would not mean the same in all clips.
    """
    known = [(path, found) for path in manifests if (found := MotionNormalizer.load_if_present(path)) is not None]
    for path, found in known[1:]:
        if found != known[0][1]:
            raise InputError(
                f"motion is normalised differently in '{known[0][0]}' and '{path}'; prepare the one with "
                f"normaliser={Path(known[0][0]).parent / MOTION_NORMALIZER_FILE}, or train with "
                "data.refit_motion_normalizer=true"
            )
    return known[0][1] if known else None


def fit_motion_normalizer(manifests: Sequence[str | Path]) -> MotionNormalizer:
    """Constants fitted on the clips of all corpora together, whatever they were prepared with.

    Raises:
        InputError: a manifest is missing or damaged.
    """
    records = [record for path in manifests for record in read_manifest(path)]
    return MotionNormalizer.fit([MotionMeasure(record.expression_measure, record.body_measure) for record in records])


def check_initial_motion_normalizer(
    init_from: str | Path | None, normalizer: MotionNormalizer | None, refitted: bool
) -> None:
    """Holds that clips are normalised as those were that the checkpoint a run starts from was trained on.

    Args:
        init_from: an adapter folder, or something else, which has no constants.
        refitted: `normalizer` was fitted on the clips.

    Raises:
        InputError: they are not.
    """
    before = None if init_from is None else MotionNormalizer.load_if_present(init_from)
    if before is not None and normalizer is not None and before != normalizer:
        cure = f"prepare the corpus with normaliser={Path(init_from or '') / MOTION_NORMALIZER_FILE}"
        raise InputError(
            f"the clips' motion is normalised by other constants than '{init_from}' was trained with; {cure}"
            f"{' and leave data.refit_motion_normalizer out' if refitted else ''}"
        )

"""Provides the motion normalizer of a training run: one for the clips of all its corpora."""

from collections.abc import Sequence
from pathlib import Path

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.hub import resolve_local
from fantasytalking.data.manifest import read_manifest
from fantasytalking.motion_normalizer import MOTION_NORMALIZER_FILE, MotionMeasure, MotionNormalizer


def prepared_motion_normalizer(manifests: Sequence[str | Path]) -> MotionNormalizer | None:
    """Returns the normalizer with which the corpora were prepared; None if none of them has one.

    Raises:
        InputError: the corpora were prepared with different ones, so that a motion intensity of 0.6 would differ.
    """
    known = [(path, found) for path in manifests if (found := MotionNormalizer.load_if_present(path)) is not None]
    for path, found in known[1:]:
        if found != known[0][1]:
            raise InputError(
                f"'{known[0][0]}' and '{path}' have different motion normalizers; prepare the second with "
                f"motion_normalizer={Path(known[0][0]).parent / MOTION_NORMALIZER_FILE}, or train with "
                "data.refit_motion_normalizer=true",
                code=ErrorCode.conflict,
                field="motion_normalizer",
                value=str(path),
            )
    return known[0][1] if known else None


def fit_motion_normalizer(manifests: Sequence[str | Path]) -> MotionNormalizer:
    """Fits a normalizer on the clips of all corpora together.

    Raises:
        InputError: a manifest is missing or damaged.
    """
    records = [record for path in manifests for record in read_manifest(path)]
    return MotionNormalizer.fit([MotionMeasure(record.expression_measure, record.body_measure) for record in records])


def check_initial_motion_normalizer(
    init_from: str | Path | None, normalizer: MotionNormalizer | None, refitted: bool
) -> None:
    """Checks that the clips have the motion normalizer of the initial checkpoint.

    Args:
        init_from: an adapter folder, or another checkpoint, which has no normalizer.
        normalizer: the normalizer of the clips.
        refitted: whether `normalizer` was fitted on the clips.

    Raises:
        InputError: the normalizers differ.
    """
    initial = None if init_from is None else MotionNormalizer.load_if_present(resolve_local(init_from))
    if initial is not None and normalizer is not None and initial != normalizer:
        cure = f"prepare the corpus with motion_normalizer={Path(init_from or '') / MOTION_NORMALIZER_FILE}"
        raise InputError(
            f"the clips have another motion normalizer than '{init_from}' was trained with; {cure}"
            f"{' and remove data.refit_motion_normalizer' if refitted else ''}",
            code=ErrorCode.conflict,
            field="data.refit_motion_normalizer" if refitted else "motion_normalizer",
            value=str(init_from),
        )

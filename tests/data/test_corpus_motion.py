"""The motion normalizer of a run: one for all corpora, and the one of the initial checkpoint."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.common.errors import ErrorCode
from fantasytalking.data.corpus_motion import (
    check_initial_motion_normalizer,
    fit_motion_normalizer,
    prepared_motion_normalizer,
)
from fantasytalking.data.dataset import PortraitDataset
from fantasytalking.data.manifest import write_records
from fantasytalking.motion_normalizer import MOTION_NORMALIZER_FILE, MotionNormalizer
from tests.data.feature_corpus import record, save_clip
from tests.helpers.errors import raises_input_error

CONSTANTS = MotionNormalizer(0.001, 0.01, 0.01, 1.0)


def corpus(folder: Path, constants: MotionNormalizer | None, measures: list[float]) -> Path:
    """A manifest of clips with these expression measures and ten times larger body measures."""
    records = [
        replace(record(number), expression_measure=measure, body_measure=10 * measure)
        for number, measure in enumerate(measures)
    ]
    folder.mkdir()
    write_records(folder / "manifest.jsonl", records)
    if constants is not None:
        constants.save(folder / MOTION_NORMALIZER_FILE)
    return folder / "manifest.jsonl"


def test_corpora_must_have_one_normalizer(tmp_path: Path) -> None:
    first, same = (corpus(tmp_path / name, CONSTANTS, [0.002]) for name in ("first", "same"))
    other = corpus(tmp_path / "other", replace(CONSTANTS, body_high=2.0), [0.002])
    unknown = corpus(tmp_path / "unknown", None, [0.002])
    assert prepared_motion_normalizer([first, same]) == prepared_motion_normalizer([unknown, first]) == CONSTANTS
    assert prepared_motion_normalizer([unknown]) is None
    with raises_input_error(ErrorCode.conflict, "motion_normalizer", str(other)) as error:
        prepared_motion_normalizer([first, other])
    assert str(first) in str(error.value) and "data.refit_motion_normalizer=true" in str(error.value)


def test_fitted_constants_spread_all_clips_together(tmp_path: Path) -> None:
    low = corpus(tmp_path / "low", CONSTANTS, np.geomspace(1e-4, 1e-3, 50).tolist())
    high = corpus(tmp_path / "high", None, np.geomspace(1e-3, 1e-2, 51)[1:].tolist())
    fitted = fit_motion_normalizer([low, high])
    # A tenth of a hundred clips, evenly over two powers of ten, lies below and above.
    expected = [10**-3.8, 10**-2.2, 10**-2.8, 10**-1.2]
    assert list(vars(fitted).values()) == pytest.approx(expected, rel=0.05)


def test_the_dataset_normalizes_motion_anew(tmp_path: Path) -> None:
    clip = replace(save_clip(tmp_path, 0), expression_measure=0.01**1.25, body_measure=5.0)
    write_records(tmp_path / "manifest.jsonl", [clip])
    (as_prepared,) = PortraitDataset(tmp_path / "manifest.jsonl").records
    (anew,) = PortraitDataset(tmp_path / "manifest.jsonl", motion_normalizer=CONSTANTS).records
    assert as_prepared == clip and (clip.expression, clip.body) == (0.25, 0.75)
    assert (anew.expression, anew.body) == (0.5, 1.0)


def test_an_initial_checkpoint_with_another_normalizer_is_refused(tmp_path: Path) -> None:
    CONSTANTS.save(tmp_path / "adapter" / MOTION_NORMALIZER_FILE)
    check_initial_motion_normalizer(tmp_path / "adapter", CONSTANTS, False)
    check_initial_motion_normalizer(tmp_path / "adapter", None, False)
    check_initial_motion_normalizer(None, CONSTANTS, False)
    check_initial_motion_normalizer(tmp_path / "released" / "weights.ckpt", CONSTANTS, False)
    other = replace(CONSTANTS, body_high=2.0)
    adapter = str(tmp_path / "adapter")
    with raises_input_error(ErrorCode.conflict, "motion_normalizer", adapter) as error:
        check_initial_motion_normalizer(adapter, other, False)
    assert "motion_normaliser.json" in str(error.value) and "data.refit" not in str(error.value)
    with raises_input_error(ErrorCode.conflict, "data.refit_motion_normalizer", adapter) as error:
        check_initial_motion_normalizer(adapter, other, True)
    assert "motion_normaliser.json" in str(error.value)

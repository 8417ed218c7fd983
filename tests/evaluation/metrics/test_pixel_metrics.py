"""PSNR and SSIM against their definitions."""

import numpy as np
import pytest
import torch

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metrics.quality.psnr import PSNR
from fantasytalking.evaluation.metrics.quality.ssim import SSIM, structural_similarity


def changed(clip: EvaluationClip, by: int) -> EvaluationClip:
    frames = np.clip(clip.frames[:6].astype(int) + by, 0, 255).astype(np.uint8)
    return EvaluationClip.from_arrays(frames, clip.fps, name=clip.name)


def test_psnr_of_a_known_error(clips: list[EvaluationClip]) -> None:
    gray = EvaluationClip.from_arrays(np.full((3, 16, 16, 3), 100, np.uint8), 25.0)
    brighter = EvaluationClip.from_arrays(np.full((3, 16, 16, 3), 110, np.uint8), 25.0)
    metric = PSNR()
    metric.update(brighter, gray)
    assert metric.compute() == pytest.approx({"psnr": 20 * np.log10(255 / 10), "n": 1})
    metric.update(gray, gray)
    assert metric.compute() == pytest.approx({"psnr": (20 * np.log10(255 / 10) + 100) / 2, "n": 2})
    metric.reset()
    assert np.isnan(metric.compute()["psnr"])


def test_ssim_agrees_with_torchmetrics(clips: list[EvaluationClip]) -> None:
    functional = pytest.importorskip("torchmetrics.functional.image")
    one, other = clips[0].frames[0], clips[0].frames[9]
    pair = [torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None] for image in (one, other)]
    _, full = functional.structural_similarity_index_measure(*pair, data_range=255.0, return_full_image=True)
    expected = float(full[..., 5:-5, 5:-5].mean())  # torchmetrics includes the mirrored edges, the paper does not
    assert structural_similarity(one, other) == pytest.approx(expected, abs=1e-6)
    assert structural_similarity(one, one) == pytest.approx(1.0)


def test_a_larger_change_is_worse(clips: list[EvaluationClip]) -> None:
    reference = changed(clips[0], 0)
    for metric, name in ((PSNR(), "psnr"), (SSIM(), "ssim")):
        scores = [metric.summarize([metric.measure(changed(clips[0], by), reference)])[name] for by in (0, 10, 40)]
        assert scores[0] > scores[1] > scores[2]
    tiny = EvaluationClip.from_arrays(np.zeros((2, 8, 8, 3), np.uint8), 25.0)
    assert SSIM().summarize([SSIM().measure(tiny, tiny)])["n"] == 0

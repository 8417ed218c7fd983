"""One denoising step of a whole video: every window, every branch, guided and fused.

Axes: B = 1 video, F latent frames of the video, L of a window.
"""

import math
import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fantasytalking.common.errors import InputError
from fantasytalking.models.cfg_branches import FULL_BRANCH, FULL_BRANCH_WITH_EXPRESSION, GuidanceBranch
from fantasytalking.models.kv_cache import ConditionKVCache
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.pipeline.guidance import StepGuidance
from fantasytalking.pipeline.sliding_window import LatentWindow
from fantasytalking.pipeline.video_conditions import VideoConditions

WINDOWED_CONDITIONS = ("audio", "expression")
"""Conditions that change from one window to the next."""
BATCH_MEMORY_DIVISOR = 8
"""Branches are computed together when what they need at once is at most this part of the device's memory."""


class Denoiser:
    """The guided prediction for a video.

    What is constant over steps (text, portrait and face keys and values) is computed once for the video. The sound's
    and the expressions' are too when the video is one window; with more windows they are computed anew for each, which
    costs little beside a call, so that memory does not grow with the length.

    Args:
        batch_branches: all branches in one call; None = where memory allows it and no step cache tells them apart.
        on_window_done: called after each window, for a progress bar.
        cache: of an earlier part of the same video, whose sound was forgotten; None = a new one.
    """

    def __init__(
        self,
        transformer: FantasyTalkingTransformer3DModel,
        conditions: VideoConditions,
        windows: Sequence[LatentWindow],
        *,
        batch_branches: bool | None,
        on_window_done: Callable[[], object],
        cache: ConditionKVCache | None = None,
    ) -> None:
        self.transformer, self.conditions, self.windows = transformer, conditions, windows
        self.batch_branches, self.on_window_done = (
            _should_batch_branches(batch_branches, transformer, conditions),
            on_window_done,
        )
        self._cache = ConditionKVCache() if cache is None else cache
        self._guidance_scales: dict[tuple[float, float], Tensor] = {}
        self._single_window = conditions.for_window(windows[0]) if len(windows) == 1 else None

    def predict(self, latents: Tensor, timestep: Tensor, guidance: StepGuidance) -> Tensor:
        """Guided velocity (1, C, F, h, w) in float32: the windows' predictions, weighted and summed.

        A scheduler's step is linear in the prediction, so this mixes the windows' latents with the same weights.
        """
        fused = torch.zeros_like(latents)
        for number, window in enumerate(self.windows):
            guided = self._predict_guided(number, window, latents, timestep, guidance)
            weights = window.blend_weights.to(fused).view(1, 1, -1, 1, 1)
            fused.index_add_(2, window.frame_indices.to(fused.device), (weights * guided).to(fused))
            self.on_window_done()
        return fused

    def _predict_guided(
        self, window_index: int, window: LatentWindow, latents: Tensor, timestep: Tensor, guidance: StepGuidance
    ) -> Tensor:
        """A window's prediction: its branches summed, or the one call of a distilled model, which knows the scales."""
        if self.transformer.distillation is None:
            return guidance.combine(self._predict_branches(window_index, window, latents, timestep, guidance.branches))
        if guidance.scales not in self._guidance_scales:
            self._guidance_scales[guidance.scales] = self.conditions.motion_intensity.new_tensor([guidance.scales])
        scales = self._guidance_scales[guidance.scales]
        whole = FULL_BRANCH if self.conditions.expression is None else FULL_BRANCH_WITH_EXPRESSION
        return self._predict_branches(window_index, window, latents, timestep, [whole], scales)[whole].float()

    def _predict_branches(
        self,
        window_index: int,
        window: LatentWindow,
        latents: Tensor,
        timestep: Tensor,
        branches: list[GuidanceBranch],
        scales: Tensor | None = None,
    ) -> dict[GuidanceBranch, Tensor]:
        within = self._single_window or self.conditions.for_window(window)
        noisy = latents[:, :, window.frame_indices.to(latents.device)].to(self.conditions.motion_intensity)
        calls = [tuple(branches)] if self.batch_branches else [(branch,) for branch in branches]
        predictions: dict[GuidanceBranch, Tensor] = {}
        for call in calls:
            # A step cache must not take one window's or branch's features for another's.
            with self.transformer.cache_context(f"{window_index}:{'|'.join(branch.label for branch in call)}"):
                sample = self.transformer(
                    noisy,
                    timestep.expand(1),
                    self.conditions.for_branches(call, within)._replace(guidance=scales),
                    cache=self._cache,
                    return_dict=False,
                )[0]
            predictions.update(zip(call, sample.split(1), strict=True))
        if self._single_window is None:
            for name in WINDOWED_CONDITIONS:
                self._cache.evict(name)
        return predictions


def _should_batch_branches(
    requested: bool | None, transformer: FantasyTalkingTransformer3DModel, conditions: VideoConditions
) -> bool:
    if requested is False or (requested is None and transformer.is_cache_enabled):
        return False
    if requested and transformer.is_cache_enabled:
        raise InputError(
            "guidance.batch_branches is true, but a step cache needs one call a branch; leave one of them out"
        )
    if requested:
        return True
    shape = transformer.config
    tokens = conditions.image_latents[0, 0].numel() // math.prod(shape.patch_size)
    width = shape.num_attention_heads * shape.attention_head_dim
    # Each branch has a block's input in float32 twice, eight tensors of its width and the two of the feed-forward.
    needed = (
        (3 if conditions.expression is None else 4)
        * tokens
        * (8 * width + conditions.motion_intensity.itemsize * (8 * width + 2 * shape.ffn_dim))
    )
    return needed * BATCH_MEMORY_DIVISOR <= _total_memory(conditions.motion_intensity.device)


def _total_memory(device: torch.device) -> int:
    """All of it, used or not, so that the same machine always chooses alike."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

"""One denoising step of a whole video: every window, every branch, guided and fused.

Axes: B = 1 video, F latent frames of the video, L of a window.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fantasytalking.models.condition_cache import ConditionCache
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.pipeline.encoding import VideoConditions
from fantasytalking.pipeline.guidance import Branch, StepGuidance
from fantasytalking.pipeline.windows import Window


class Denoiser:
    """The guided prediction for a video.

    What is constant over steps (text, portrait and face keys and values) is computed once for the video. The sound's
    are too when the video is one window; with more windows they are computed anew for each, which costs less than a
    hundredth of a call, so that memory does not grow with the length.

    Args:
        advance: called after each window, for a progress bar.
    """

    def __init__(
        self,
        transformer: FantasyTalkingTransformer3DModel,
        conditions: VideoConditions,
        windows: Sequence[Window],
        *,
        batched: bool,
        advance: Callable[[], object],
    ) -> None:
        self.transformer, self.conditions, self.windows = transformer, conditions, windows
        self.batched, self.advance = batched, advance
        self._cache = ConditionCache()
        self._only_sound = conditions.sound(windows[0]) if len(windows) == 1 else None

    def predict(self, latents: Tensor, timestep: Tensor, guidance: StepGuidance) -> Tensor:
        """Guided velocity (1, C, F, h, w) in float32: the windows' predictions, weighted and summed.

        A scheduler's step is linear in the prediction, so this mixes the windows' latents with the same weights.
        """
        fused = torch.zeros_like(latents)
        for number, window in enumerate(self.windows):
            guided = guidance.combine(self._branches(number, window, latents, timestep, guidance.branches))
            weights = window.weights.to(fused).view(1, 1, -1, 1, 1)
            fused.index_add_(2, window.frames.to(fused.device), (weights * guided).to(fused))
            self.advance()
        return fused

    def _branches(
        self, number: int, window: Window, latents: Tensor, timestep: Tensor, branches: list[Branch]
    ) -> dict[Branch, Tensor]:
        sound = self._only_sound or self.conditions.sound(window)
        noisy = latents[:, :, window.frames.to(latents.device)].to(self.conditions.motion)
        calls = [tuple(branches)] if self.batched else [(branch,) for branch in branches]
        predictions: dict[Branch, Tensor] = {}
        for call in calls:
            samples = len(call)
            # A step cache must not take one window's or branch's features for another's.
            with self.transformer.cache_context(f"{number}:{'|'.join(branch.label for branch in call)}"):
                sample = self.transformer(
                    noisy.expand(samples, -1, -1, -1, -1),
                    timestep.expand(samples),
                    self.conditions.of(call, sound),
                    cache=self._cache,
                    return_dict=False,
                )[0]
            predictions.update(zip(call, sample.split(1), strict=True))
        if self._only_sound is None:
            self._cache.forget("audio")
        return predictions

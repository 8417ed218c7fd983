"""Causal windows: each is denoised to its end before the next one starts, so that its frames can be emitted at once.

Every window is frame 0 and a stretch, as in `fantasytalking.pipeline.sliding_window`, and overlaps the previous window.
There all windows are denoised together; here the previous window is already finished. It takes part all the same, with
the weight it would have had: a finished latent z that started as noise e moved with the velocity e - z, which is
blended with the new window's prediction (as MultiDiffusion blends predictions, arXiv 2302.08113). With weight 1 this is
the known region of RePaint (arXiv 2201.09865): at every noise level z under that level's noise. Both windows must start
from the same noise e: blending two different noises would weaken the noise, which the model was never trained on.
(Blending latents after every step, in place of velocities, would accumulate the weight over the steps.)

Frames are emitted once no later window can change them: the overlap waits for the next window. The last window is as
long as the others and so starts earlier; frames that were emitted by then stay as they are (weight 1).

Axes: C channels, F latent frames of the video, L of a window, h and w latent height and width.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class CausalWindow(NamedTuple):
    """A window of a video whose length may not be known yet."""

    start: int
    """First latent frame of its stretch; frame 0 precedes it."""
    end: int
    """One past its last latent frame."""
    denoised: int
    """Latent frames that earlier windows have denoised, emitted or not."""
    emitted: int
    """Latent frames that can no longer change."""
    overlap: int
    """Latent frames shared with the next window."""
    is_last: bool

    @property
    def frame_indices(self) -> Tensor:
        """(L,) latent frames of the video."""
        return torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(self.start, self.end)])

    @property
    def overlap_weight(self) -> Tensor:
        """(L,) float32 weight of earlier windows: 1 for emitted frames, 0 for frames that are new."""
        if not self.denoised:
            return torch.zeros(len(self.frame_indices))
        waiting = (self.denoised - self.frame_indices) / (
            self.overlap + 1
        )  # falls over the overlap, as in `plan_windows`
        return torch.where(self.frame_indices < self.emitted, 1.0, waiting.clamp(0, 1))

    @property
    def emittable(self) -> int:
        """Latent frames of the video that can be emitted once this window is done."""
        return self.end if self.is_last else self.end - self.overlap


def first_causal_window(window_length: int, overlap: int, num_latent_frames: int | None) -> CausalWindow:
    """Returns the first window, of `window_length` latent frames.

    Args:
        num_latent_frames: F where it is known to be at most `window_length`; None: the video continues.
    """
    if num_latent_frames is None:
        return CausalWindow(1, window_length, 0, 0, overlap, is_last=False)
    assert num_latent_frames <= window_length, "the whole video is one window"
    return CausalWindow(1, num_latent_frames, 0, 0, overlap, is_last=True)


def next_causal_window(previous: CausalWindow, num_latent_frames: int | None) -> CausalWindow:
    """Returns the window after `previous`.

    Args:
        num_latent_frames: F where the video is known to end in this window; None: it continues.
    """
    stretch = previous.end - previous.start
    end = previous.emittable + stretch if num_latent_frames is None else num_latent_frames
    assert previous.end < end <= previous.emittable + stretch and not previous.is_last, "one window ahead"
    return CausalWindow(
        end - stretch, end, previous.end, previous.emittable, previous.overlap, is_last=num_latent_frames is not None
    )


class WindowHistory:
    """Latents and initial noise of the newest window: all that later windows need."""

    def __init__(self) -> None:
        self._frame_indices = torch.zeros(0, dtype=torch.long)
        self._latents: Tensor | None = None
        self._noise: Tensor | None = None

    def store(self, window: CausalWindow, latents: Tensor, noise: Tensor) -> None:
        """Stores a finished window, (1, C, L, h, w) each, in place of the previous one."""
        self._frame_indices, self._latents, self._noise = window.frame_indices, latents, noise

    def start_window(self, window: CausalWindow, new_noise: Tensor) -> tuple[Tensor, Tensor]:
        """Returns noise and earlier latents of a window, (1, C, L, h, w) each; latents are 0 where there are none.

        Args:
            new_noise: (1, C, n, h, w) noise of its n new latent frames.
        """
        if self._latents is None or self._noise is None:
            return new_noise, torch.zeros_like(new_noise)
        known = window.frame_indices[window.frame_indices < window.denoised]
        positions = torch.searchsorted(self._frame_indices, known).to(new_noise.device)
        noise = torch.cat([self._noise[:, :, positions], new_noise], dim=2)
        latents = torch.cat([self._latents[:, :, positions], torch.zeros_like(new_noise)], dim=2)
        return noise, latents

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(tensor.nbytes for tensor in (self._latents, self._noise) if tensor is not None)


def blend_velocity(prediction: Tensor, previous_latents: Tensor, noise: Tensor, overlap_weight: Tensor) -> Tensor:
    """Returns the guided prediction blended with the velocity of the earlier latents, (1, C, L, h, w).

    Args:
        prediction: (1, C, L, h, w) guided velocity of this window.
        previous_latents, noise: (1, C, L, h, w), as earlier windows finished and started them.
        overlap_weight: (L,) weight of the earlier windows.
    """
    weight = overlap_weight.to(prediction).view(1, 1, -1, 1, 1)
    return torch.lerp(prediction, noise - previous_latents, weight)

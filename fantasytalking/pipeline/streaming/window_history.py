"""Windows one after another: each is denoised to its end before the next begins, so that frames can be shown at once.

Every window is frame 0 and a stretch, as in `fantasytalking.pipeline.sliding_window`, and shares an overlap with the
window before. There all windows walk through the noise levels together; here the window before has arrived. It takes
part all
the same, with the weights it would have had: a finished latent z that began as noise e went there with the velocity
e - z, which is mixed with the new window's prediction (as MultiDiffusion mixes predictions, arXiv 2302.08113). With
weight 1 this is the known region of RePaint (arXiv 2201.09865): at every noise level z under that level's share of
noise. Both sides must begin as the same noise e: mixing two different noises would weaken the noise, which the model
was never shown. (Latents mixed after every step, in place of velocities, would add the weight up over the steps.)

Frames are shown once no later window can change them: the overlap waits for the next window. The last window is as
long as the others and so begins earlier; what was shown by then stays as it is (weight 1).

Axes: C channels, F latent frames of the video, L of a window, h and w latent height and width.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class CausalWindow(NamedTuple):
    """A window of a video whose length need not be known yet."""

    start: int
    """Latent frame at which its stretch begins; frame 0 comes before it."""
    end: int
    """Latent frame behind its last."""
    denoised: int
    """Latent frames that earlier windows have made, shown or not."""
    emitted: int
    """Latent frames that can no longer change."""
    overlap: int
    is_last: bool

    @property
    def frame_indices(self) -> Tensor:
        """(L,) latent frames of the video."""
        return torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(self.start, self.end)])

    @property
    def overlap_weight(self) -> Tensor:
        """(L,) float32 share of what earlier windows have made: 1 where it was shown, 0 where there is nothing yet."""
        if not self.denoised:
            return torch.zeros(len(self.frame_indices))
        waiting = (self.denoised - self.frame_indices) / (
            self.overlap + 1
        )  # falls over the overlap, as in `plan_windows`
        return torch.where(self.frame_indices < self.emitted, 1.0, waiting.clamp(0, 1))

    @property
    def emittable(self) -> int:
        """Latent frames of the video that can be shown when this window is done."""
        return self.end if self.is_last else self.end - self.overlap


def first_causal_window(window_length: int, overlap: int, num_latent_frames: int | None) -> CausalWindow:
    """The first of the windows of `window_length` latent frames.

    Args:
        num_latent_frames: F where it is known to be no more than `window_length`; None = the video goes on.
    """
    if num_latent_frames is None:
        return CausalWindow(1, window_length, 0, 0, overlap, is_last=False)
    assert num_latent_frames <= window_length, "the whole video is one window"
    return CausalWindow(1, num_latent_frames, 0, 0, overlap, is_last=True)


def next_causal_window(previous: CausalWindow, num_latent_frames: int | None) -> CausalWindow:
    """The window after `previous`.

    Args:
        num_latent_frames: F where the video is known to end in this window; None = it goes on.
    """
    stretch = previous.end - previous.start
    end = previous.emittable + stretch if num_latent_frames is None else num_latent_frames
    assert previous.end < end <= previous.emittable + stretch and not previous.is_last, "one window further"
    return CausalWindow(
        end - stretch, end, previous.end, previous.emittable, previous.overlap, is_last=num_latent_frames is not None
    )


class WindowHistory:
    """The newest window's latents and the noise they came from: all that later windows need."""

    def __init__(self) -> None:
        self._frame_indices = torch.zeros(0, dtype=torch.long)
        self._latents: Tensor | None = None
        self._noise: Tensor | None = None

    def store(self, window: CausalWindow, latents: Tensor, noise: Tensor) -> None:
        """Remembers a finished window, (1, C, L, h, w) each, in place of the one before."""
        self._frame_indices, self._latents, self._noise = window.frame_indices, latents, noise

    def start_window(self, window: CausalWindow, new_noise: Tensor) -> tuple[Tensor, Tensor]:
        """Noise and earlier latents of a window, (1, C, L, h, w) each; the latents are 0 where there are none.

        Args:
            new_noise: (1, C, n, h, w) noise of its n latent frames that no window has had.
        """
        if self._latents is None or self._noise is None:
            return new_noise, torch.zeros_like(new_noise)
        known = window.frame_indices[window.frame_indices < window.denoised]
        places = torch.searchsorted(self._frame_indices, known).to(new_noise.device)
        noise = torch.cat([self._noise[:, :, places], new_noise], dim=2)
        latents = torch.cat([self._latents[:, :, places], torch.zeros_like(new_noise)], dim=2)
        return noise, latents

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return sum(tensor.nbytes for tensor in (self._latents, self._noise) if tensor is not None)


def blend_velocity(prediction: Tensor, previous_latents: Tensor, noise: Tensor, overlap_weight: Tensor) -> Tensor:
    """The window's guided prediction, mixed with the way that the earlier latents have gone.

    Args:
        prediction, latents, noise: (1, C, L, h, w); the latents as earlier windows left them.
        overlap_weight: (L,) share of the earlier windows.
    """
    weight = overlap_weight.to(prediction).view(1, 1, -1, 1, 1)
    return torch.lerp(prediction, noise - previous_latents, weight)

"""Which audio tokens a latent frame hears: the released rule, ours in seconds, and the whole clip.

Axes: B batch, T audio tokens of the clip, W windows (1 = clip level, F = one per latent frame), L tokens in a window,
C channels. A window is never wider than its mask says: what lies outside the clip is padding on the right, False in
the mask, and must not be attended to.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fantasytalking.common.errors import InputError
from fantasytalking.conditions import latent_frame_count

TOKENS_PER_SECOND = 50.0
"""wav2vec2: a stride of 320 samples at 16 kHz."""
FIRST_TOKEN_CENTER_SECONDS = 200 / 16000
"""Seconds: the middle of the first token's receptive field of 400 samples."""
AUDIO_WINDOW_SECONDS = 0.34
"""Default span of a window: 17 tokens, what the released rule gives at its own 23 fps."""
RELEASED_WINDOW_MARGIN = 4
"""Tokens the released code adds on both sides of a range."""


class AudioWindows(NamedTuple):
    """Audio cut into windows."""

    tokens: Tensor
    """(B, W, L, C), zeros where the mask is False."""
    mask: Tensor
    """(B, W, L) bool, True where the token is real."""


def clip_level_window(features: Tensor) -> AudioWindows:
    """One window that holds the whole clip: stage 1, clip-level alignment (paper section 3.1).

    Args:
        features: (B, T, C), T >= 1.
    """
    _check_features(features, 1, "one token")
    tokens = features[:, None]  # (B, 1, T, C)
    return AudioWindows(tokens, torch.ones(tokens.shape[:3], dtype=torch.bool, device=features.device))


def released_frame_windows(features: Tensor, num_frames: int) -> AudioWindows:
    """One window a latent frame by the released code's integer arithmetic, for weights trained with it.

    The window's length depends on the frame rate: 17 tokens at 23 fps, 15 at 25.

    Args:
        features: (B, T, C) tokens that cover exactly the clip.
        num_frames: frames of the clip, 1 + 4k.

    Raises:
        InputError: a wrong number of frames, or audio shorter than one window's core.
    """
    ranges = released_token_ranges(features.shape[1], num_frames)
    _check_features(features, ranges[0][1] - ranges[0][0] + 1, "one window")
    first = torch.tensor([start - RELEASED_WINDOW_MARGIN for start, _ in ranges])
    return cut_windows(features, first, ranges[0][1] - ranges[0][0] + 1 + 2 * RELEASED_WINDOW_MARGIN)


def released_token_ranges(num_tokens: int, num_frames: int) -> list[tuple[int, int]]:
    """First and last token of each latent frame, inclusive, before widening (released inference code).

    Frame 0 mirrors the start of frame 1, so it begins before the clip.

    Raises:
        InputError: `num_frames` is not 1 + 4k, or there is less than one token for two frames.
    """
    latent_frames = latent_frame_count(num_frames)
    tokens_per_frame = num_tokens / num_frames
    half = int(4 * tokens_per_frame / 2)
    if half < 1:
        raise InputError(
            f"the audio has {num_tokens} tokens for {num_frames} frames and is shorter than one window; "
            f"at least {(num_frames + 1) // 2} tokens ({num_frames / 2 / TOKENS_PER_SECOND:.2f} s) are needed; "
            "give longer audio or fewer frames"
        )

    def around(frame: int) -> tuple[int, int]:
        first, last = tokens_per_frame * ((frame - 1) * 4 + 1), tokens_per_frame * (frame * 4 + 1)
        centre = int((first + last) / 2) - 1
        return centre - half, centre + half

    start_of_one = around(1)[0]
    return [(start_of_one - 2 * half, start_of_one)] + [around(frame) for frame in range(1, latent_frames)]


def timed_frame_windows(
    features: Tensor, frame_times: Tensor, window_seconds: float = AUDIO_WINDOW_SECONDS
) -> AudioWindows:
    """One window a latent frame, `window_seconds` seconds around its true time: the same at every frame rate. Our
    default.

    Latent frame 0 is frame 0; latent frame k > 0 is frames 4k-3 to 4k. A latent frame's time is the middle of the
    time during which its frames are shown, so variable frame rates need nothing else.

    Args:
        features: (B, T, C) wav2vec2 tokens; token t is centred at (320 t + 200) / 16000 s of the clip.
        frame_times: (num_frames,) or (B, num_frames) seconds from the clip's start at which each frame appears,
            increasing, num_frames = 1 + 4k > 1.
        window_seconds: width of a window in seconds; it is rounded to an odd number of tokens.

    Raises:
        InputError: times that do not increase, a wrong number of frames, or audio shorter than one window.
    """
    length = tokens_per_window(window_seconds)
    _check_features(features, length, f"one window of {window_seconds} s")
    # Token whose centre is nearest; half a token up, so that a tie is broken alike on every platform.
    centre = torch.floor((latent_frame_times(frame_times) - FIRST_TOKEN_CENTER_SECONDS) * TOKENS_PER_SECOND + 0.5)
    return cut_windows(features, centre.long() - length // 2, length)


def tokens_per_window(window_seconds: float) -> int:
    """Tokens in a window of `window_seconds` seconds: the nearest odd number, so that it has a middle.

    Raises:
        InputError: a span under one token or over ten seconds.
    """
    if not 1 / TOKENS_PER_SECOND <= window_seconds <= 10:
        raise InputError(f"an audio window of {window_seconds} s; it must be {1 / TOKENS_PER_SECOND} to 10 s")
    return 2 * int((window_seconds * TOKENS_PER_SECOND - 1) / 2 + 0.5) + 1


def latent_frame_times(frame_times: Tensor) -> Tensor:
    """Middle of each latent frame in seconds: (..., num_frames) -> (..., F), float64.

    Raises:
        InputError: fewer than 5 frames, not 1 + 4k of them, or times that are not finite and increasing.
    """
    latent_frame_count(frame_times.shape[-1])
    times = frame_times.double()
    if times.shape[-1] < 5:
        raise InputError(f"{times.shape[-1]} frame time; at least 5 are needed to know how long a frame is shown")
    steps = times.diff(dim=-1)
    if not bool((torch.isfinite(times).all() & (steps > 0).all()).item()):
        raise InputError("frame_times must be finite and increase from frame to frame; sort the frames by time")
    ends = torch.cat([times[..., 1:], times[..., -1:] + steps[..., -1:]], dim=-1)  # when the next frame appears
    first = (times[..., :1] + ends[..., :1]) / 2
    groups = (times[..., 1::4] + ends[..., 4::4]) / 2  # frames 4k-3 .. 4k
    return torch.cat([first, groups], dim=-1)


def join_speaker_windows(windows: Sequence[AudioWindows]) -> AudioWindows:
    """The windows of several speakers side by side, as `Conditions.speaker_regions` tells them apart.

    Args:
        windows: (B, W, L, C) each, of one rule and one video, in the order of the regions.

    Returns:
        (B, W, P L, C) with its mask.

    Raises:
        InputError: no speaker, or windows of different shapes.
    """
    shapes = [tuple(window.tokens.shape) for window in windows]
    if len(set(shapes)) != 1:
        raise InputError(
            f"the speakers' audio windows have the shapes {shapes}; one shape, and at least one speaker, is needed: "
            "bring every sound to the video's length first"
        )
    return AudioWindows(
        torch.cat([window.tokens for window in windows], dim=2), torch.cat([window.mask for window in windows], dim=2)
    )


def cut_windows(features: Tensor, first: Tensor, length: int) -> AudioWindows:
    """Windows of `length` tokens that begin at `first`, real tokens to the left, padding to the right.

    Args:
        features: (B, T, C).
        first: (W,) or (B, W) integer; it may be negative or beyond the end.
    """
    batch, num_tokens, channels = features.shape
    first = first.to(features.device).expand(batch, first.shape[-1])
    begin = first.clamp(0, num_tokens)  # (B, W)
    count = (first + length).clamp(0, num_tokens) - begin
    offsets = torch.arange(length, device=features.device)
    mask = offsets < count[..., None]  # (B, W, L)
    index = (begin[..., None] + offsets).clamp(max=num_tokens - 1)
    tokens = features.gather(1, index.flatten(1)[..., None].expand(-1, -1, channels)).unflatten(1, index.shape[1:])
    return AudioWindows(tokens.masked_fill(~mask[..., None], 0.0), mask)


def _check_features(features: Tensor, needed: int, what: str) -> None:
    if features.ndim != 3:
        raise InputError(f"audio features have the shape {tuple(features.shape)}; (batch, tokens, channels) is needed")
    if features.shape[1] < needed:
        raise InputError(
            f"the audio has {features.shape[1]} tokens ({features.shape[1] / TOKENS_PER_SECOND:.2f} s) and is shorter "
            f"than {what}: {needed} tokens ({needed / TOKENS_PER_SECOND:.2f} s); give longer audio"
        )

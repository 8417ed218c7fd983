"""Cuts audio tokens into windows: one per latent frame (released rule, or ours in seconds) or one per clip.

Axes: B batch, T audio tokens of the clip, W windows (1 = clip level, F = one per latent frame), L tokens in a window,
C channels. Tokens outside the clip are padding at the end of a window, False in the mask, and must not be attended to.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fantasytalking.audio_tokens import WAV2VEC2_TIMING, TokenTiming
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.latent_geometry import latent_frame_count

AUDIO_WINDOW_SECONDS = 0.34
"""Default span of a window in seconds: 17 tokens of wav2vec2, as the released rule at its 23 fps."""
RELEASED_WINDOW_MARGIN = 4
"""Tokens that the released code adds on both sides of a range."""


class AudioWindows(NamedTuple):
    """Audio cut into windows."""

    tokens: Tensor
    """(B, W, L, C), zeros where the mask is False."""
    mask: Tensor
    """(B, W, L) bool, True where the token is real."""


def clip_level_window(features: Tensor) -> AudioWindows:
    """Returns one window with the whole clip, for the clip-level alignment of stage 1 (paper section 3.1).

    Args:
        features: (B, T, C), T >= 1.
    """
    _check_features(features, 1, "one token")
    tokens = features[:, None]  # (B, 1, T, C)
    return AudioWindows(tokens, torch.ones(tokens.shape[:3], dtype=torch.bool, device=features.device))


def released_frame_windows(features: Tensor, num_frames: int, temporal_stride: int) -> AudioWindows:
    """Cuts one window per latent frame by the released code's integer arithmetic, for weights trained with it.

    The length of the windows depends on the frame rate: 17 tokens at 23 fps, 15 at 25.

    Args:
        features: (B, T, C) tokens of exactly the clip.
        num_frames: number of frames of the clip.
        temporal_stride: frames per latent frame.

    Raises:
        InputError: the clip has no whole number of latent frames, or the audio is shorter than one window without its
            margins.
    """
    ranges = released_token_ranges(features.shape[1], num_frames, temporal_stride)
    _check_features(features, ranges[0][1] - ranges[0][0] + 1, "one window")
    first = torch.tensor([start - RELEASED_WINDOW_MARGIN for start, _ in ranges])
    return cut_windows(features, first, ranges[0][1] - ranges[0][0] + 1 + 2 * RELEASED_WINDOW_MARGIN)


def released_token_ranges(num_tokens: int, num_frames: int, temporal_stride: int) -> list[tuple[int, int]]:
    """Returns first and last token of each latent frame, inclusive, without margins (released inference code).

    Latent frame 0 mirrors the start of latent frame 1, so it begins before the clip.

    Raises:
        InputError: the clip has no whole number of latent frames, or fewer than two tokens per latent frame.
    """
    latent_frames = latent_frame_count(num_frames, temporal_stride)
    tokens_per_frame = num_tokens / num_frames
    half = int(temporal_stride * tokens_per_frame / 2)
    if half < 1:
        raise InputError(
            f"the audio has {num_tokens} tokens for {num_frames} frames and is shorter than one window; "
            f"at least {(num_frames + 1) // 2} tokens are required; use longer audio or fewer frames",
            code=ErrorCode.out_of_range,
            field="audio tokens",
            value=num_tokens,
        )

    def around(frame: int) -> tuple[int, int]:
        first, last = (
            tokens_per_frame * ((frame - 1) * temporal_stride + 1),
            tokens_per_frame * (frame * temporal_stride + 1),
        )
        center = int((first + last) / 2) - 1
        return center - half, center + half

    start_of_one = around(1)[0]
    return [(start_of_one - 2 * half, start_of_one)] + [around(frame) for frame in range(1, latent_frames)]


def timed_frame_windows(
    features: Tensor,
    frame_times: Tensor,
    temporal_stride: int,
    window_seconds: float = AUDIO_WINDOW_SECONDS,
    timing: TokenTiming = WAV2VEC2_TIMING,
) -> AudioWindows:
    """Cuts one window per latent frame, `window_seconds` around its time, equal at every frame rate. The default rule.

    Latent frame 0 is frame 0; every later one is the next `temporal_stride` frames. The time of a latent frame is the
    middle of the interval during which its frames are shown, which covers variable frame rates.

    Args:
        features: (B, T, C) tokens of the clip.
        frame_times: (num_frames,) or (B, num_frames) seconds from the clip's start at which each frame appears,
            increasing.
        temporal_stride: frames per latent frame.
        window_seconds: span of a window in seconds, rounded to an odd number of tokens.
        timing: when the tokens of the audio encoder are.

    Raises:
        InputError: the times do not increase, the clip has no whole number of latent frames, or the audio is shorter
            than one window.
    """
    length = tokens_per_window(window_seconds, timing)
    seconds = features.shape[1] / timing.tokens_per_second
    _check_features(features, length, f"one window of {window_seconds} s", f" ({seconds:.2f} s)")
    # Token with the nearest center; ties are rounded up, equally on every platform.
    times = latent_frame_times(frame_times, temporal_stride)
    center = torch.floor((times - timing.first_center) * timing.tokens_per_second + 0.5)
    return cut_windows(features, center.long() - length // 2, length)


def tokens_per_window(window_seconds: float, timing: TokenTiming = WAV2VEC2_TIMING) -> int:
    """Returns the number of tokens in a window: the nearest odd number, so that the window has a middle token.

    Raises:
        InputError: the span is shorter than one token or longer than 10 s.
    """
    rate = timing.tokens_per_second
    if not 1 / rate <= window_seconds <= 10:
        raise InputError(
            f"window_seconds is {window_seconds}; it must be {1 / rate:g} to 10 s",
            code=ErrorCode.out_of_range,
            field="window_seconds",
            value=window_seconds,
        )
    return 2 * int((window_seconds * rate - 1) / 2 + 0.5) + 1


def latent_frame_times(frame_times: Tensor, temporal_stride: int) -> Tensor:
    """Returns the middle of each latent frame in seconds: (..., num_frames) -> (..., F), float64.

    Raises:
        InputError: there is one latent frame or no whole number of them, or times are not finite and increasing.
    """
    frames = latent_frame_count(frame_times.shape[-1], temporal_stride)
    times = frame_times.double()
    if frames < 2:
        raise InputError(
            f"frame_times has {times.shape[-1]} time; at least {1 + temporal_stride} are required to infer the "
            "duration of a frame",
            code=ErrorCode.out_of_range,
            field="frame_times",
            value=times.shape[-1],
        )
    steps = times.diff(dim=-1)
    if not bool((torch.isfinite(times).all() & (steps > 0).all()).item()):
        raise InputError(
            "frame_times are not finite and increasing; sort the frames by time",
            code=ErrorCode.out_of_range,
            field="frame_times",
        )
    ends = torch.cat([times[..., 1:], times[..., -1:] + steps[..., -1:]], dim=-1)  # when the next frame appears
    first = (times[..., :1] + ends[..., :1]) / 2
    groups = (times[..., 1::temporal_stride] + ends[..., temporal_stride::temporal_stride]) / 2
    return torch.cat([first, groups], dim=-1)


def join_speaker_windows(windows: Sequence[AudioWindows]) -> AudioWindows:
    """Concatenates the windows of several speakers, whose tokens `Conditions.speaker_regions` separates.

    Args:
        windows: (B, W, L, C) per speaker, from one rule and one video, in the order of the regions.

    Returns:
        (B, W, P L, C) with its mask.

    Raises:
        InputError: there is no speaker, or the windows have different shapes.
    """
    shapes = [tuple(window.tokens.shape) for window in windows]
    if len(set(shapes)) != 1:
        raise InputError(
            f"the speakers' audio windows have shapes {shapes}; expected one shape and at least one speaker; "
            "cut or pad the audio of all speakers to the video's length",
            code=ErrorCode.shape_mismatch,
            field="speakers",
            value=shapes,
        )
    return AudioWindows(
        torch.cat([window.tokens for window in windows], dim=2), torch.cat([window.mask for window in windows], dim=2)
    )


def cut_windows(features: Tensor, first: Tensor, length: int) -> AudioWindows:
    """Cuts windows of `length` tokens from `first` on, real tokens first, then padding.

    Args:
        features: (B, T, C).
        first: (W,) or (B, W) integer, index of each window's first token; negative or beyond the end is allowed.
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


def _check_features(features: Tensor, required: int, what: str, duration: str = "") -> None:
    if features.ndim != 3:
        raise InputError(
            f"the audio features have shape {tuple(features.shape)}; expected (batch, tokens, channels)",
            code=ErrorCode.shape_mismatch,
            field="audio features",
            value=tuple(features.shape),
        )
    if features.shape[1] < required:
        raise InputError(
            f"the audio has {features.shape[1]} tokens{duration}, fewer than {what}: {required} tokens; use longer "
            "audio",
            code=ErrorCode.out_of_range,
            field="audio tokens",
            value=features.shape[1],
        )

"""The length of a video in frames, latent frames and seconds."""

from dataclasses import dataclass

from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_VIDEO_SECONDS
from fantasytalking.latent_geometry import video_frame_count


@dataclass(frozen=True)
class Timeline:
    """Frames and latent frames of one video."""

    num_frames: int
    """Frames shown: those of the driving video, or the duration of the audio rounded to the nearest frame."""
    fps: float
    temporal_stride: int
    """Frames per latent frame; the first latent frame holds one frame."""

    @classmethod
    def from_samples(cls, num_samples: int, fps: float, temporal_stride: int) -> "Timeline":
        """Returns the timeline of `num_samples` audio samples at 16 kHz.

        Raises:
            InputError: the audio is empty or longer than four hours.
        """
        seconds = num_samples / AUDIO_SAMPLE_RATE
        if not 0 < seconds <= MAX_VIDEO_SECONDS:
            raise InputError(
                f"the audio lasts {seconds:.2f} s; more than 0 and at most {MAX_VIDEO_SECONDS:g} s are needed",
                code=ErrorCode.out_of_range,
                field="audio",
                value=seconds,
            )
        return cls(max(1, round(seconds * fps)), fps, temporal_stride)

    @classmethod
    def from_frames(cls, num_frames: int, fps: float, temporal_stride: int) -> "Timeline":
        """Returns the timeline of `num_frames` frames.

        Raises:
            InputError: there are none, or more than four hours of them.
        """
        if not 0 < num_frames <= MAX_VIDEO_SECONDS * fps:
            raise InputError(
                f"the driving video has {num_frames} frames; 1 to {MAX_VIDEO_SECONDS:g} s of frames are needed",
                code=ErrorCode.out_of_range,
                field="driving_video",
                value=num_frames,
            )
        return cls(num_frames, fps, temporal_stride)

    @property
    def num_latent_frames(self) -> int:
        """F: the fewest latent frames that hold all frames, at least 2, so that a frame's time is defined."""
        return 1 + max(1, -(-(self.num_frames - 1) // self.temporal_stride))

    @property
    def padded_frames(self) -> int:
        """Frames that the latent frames hold; those from `num_frames` on are not shown."""
        return video_frame_count(self.num_latent_frames, self.temporal_stride)

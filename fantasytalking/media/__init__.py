"""Reads and writes images, videos and audio as arrays: the one place for frame rates, rotation, color and time."""

from fantasytalking.media.audio import read_audio, write_wav
from fantasytalking.media.frame_access import read_frames_at
from fantasytalking.media.image import read_image, write_image
from fantasytalking.media.media_info import MediaInfo, probe
from fantasytalking.media.preview import write_preview
from fantasytalking.media.video import Video, iter_frames, read_video, write_video

__all__ = [
    "MediaInfo",
    "Video",
    "iter_frames",
    "probe",
    "read_audio",
    "read_frames_at",
    "read_image",
    "read_video",
    "write_image",
    "write_preview",
    "write_video",
    "write_wav",
]

"""Inference: a portrait, speech and videos that drive its faces to a video."""

from fantasytalking.models.cfg_branches import Formula
from fantasytalking.pipeline.driving_video import read_driver
from fantasytalking.pipeline.guidance import GuidanceConfig, ScaleSchedule
from fantasytalking.pipeline.pipeline import FantasyTalkingOutput, FantasyTalkingPipeline
from fantasytalking.pipeline.portrait import Portrait, frame_portrait
from fantasytalking.pipeline.speakers import Driver

__all__ = [
    "Driver",
    "FantasyTalkingOutput",
    "FantasyTalkingPipeline",
    "Formula",
    "GuidanceConfig",
    "Portrait",
    "ScaleSchedule",
    "frame_portrait",
    "read_driver",
]

"""Inference: a portrait, speech and videos that drive its faces to a video."""

from fantasytalking.models.cfg_branches import CfgOrder
from fantasytalking.pipeline.driving_video import encode_driving_video
from fantasytalking.pipeline.guidance import GuidanceConfig, GuidanceSchedule
from fantasytalking.pipeline.pipeline import FantasyTalkingOutput, FantasyTalkingPipeline
from fantasytalking.pipeline.portrait import Portrait, prepare_portrait
from fantasytalking.pipeline.speakers import DrivingExpression

__all__ = [
    "CfgOrder",
    "DrivingExpression",
    "FantasyTalkingOutput",
    "FantasyTalkingPipeline",
    "GuidanceConfig",
    "GuidanceSchedule",
    "Portrait",
    "encode_driving_video",
    "prepare_portrait",
]

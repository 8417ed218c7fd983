"""Inference: a portrait and speech to a talking video."""

from fantasytalking.models.guidance_branches import Formula
from fantasytalking.pipeline.guidance import GuidanceConfig, ScaleSchedule
from fantasytalking.pipeline.pipeline import FantasyTalkingOutput, FantasyTalkingPipeline
from fantasytalking.pipeline.portrait import Portrait, frame_portrait

__all__ = [
    "FantasyTalkingOutput",
    "FantasyTalkingPipeline",
    "Formula",
    "GuidanceConfig",
    "Portrait",
    "ScaleSchedule",
    "frame_portrait",
]

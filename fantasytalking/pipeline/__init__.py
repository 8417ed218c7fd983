"""The diffusers pipeline: portrait, audio and driving videos in, video out."""

from fantasytalking.models.cfg_branches import CfgOrder
from fantasytalking.pipeline.decoding import FantasyTalkingOutput
from fantasytalking.pipeline.generation_plan import GenerationControls, GenerationPlan, plan_generation
from fantasytalking.pipeline.guidance import GuidanceConfig, GuidanceSchedule
from fantasytalking.pipeline.inputs import encode_driving_video
from fantasytalking.pipeline.model_facts import ModelFacts
from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline
from fantasytalking.pipeline.portrait import Portrait, PortraitOptions, prepare_portrait
from fantasytalking.pipeline.speakers import DrivingExpression, Speakers

__all__ = [
    "CfgOrder",
    "DrivingExpression",
    "FantasyTalkingOutput",
    "FantasyTalkingPipeline",
    "GenerationControls",
    "GenerationPlan",
    "GuidanceConfig",
    "GuidanceSchedule",
    "ModelFacts",
    "Portrait",
    "PortraitOptions",
    "Speakers",
    "encode_driving_video",
    "plan_generation",
    "prepare_portrait",
]

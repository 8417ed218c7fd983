"""Build steps of the multi-person corpus and of the expression adapter."""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from fantasytalking.nano.context import BuildContext, corpus_summary
from fantasytalking.nano.corpora.video_corpus import plan_training_parts
from fantasytalking.nano.pack import write_portrait_parts
from fantasytalking.nano.training_log import training_summary
from fantasytalking.portrait_world.corpus.clip_corpus import make_corpus
from fantasytalking.portrait_world.corpus.group_corpus import GroupCorpusPlan

logger = logging.getLogger(__name__)

SINGLE_PERSON_FOLDER = "alone"
"""Folder of the videos of one person, next to those of several."""


def make_multi_person_videos(context: BuildContext) -> dict[str, Any]:
    """Renders videos of several people, and links videos of one person from the corpus of the other stages."""
    config, target = context.config.multi_person_videos, _videos_folder(context)
    parts = plan_training_parts(
        replace(
            context.config.videos,
            num_identities=config.num_identities,
            sentences_per_person=config.sentences_per_person,
        )
    )
    total, previous = sum(len(part.identities) * len(part.sentences) for part in parts), 0
    size, seed, zoom = (config.width, context.config.image_size), context.config.seed, context.config.zoom
    for part in parts:
        plan = GroupCorpusPlan(part.identities, part.sentences, config.people_per_video, size, seed=seed, zoom=zoom)
        for done, _ in make_corpus(plan, target / part.folder, context.processes):
            if done and (previous + done) % 20 == 0:
                logger.info(f"videos of several people: {previous + done}/{total}")
        previous += len(part.identities) * len(part.sentences)
    return {
        "videos": total,
        "videos_alone": link_single_person_videos(
            context.work_dir / "videos", target / SINGLE_PERSON_FOLDER, config.num_single_person_identities
        ),
    }


def link_single_person_videos(videos: Path, target: Path, num_people: int) -> int:
    """Links the videos and captions of identities below `num_people` into one folder per video below `target`.

    Returns:
        the number of videos.
    """
    chosen = [video for video in sorted(videos.glob("*/id*/video.mp4")) if int(video.parent.name[2:6]) < num_people]
    for video in chosen:
        folder = target / video.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        for file in (video, video.with_suffix(".txt")):
            link = folder / file.name
            if not link.is_symlink():
                link.symlink_to(os.path.relpath(file, folder))
    return len(chosen)


def prepare_multi_person(context: BuildContext) -> dict[str, Any]:
    """Encodes these videos as training features with an expression per face, with the command `prepare`."""
    config = context.config.multi_person_videos
    height, width = context.prepared_size(context.config.image_size), context.prepared_size(config.width)
    settings = [f"buckets=[{height}x{height},{width}x{height}]", f"max_people={config.people_per_video}"]
    # Motion intensities are normalized as in the clips of one person.
    settings += [f"expression_encoder={context.expression_encoder}", f"motion_normalizer={context.motion_normalizer}"]
    context.run_preparation(
        context.config.multi_person_prepare,
        _videos_folder(context),
        context.portrait_corpus,
        context.components,
        *settings,
    )
    return corpus_summary(context.portrait_corpus)


def train_stage2_multi_person(context: BuildContext) -> dict[str, Any]:
    """Resumes stage 2 with clips of several people, each with audio of their own, among the clips of one."""
    corpora = [context.corpus, context.portrait_corpus]
    return context.resume_stage2(context.config.stage2_multi_person, "stage2", "stage2_people", corpora)


def train_portrait_adapter(context: BuildContext) -> dict[str, Any]:
    """Trains the expression adapter of the finished pipeline with the command `train`."""
    output = _run_folder(context)
    start = [f"output={output}", f"stage.init_from={context.output}"]
    context.run_training(context.config.portrait_stage, context.output, *start, corpora=[context.portrait_corpus])
    return training_summary(output)


def pack_portrait_adapter(context: BuildContext) -> dict[str, Any]:
    """Copies the expression encoder and adapter into the finished pipeline."""
    return write_portrait_parts(context.expression_encoder, _run_folder(context) / "adapter", context.output)


def _videos_folder(context: BuildContext) -> Path:
    return context.work_dir / "people_videos"


def _run_folder(context: BuildContext) -> Path:
    return context.work_dir / "people"

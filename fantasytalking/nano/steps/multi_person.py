"""The steps of the build after which nano knows pictures of several people, and videos can drive their faces."""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from fantasytalking.nano.context import Workshop, corpus_summary
from fantasytalking.nano.corpora.video_corpus import training_portions
from fantasytalking.nano.pack import pack_portrait
from fantasytalking.nano.training_log import training_summary
from fantasytalking.portrait_world.corpus.clip_corpus import make_corpus
from fantasytalking.portrait_world.corpus.group_corpus import GroupCorpusPlan

logger = logging.getLogger(__name__)

ALONE = "alone"
"""Folder of the videos of one person."""


def make_people_videos(shop: Workshop) -> dict[str, Any]:
    """Pictures of several people, and beside them videos of one from the corpus of the other stages."""
    config, target = shop.config.people_videos, _videos(shop)
    portions = training_portions(replace(shop.config.videos, identities=config.identities, sentences=config.sentences))
    total, before = sum(len(portion.identities) * len(portion.sentences) for portion in portions), 0
    size, seed, closeness = (config.width, shop.config.size), shop.config.seed, shop.config.closeness
    for portion in portions:
        people, sentences = portion.identities, portion.sentences
        plan = GroupCorpusPlan(people, sentences, config.people, size, seed=seed, closeness=closeness)
        for done, _ in make_corpus(plan, target / portion.folder, shop.processes):
            if done and (before + done) % 20 == 0:
                logger.info(f"videos of several people: {before + done}/{total}")
        before += len(portion.identities) * len(portion.sentences)
    return {"videos": total, "videos_alone": link_alone(shop.work / "videos", target / ALONE, config.alone)}


def link_alone(videos: Path, target: Path, people: int) -> int:
    """Links the videos of the first people, and their captions, into a folder each below `target`; tells how many."""
    chosen = [video for video in sorted(videos.glob("*/id*/video.mp4")) if int(video.parent.name[2:6]) < people]
    for video in chosen:
        folder = target / video.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        for file in (video, video.with_suffix(".txt")):
            link = folder / file.name
            if not link.is_symlink():
                link.symlink_to(os.path.relpath(file, folder))
    return len(chosen)


def prepare_people(shop: Workshop) -> dict[str, Any]:
    """Those videos as features with what drives every face, by the public script and the encoders of the pipeline."""
    config = shop.config.people_videos
    height, width = shop.prepared(shop.config.size), shop.prepared(config.width)
    settings = [f"buckets=[{height}x{height},{width}x{height}]", f"people={config.people}"]
    # Intensities of motion mean what they mean in the clips of one person.
    settings += [f"expression_encoder={shop.expression_encoder}", f"normaliser={shop.normaliser}"]
    shop.prepare(shop.config.people_prepare, _videos(shop), shop.portrait_corpus, shop.components, *settings)
    return corpus_summary(shop.portrait_corpus)


def train_stage2_people(shop: Workshop) -> dict[str, Any]:
    """Stage 2 goes on with pictures of several people among those of one, each of whom hears their own sound."""
    corpora = [shop.corpus, shop.portrait_corpus]
    return shop.go_on_with_stage2(shop.config.stage2_people, "stage2", "stage2_people", corpora)


def train_people(shop: Workshop) -> dict[str, Any]:
    """The adapter that goes on the finished pipeline, by the public script."""
    output = _run(shop)
    start = [f"output={output}", f"stage.init_from={shop.output}"]
    shop.train("train_portrait.py", shop.config.people, shop.output, *start, corpora=[shop.portrait_corpus])
    return training_summary(output)


def pack_people(shop: Workshop) -> dict[str, Any]:
    """Encoder and adapter beside the finished pipeline."""
    return pack_portrait(shop.expression_encoder, _run(shop) / "adapter", shop.output)


def _videos(shop: Workshop) -> Path:
    return shop.work / "people_videos"


def _run(shop: Workshop) -> Path:
    return shop.work / "people"

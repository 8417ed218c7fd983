"""Build steps of the extended corpus: further people with unique utterances."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fantasytalking.nano.context import BuildContext, corpus_summary
from fantasytalking.nano.corpora.unique_utterances import render_extended_videos


def make_extended_videos(context: BuildContext) -> dict[str, Any]:
    """Renders the videos."""
    config = context.config
    rendering = (config.image_size, config.seed, context.processes, config.zoom)
    return {"videos": render_extended_videos(config.extended_videos, context.extended_videos, *rendering)}


def render_first_people(context: BuildContext, count: int) -> list[Path]:
    """Renders the videos of the first `count` people, which `make_extended_videos` completes; returns the files."""
    config = replace(context.config.extended_videos, num_identities=count)
    settings = context.config
    rendering = (settings.image_size, settings.seed, context.processes, settings.zoom)
    render_extended_videos(config, context.extended_videos, *rendering)
    people = range(config.first_identity, config.first_identity + count)
    return sorted(
        path
        for path in context.extended_videos.glob("id*/video.mp4")
        if int(path.parent.name[2:].split("_s")[0]) in people
    )


def prepare_extended(context: BuildContext) -> dict[str, Any]:
    """Encodes these videos as training features with the command `prepare`."""
    size = context.prepared_size(context.config.image_size)
    # Motion intensities are normalized as in the other clips.
    settings = [f"buckets=[{size}x{size}]", f"motion_normalizer={context.motion_normalizer}"]
    context.run_preparation(
        context.config.extended_prepare, context.extended_videos, context.extended_corpus, context.components, *settings
    )
    return corpus_summary(context.extended_corpus)


def train_stage2_extended(context: BuildContext) -> dict[str, Any]:
    """Resumes stage 2 with these clips and those of several people."""
    corpora = [context.extended_corpus, context.portrait_corpus]
    return context.resume_stage2(context.config.stage2_extended, "stage2_people", "stage2_more", corpora)

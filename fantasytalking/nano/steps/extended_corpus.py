"""The steps of the build in which nano meets further people, each with words of their own."""

from pathlib import Path
from typing import Any

from fantasytalking.nano.context import Workshop, corpus_summary
from fantasytalking.nano.corpora.unique_utterances import make_more_videos


def make_more(shop: Workshop) -> dict[str, Any]:
    """Their videos."""
    config = shop.config
    drawn = (config.size, config.seed, shop.processes, config.closeness)
    return {"videos": make_more_videos(config.more_videos, _videos(shop), *drawn)}


def prepare_more(shop: Workshop) -> dict[str, Any]:
    """Those videos as features, by the public script."""
    size = shop.prepared(shop.config.size)
    # Intensities of motion mean what they mean in the other clips.
    settings = [f"buckets=[{size}x{size}]", f"normaliser={shop.normaliser}"]
    shop.prepare(shop.config.more_prepare, _videos(shop), shop.more_corpus, shop.components, *settings)
    return corpus_summary(shop.more_corpus)


def train_stage2_more(shop: Workshop) -> dict[str, Any]:
    """Stage 2 ends with them, and with the pictures of several people."""
    corpora = [shop.more_corpus, shop.portrait_corpus]
    return shop.go_on_with_stage2(shop.config.stage2_more, "stage2_people", "stage2_more", corpora)


def _videos(shop: Workshop) -> Path:
    return shop.work / "videos_more"

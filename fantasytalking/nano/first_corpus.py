"""Nano's corpus on first use: what makes `accelerate launch scripts/train_stage1.py` work with no argument."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fantasytalking.config import CONFIGS, load_config
from fantasytalking.data.manifest import MANIFEST
from fantasytalking.models.presets import load_model_config
from fantasytalking.nano.build import build
from fantasytalking.nano.config import BuildConfig, VideosConfig
from fantasytalking.nano.workshop import Workshop
from fantasytalking.training.config import TrainConfig

logger = logging.getLogger(__name__)

RECIPE = CONFIGS / "nano" / "build.yaml"
LAST_STEP = "prepare"
DRAWN, PREPARED = 4.0, 3.5
"""Seconds that a core takes to draw and speak a video of 96 pixels, and to track and encode it."""
_LAUNCHER = ("ACCELERATE_", "FSDP_", "DEEPSPEED_", "TORCHELASTIC_", "MASTER_", "GROUP_", "ROLE_", "LOCAL_")
_LAUNCHER_NAMES = ("RANK", "WORLD_SIZE")


def make_first_corpus(config: TrainConfig, recipe: Path = RECIPE) -> None:
    """Draws, tracks and encodes the clips of the recipe, where a run asks for them and they are not there yet.

    The encoders are those of the run's base, so that features and model agree. The first process works, with processes
    of its own; the others wait. Interrupted, it goes on where it was. Runs on any other corpus are left alone.

    Raises:
        InputError: the folder cannot be written or holds other clips, or a script that was run ended with an error.
    """
    base = config.base or load_model_config(config.model).base
    build_config = load_config(BuildConfig, recipe, [f"components={base}"])
    shop = Workshop(build_config, Path(base))
    manifest = shop.corpus / MANIFEST
    if config.model != build_config.model or config.data.manifests != [str(manifest)]:
        return
    if manifest.is_file() or not (Path(base) / "vae").is_dir():
        return
    if int(os.environ.get("RANK", "0")) != 0:
        _wait_for(manifest)
        return
    logger.info(_announcement(manifest, build_config.videos, shop.processes))
    with _without_launcher():
        build(build_config, Path(base), LAST_STEP)


def _announcement(manifest: Path, videos: VideosConfig, processes: int) -> str:
    count = videos.identities * videos.sentences + videos.held_out
    minutes = count * (DRAWN + PREPARED) / processes / 60
    return (
        f"there is no corpus at '{manifest}' yet, so it is made first, once: {count} videos of the portrait world are "
        f"drawn and spoken, then tracked and encoded; about {minutes:.0f} minutes on {processes} process(es). "
        "Interrupted, the same command goes on"
    )


def _wait_for(manifest: Path) -> None:
    """Until the first process has written it. Should that one fail, the launcher ends all."""
    logger.warning(f"process {os.environ['RANK']} waits for '{manifest}'")
    while not manifest.is_file():
        time.sleep(1)


@contextmanager
def _without_launcher() -> Iterator[None]:
    """Scripts that are run meanwhile must not take themselves for a part of this launch."""
    names = [name for name in os.environ if name.startswith(_LAUNCHER) or name in _LAUNCHER_NAMES]
    taken = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(taken)

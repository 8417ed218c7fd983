"""Nano's corpora on first use: what makes `accelerate launch scripts/train_stage1.py` and the scripts of the other
stages work with no argument.
"""

import logging
import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fantasytalking.common.config import CONFIGS, load_config
from fantasytalking.common.errors import InputError
from fantasytalking.data.manifest import MANIFEST
from fantasytalking.models.presets import load_model_config
from fantasytalking.motion_normalizer import NORMALISER
from fantasytalking.nano.build import NAMES, build
from fantasytalking.nano.config import BuildConfig
from fantasytalking.nano.context import Workshop
from fantasytalking.training.config import TrainConfig

logger = logging.getLogger(__name__)

RECIPE = CONFIGS / "nano" / "build.yaml"
ALONE: tuple[str, ...] = ("videos", "prepare")
PEOPLE: tuple[str, ...] = ("videos", "people_videos", "people_prepare")
MORE: tuple[str, ...] = ("more_videos", "more_prepare")
"""Steps of the build that make each corpus where the encoders are finished."""
DRAWN, PREPARED = 4.0, 3.5
"""Seconds that a core takes to draw and speak a video of 96 pixels, and to track and encode it, for every person."""
_LAUNCHER = ("ACCELERATE_", "FSDP_", "DEEPSPEED_", "TORCHELASTIC_", "MASTER_", "GROUP_", "ROLE_", "LOCAL_")
_LAUNCHER_NAMES = ("RANK", "WORLD_SIZE")


def make_first_corpus(config: TrainConfig, recipe: Path = RECIPE) -> None:
    """Draws, tracks and encodes the clips of the recipe, where a run asks for them and they are not there yet.

    Those of the portrait corpus are of one and of several people, with what drives their faces; those of the further
    people have words of their own. The encoders are those of the run's base, so that features and model agree. The
    first process works, with processes of its own; the others wait. Interrupted, it goes on where it was. Runs on any
    other corpus are left alone.

    Raises:
        InputError: the folder cannot be written or holds other clips, the base tells nothing of faces that are driven,
            or a script that was run ended with an error.
    """
    base = config.base or load_model_config(config.model).base
    build_config = load_config(BuildConfig, recipe, [f"components={base}"])
    shop = Workshop(build_config, Path(base))
    missing = _missing(shop, config.data.manifests)
    if config.model != build_config.model or not missing or not (Path(base) / "vae").is_dir():
        return
    _check_base(shop, missing)
    manifests = [corpus / MANIFEST for corpus in missing]
    if int(os.environ.get("RANK", "0")) != 0:
        _wait_for(manifests)
        return
    logger.info(_announcement(manifests, _work_of(shop, missing), shop.processes))
    made_by = {shop.corpus: ALONE, shop.portrait_corpus: PEOPLE, shop.more_corpus: MORE}
    steps = {step for corpus in missing for step in made_by[corpus]}
    with _without_launcher():
        build(build_config, Path(base), max(steps, key=NAMES.index), only=steps)


def _missing(shop: Workshop, manifests: list[str]) -> list[Path]:
    """The recipe's corpora among these manifests that are not there yet; none where one is of another corpus."""
    own = {str(corpus / MANIFEST): corpus for corpus in (shop.corpus, shop.portrait_corpus, shop.more_corpus)}
    if not own.keys() >= set(manifests):
        return []
    return [own[manifest] for manifest in manifests if not Path(manifest).is_file()]


def _check_base(shop: Workshop, corpora: Collection[Path]) -> None:
    """Holds that the base has what tells how faces are driven and what intensities of motion mean, where it counts."""
    if shop.portrait_corpus in corpora and not shop.expression_encoder.is_dir():
        raise InputError(
            f"there is no expression encoder at '{shop.expression_encoder}', which tells what drives the faces of a "
            "corpus; make one with: python scripts/build_nano.py"
        )
    if set(corpora) != {shop.corpus} and not (shop.output / NORMALISER).is_file():
        raise InputError(f"there is no '{shop.output / NORMALISER}'; the base must be a finished pipeline")


class _Work(NamedTuple):
    """What is still to be done for a corpus. A video of two people is two faces."""

    videos: int
    """To be drawn and spoken."""
    drawn: int
    """Faces of these."""
    prepared: int
    """Faces to be tracked and encoded."""


def _work_of(shop: Workshop, corpora: Collection[Path]) -> _Work:
    one, several, more = shop.config.videos, shop.config.people_videos, shop.config.more_videos
    videos = drawn = prepared = 0
    if shop.corpus in corpora or shop.portrait_corpus in corpora:
        count = one.identities * one.sentences + one.held_out
        videos = drawn = count - _there(shop.work / "videos") - _there(shop.work / "videos_held_out")
        prepared = count if shop.corpus in corpora else 0
    if shop.portrait_corpus in corpora:
        pictures = several.identities * several.sentences
        together = pictures - _there(shop.work / "people_videos")
        alone = min(several.alone, one.identities) * one.sentences
        videos, drawn = videos + together, drawn + together * several.people
        prepared += alone + pictures * several.people
    if shop.more_corpus in corpora:
        left = more.videos - _there(shop.work / "videos_more", "id*/video.mp4")
        videos, drawn, prepared = videos + left, drawn + left, prepared + more.videos
    return _Work(videos, drawn, prepared)


def _there(videos: Path, pattern: str = "group*/*/video.mp4") -> int:
    """Videos that an interrupted run, or that of another stage, has drawn before."""
    return sum(1 for _ in videos.glob(pattern))


def _announcement(manifests: Sequence[Path], work: _Work, processes: int) -> str:
    minutes = (work.drawn * DRAWN + work.prepared * PREPARED) / processes / 60
    places = " and ".join(f"'{manifest}'" for manifest in manifests)
    return (
        f"there is no corpus at {places} yet, so it is made first, once: {work.videos} videos of the portrait "
        f"world are drawn and spoken, then all are tracked and encoded; about {minutes:.0f} minutes on {processes} "
        "process(es). Interrupted, the same command goes on"
    )


def _wait_for(manifests: Sequence[Path]) -> None:
    """Until the first process has written them. Should that one fail, the launcher ends all."""
    for manifest in manifests:
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

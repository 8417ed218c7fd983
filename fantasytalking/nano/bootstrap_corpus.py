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

from fantasytalking.common.config import CONFIGS_FOLDER, load_config
from fantasytalking.common.errors import InputError
from fantasytalking.data.manifest import MANIFEST_FILE
from fantasytalking.models.presets import load_model_config
from fantasytalking.motion_normalizer import MOTION_NORMALIZER_FILE
from fantasytalking.nano.build import STEP_NAMES, build_nano
from fantasytalking.nano.config import BuildConfig
from fantasytalking.nano.context import BuildContext
from fantasytalking.training.config import TrainConfig

logger = logging.getLogger(__name__)

BUILD_RECIPE_FILE = CONFIGS_FOLDER / "nano" / "build.yaml"
SINGLE_PERSON_STEPS: tuple[str, ...] = ("videos", "prepare")
MULTI_PERSON_STEPS: tuple[str, ...] = ("videos", "people_videos", "people_prepare")
EXTENDED_STEPS: tuple[str, ...] = ("more_videos", "more_prepare")
"""Steps of the build that make each corpus where the encoders are finished."""
RENDER_SECONDS, PREPARE_SECONDS = 4.0, 3.5
"""Seconds that a core takes to draw and speak a video of 96 pixels, and to track and encode it, for every person."""
_LAUNCHER_PREFIXES = ("ACCELERATE_", "FSDP_", "DEEPSPEED_", "TORCHELASTIC_", "MASTER_", "GROUP_", "ROLE_", "LOCAL_")
_LAUNCHER_NAMES = ("RANK", "WORLD_SIZE")


def bootstrap_corpus(config: TrainConfig, recipe: Path = BUILD_RECIPE_FILE) -> None:
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
    shop = BuildContext(build_config, Path(base))
    missing = _missing_corpora(shop, config.data.manifests)
    if config.model != build_config.model or not missing or not (Path(base) / "vae").is_dir():
        return
    _check_base(shop, missing)
    manifests = [corpus / MANIFEST_FILE for corpus in missing]
    if int(os.environ.get("RANK", "0")) != 0:
        _wait_for(manifests)
        return
    logger.info(_announcement(manifests, _remaining_work(shop, missing), shop.processes))
    made_by = {
        shop.corpus: SINGLE_PERSON_STEPS,
        shop.portrait_corpus: MULTI_PERSON_STEPS,
        shop.extended_corpus: EXTENDED_STEPS,
    }
    steps = {step for corpus in missing for step in made_by[corpus]}
    with _without_launcher():
        build_nano(build_config, Path(base), max(steps, key=STEP_NAMES.index), only=steps)


def _missing_corpora(context: BuildContext, manifests: list[str]) -> list[Path]:
    """The recipe's corpora among these manifests that are not there yet; none where one is of another corpus."""
    own = {
        str(corpus / MANIFEST_FILE): corpus
        for corpus in (context.corpus, context.portrait_corpus, context.extended_corpus)
    }
    if not own.keys() >= set(manifests):
        return []
    return [own[manifest] for manifest in manifests if not Path(manifest).is_file()]


def _check_base(context: BuildContext, corpora: Collection[Path]) -> None:
    """Holds that the base has what tells how faces are driven and what intensities of motion mean, where it counts."""
    if context.portrait_corpus in corpora and not context.expression_encoder.is_dir():
        raise InputError(
            f"there is no expression encoder at '{context.expression_encoder}', which tells what drives the faces of a "
            "corpus; make one with: fantasytalking build-nano"
        )
    if set(corpora) != {context.corpus} and not (context.output / MOTION_NORMALIZER_FILE).is_file():
        raise InputError(
            f"there is no '{context.output / MOTION_NORMALIZER_FILE}'; the base must be a finished pipeline"
        )


class _RemainingWork(NamedTuple):
    """What is still to be done for a corpus. A video of two people is two faces."""

    videos: int
    """To be drawn and spoken."""
    rendered_faces: int
    """Faces of these."""
    prepared_faces: int
    """Faces to be tracked and encoded."""


def _remaining_work(context: BuildContext, corpora: Collection[Path]) -> _RemainingWork:
    one, several, more = context.config.videos, context.config.multi_person_videos, context.config.extended_videos
    videos = drawn = prepared = 0
    if context.corpus in corpora or context.portrait_corpus in corpora:
        count = one.num_identities * one.sentences_per_person + one.num_held_out
        videos = drawn = (
            count - _count_videos(context.work_dir / "videos") - _count_videos(context.work_dir / "videos_held_out")
        )
        prepared = count if context.corpus in corpora else 0
    if context.portrait_corpus in corpora:
        pictures = several.num_identities * several.sentences_per_person
        together = pictures - _count_videos(context.work_dir / "people_videos")
        alone = min(several.num_single_person_identities, one.num_identities) * one.sentences_per_person
        videos, drawn = videos + together, drawn + together * several.people_per_video
        prepared += alone + pictures * several.people_per_video
    if context.extended_corpus in corpora:
        left = more.num_videos - _count_videos(context.work_dir / "videos_more", "id*/video.mp4")
        videos, drawn, prepared = videos + left, drawn + left, prepared + more.num_videos
    return _RemainingWork(videos, drawn, prepared)


def _count_videos(videos: Path, pattern: str = "group*/*/video.mp4") -> int:
    """Videos that an interrupted run, or that of another stage, has drawn before."""
    return sum(1 for _ in videos.glob(pattern))


def _announcement(manifests: Sequence[Path], remaining: _RemainingWork, processes: int) -> str:
    minutes = (remaining.rendered_faces * RENDER_SECONDS + remaining.prepared_faces * PREPARE_SECONDS) / processes / 60
    places = " and ".join(f"'{manifest}'" for manifest in manifests)
    return (
        f"there is no corpus at {places} yet, so it is made first, once: {remaining.videos} videos of the portrait "
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
    names = [name for name in os.environ if name.startswith(_LAUNCHER_PREFIXES) or name in _LAUNCHER_NAMES]
    taken = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(taken)

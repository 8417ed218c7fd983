"""Builds nano's training corpora on first use, so that the training scripts run without arguments."""

import logging
import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fantasytalking.common.config import CONFIGS_FOLDER, load_config
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.hub import resolve_local
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
"""Build steps of the extended corpus. All three lists assume finished encoders."""
RENDER_SECONDS, PREPARE_SECONDS = 4.0, 3.5
"""Seconds per face that one core takes to render a video of 96 pixels with speech, and to track and encode it."""
_LAUNCHER_PREFIXES = ("ACCELERATE_", "FSDP_", "DEEPSPEED_", "TORCHELASTIC_", "MASTER_", "GROUP_", "ROLE_", "LOCAL_")
_LAUNCHER_NAMES = ("RANK", "WORLD_SIZE")


def bootstrap_corpus(config: TrainConfig, recipe: Path = BUILD_RECIPE_FILE) -> None:
    """Renders and prepares the corpora of `recipe` that a training run uses and that do not exist yet.

    The features are encoded with the run's base, so that they fit the model. The first process does the work with
    processes of its own while the others wait; an interrupted run resumes. Runs on any other corpus, with another model
    or without a base are left unchanged.

    Args:
        config: configuration of the training run.
        recipe: YAML file of the build.

    Raises:
        InputError: a folder cannot be written or contains other clips, the base has no expression encoder or motion
            normalizer where one is needed, or a script failed.
    """
    base = str(resolve_local(config.base or load_model_config(config.model).base))
    build_config = load_config(BuildConfig, recipe, [f"pretrained_components={base}"])
    context = BuildContext(build_config, Path(base))
    missing = _missing_corpora(context, config.data.manifests)
    if config.model != build_config.model or not missing or not (Path(base) / "vae").is_dir():
        return
    _check_base(context, missing)
    manifests = [corpus / MANIFEST_FILE for corpus in missing]
    if int(os.environ.get("RANK", "0")) != 0:
        _wait_for(manifests)
        return
    logger.info(_announcement(manifests, _remaining_work(context, missing), context.processes))
    steps_of_corpus = {
        context.corpus: SINGLE_PERSON_STEPS,
        context.portrait_corpus: MULTI_PERSON_STEPS,
        context.extended_corpus: EXTENDED_STEPS,
    }
    steps = {step for corpus in missing for step in steps_of_corpus[corpus]}
    with _without_launcher():
        build_nano(build_config, Path(base), max(steps, key=STEP_NAMES.index), only=steps)


def _missing_corpora(context: BuildContext, manifests: list[str]) -> list[Path]:
    """Returns the recipe's missing corpora among `manifests`; none if a manifest belongs to any other corpus."""
    own = {
        str(corpus / MANIFEST_FILE): corpus
        for corpus in (context.corpus, context.portrait_corpus, context.extended_corpus)
    }
    if not own.keys() >= set(manifests):
        return []
    return [own[manifest] for manifest in manifests if not Path(manifest).is_file()]


def _check_base(context: BuildContext, corpora: Collection[Path]) -> None:
    """Checks that the base has an expression encoder and a motion normalizer if the corpora need them."""
    if context.portrait_corpus in corpora and not context.expression_encoder.is_dir():
        raise InputError(
            f"the expression encoder '{context.expression_encoder}' does not exist; the portrait corpus needs it: "
            "train one with fantasytalking build-nano",
            code=ErrorCode.missing_weights,
            field="base",
            value=str(context.expression_encoder),
        )
    normalizer = context.output / MOTION_NORMALIZER_FILE
    if set(corpora) != {context.corpus} and not normalizer.is_file():
        raise InputError(
            f"'{normalizer}' does not exist; the base must be a finished pipeline",
            code=ErrorCode.missing_file,
            field="base",
            value=str(normalizer),
        )


class _RemainingWork(NamedTuple):
    """Remaining work for the missing corpora. A video of two people has two faces."""

    videos: int
    """Videos to render."""
    rendered_faces: int
    """Faces in these videos."""
    prepared_faces: int
    """Faces to track and encode."""


def _remaining_work(context: BuildContext, corpora: Collection[Path]) -> _RemainingWork:
    single, group, extended = context.config.videos, context.config.multi_person_videos, context.config.extended_videos
    videos = rendered = prepared = 0
    if context.corpus in corpora or context.portrait_corpus in corpora:
        count = single.num_identities * single.sentences_per_person + single.num_held_out
        videos = rendered = (
            count - _count_videos(context.work_dir / "videos") - _count_videos(context.work_dir / "videos_held_out")
        )
        prepared = count if context.corpus in corpora else 0
    if context.portrait_corpus in corpora:
        group_videos = group.num_identities * group.sentences_per_person
        missing = group_videos - _count_videos(context.work_dir / "people_videos")
        linked = min(group.num_single_person_identities, single.num_identities) * single.sentences_per_person
        videos, rendered = videos + missing, rendered + missing * group.people_per_video
        prepared += linked + group_videos * group.people_per_video
    if context.extended_corpus in corpora:
        missing = extended.num_videos - _count_videos(context.work_dir / "videos_more", "id*/video.mp4")
        videos, rendered, prepared = videos + missing, rendered + missing, prepared + extended.num_videos
    return _RemainingWork(videos, rendered, prepared)


def _count_videos(videos: Path, pattern: str = "group*/*/video.mp4") -> int:
    """Returns the number of videos that an earlier run has rendered."""
    return sum(1 for _ in videos.glob(pattern))


def _announcement(manifests: Sequence[Path], remaining: _RemainingWork, processes: int) -> str:
    minutes = (remaining.rendered_faces * RENDER_SECONDS + remaining.prepared_faces * PREPARE_SECONDS) / processes / 60
    paths = " and ".join(f"'{manifest}'" for manifest in manifests)
    return (
        f"{paths} does not exist yet; building the corpus first, once: {remaining.videos} videos of the portrait world "
        f"are rendered with speech, then all videos are tracked and encoded; about {minutes:.0f} minutes with "
        f"{processes} process(es). If interrupted, run the same command again to resume"
    )


def _wait_for(manifests: Sequence[Path]) -> None:
    """Waits until the first process has written the manifests. If that process fails, the launcher stops all."""
    for manifest in manifests:
        logger.warning(f"process {os.environ['RANK']} waits for '{manifest}'")
        while not manifest.is_file():
            time.sleep(1)


@contextmanager
def _without_launcher() -> Iterator[None]:
    """Hides the launcher's environment variables, so that scripts do not join this launch."""
    names = [name for name in os.environ if name.startswith(_LAUNCHER_PREFIXES) or name in _LAUNCHER_NAMES]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)

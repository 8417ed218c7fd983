"""Decides whether a clip's stored result still holds: its features are intact, its caption and speech unchanged."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import fingerprint, hash_file
from fantasytalking.data.features import load_features
from fantasytalking.data.prepare.clip import caption_path, condition_paths
from fantasytalking.data.prepare.clip_audio import speech_paths
from fantasytalking.data.prepare.plan import SceneClip

FEATURE_FILE_KEY = "feature_file"
"""Key of a clip's result: size and SHA-256 of its feature file."""
COMPANIONS_KEY = "companions"
"""Key of a clip's result: hash of the files beside the video that it depends on."""


def feature_file_mark(path: Path) -> dict[str, Any]:
    """Returns what identifies the content of a feature file."""
    return {"bytes": path.stat().st_size, "sha256": hash_file(path)}


def companions_mark(clip: SceneClip, conditions: Sequence[str]) -> str:
    """Returns a hash of the caption, the speech files and the values of `conditions` beside a video; empty if there
    are none."""
    found = _companions(clip, conditions)
    text = "\n".join(f"{path.name} {fingerprint(path)}" for path in found)
    return hashlib.sha256(text.encode()).hexdigest()[:16] if found else ""


def result_holds(
    clip: SceneClip, result: dict[str, Any], result_path: Path, features: Path, conditions: Sequence[str], kept: bool
) -> bool:
    """Whether a clip need not be prepared again: it is kept and its features are intact, or it is not kept.

    A feature file of the recorded size that is not newer than its result is taken for intact; the content of others is
    compared. Results of earlier releases recorded neither size nor content: what is not newer than they are holds.
    """
    written = result_path.stat().st_mtime_ns
    if COMPANIONS_KEY in result:
        if companions_mark(clip, conditions) != result[COMPANIONS_KEY]:
            return False
    elif any(path.stat().st_mtime_ns > written for path in _companions(clip, conditions)):
        return False
    return not kept or _is_intact(features, result.get(FEATURE_FILE_KEY), written)


def _is_intact(path: Path, mark: dict[str, Any] | None, written: int) -> bool:
    if not path.is_file():
        return False
    found = path.stat()
    if mark is not None and found.st_size != mark["bytes"]:
        return False
    if found.st_mtime_ns <= written:
        return True
    return _can_be_loaded(path) if mark is None else hash_file(path) == mark["sha256"]


def _can_be_loaded(path: Path) -> bool:
    try:
        load_features(path)
    except InputError:
        return False
    return True


def _companions(clip: SceneClip, conditions: Sequence[str]) -> list[Path]:
    video = clip.file.path
    beside = (caption_path(video), *speech_paths(video), *condition_paths(video, conditions).values())
    return [path for path in beside if path.is_file()]

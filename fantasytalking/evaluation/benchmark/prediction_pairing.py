"""Predictions to the clips of a protocol, by name; what does not fit is refused by name before anything is measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import hash_file
from fantasytalking.data.prepare.plan import VIDEO_SUFFIXES
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol, ProtocolClip
from fantasytalking.media import MediaInfo, probe

MAX_LISTED_NAMES = 3
ASPECT_TOLERANCE = 0.02
FPS_TOLERANCE = 0.005


@dataclass(frozen=True)
class ClipPair:
    """One clip with both of its files."""

    clip: ProtocolClip
    reference: Path
    prediction: Path
    prediction_sha256: str
    """Of the prediction's file."""


def match_predictions(protocol: BenchmarkProtocol, references: Path, predictions: Path) -> list[ClipPair]:
    """Every clip of the protocol with its reference and its prediction NAME.mp4 (or NAME/video.mp4).

    Raises:
        InputError: predictions or references miss, or a prediction has another frame rate, too few or too many frames,
            another shape or no sound; one line with how many and the first names.
    """
    _check_folder("predictions", predictions)
    real = find_references(protocol, references)
    found = {clip.name: _find_prediction(predictions, clip.name) for clip in protocol.clips}
    _raise_for_clips(f"have no prediction in '{predictions}'", [name for name, path in found.items() if path is None])
    paths = {name: path for name, path in found.items() if path is not None}
    _check_predictions(protocol, {name: probe(path) for name, path in paths.items()})
    return [ClipPair(clip, real[clip.name], paths[clip.name], hash_file(paths[clip.name])) for clip in protocol.clips]


def find_references(protocol: BenchmarkProtocol, references: Path) -> dict[str, Path]:
    """The real file of every clip, by the clips' names; what is in it is not looked at.

    Raises:
        InputError: there is no such folder, or files are missing; one line with how many and the first names.
    """
    _check_folder("references", references)
    real = {clip.name: references / PurePosixPath(clip.video) for clip in protocol.clips}
    _raise_for_clips(
        f"have no reference in '{references}'", [name for name, path in real.items() if not path.is_file()]
    )
    return real


def _check_folder(label: str, folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"{label} '{folder}' is not a folder; give a folder of videos")


def _find_prediction(folder: Path, name: str) -> Path | None:
    """The one video of this name, as a file or in a folder of its own.

    Raises:
        InputError: there are several.
    """
    there = [path for suffix in sorted(VIDEO_SUFFIXES) if (path := folder / f"{name}{suffix}").is_file()]
    if (nested := folder / name / "video.mp4").is_file():
        there.append(nested)
    if len(there) > 1:
        raise InputError(f"'{there[0]}' and '{there[1]}' are both predictions of '{name}'; keep one")
    return there[0] if there else None


def _check_predictions(protocol: BenchmarkProtocol, infos: dict[str, MediaInfo]) -> None:
    aspect = protocol.width / protocol.height
    frames = {clip.name: clip.frames for clip in protocol.clips}

    def refuse(what: str, wrong: Callable[[str, MediaInfo], bool], value: Callable[[str, MediaInfo], str]) -> None:
        told = [f"{name} ({value(name, info)})" for name, info in infos.items() if wrong(name, info)]
        _raise_for_clips(f"have a prediction {what}", told)

    refuse("without picture; give videos", lambda _, info: not info.has_video, lambda *_: "sound only")
    refuse(
        f"that is not at the protocol's {protocol.fps:g} frames a second; resample it",
        lambda _, info: abs(info.fps / protocol.fps - 1) > FPS_TOLERANCE,
        lambda _, info: f"{info.fps:g}",
    )
    refuse(
        f"of another length (up to {protocol.surplus} frames too many are cut off)",
        lambda name, info: not frames[name] <= info.frames <= frames[name] + protocol.surplus,
        lambda name, info: f"{info.frames} frames, must be {frames[name]}",
    )
    refuse(
        f"of another shape than {protocol.width}x{protocol.height}; crop it as the reference",
        lambda _, info: abs(info.width / info.height / aspect - 1) > ASPECT_TOLERANCE,
        lambda _, info: f"{info.width}x{info.height}",
    )
    if protocol.is_reenactment:
        return
    refuse("without sound; put the driving sound into it", lambda _, info: not info.has_audio, lambda *_: "silent")


def _raise_for_clips(problem: str, names: Sequence[str]) -> None:
    if names:
        shown = ", ".join(names[:MAX_LISTED_NAMES]) + (", ..." if len(names) > MAX_LISTED_NAMES else "")
        raise InputError(f"{len(names)} clip{'s' * (len(names) > 1)} {problem}: {shown}")

"""Matching of predictions to the clips of a protocol by name, with checks before anything is measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import hash_file
from fantasytalking.data.prepare.plan import VIDEO_SUFFIXES
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol, ProtocolClip
from fantasytalking.media import MediaInfo, probe

MAX_LISTED_NAMES = 3
"""Number of clip names in an error message."""
ASPECT_TOLERANCE = 0.02
FPS_TOLERANCE = 0.005


@dataclass(frozen=True)
class ClipPair:
    """A clip with its reference and its prediction."""

    clip: ProtocolClip
    reference: Path
    prediction: Path
    prediction_sha256: str
    """Hash of the prediction's file."""


def match_predictions(protocol: BenchmarkProtocol, references: Path, predictions: Path) -> list[ClipPair]:
    """Returns each clip of the protocol with its reference and its prediction NAME.mp4 (or NAME/video.mp4).

    Raises:
        InputError: predictions or references are missing, or a prediction has another frame rate, too few or too many
            frames, another aspect ratio or no audio. `value` has the names of the clips.
    """
    _check_folder("predictions", predictions)
    real = find_references(protocol, references)
    found = {clip.name: _find_prediction(predictions, clip.name) for clip in protocol.clips}
    missing = {name: "" for name, path in found.items() if path is None}
    _raise_for_clips(
        f"have no prediction in '{predictions}'; generate them", ErrorCode.missing_file, "--predictions", missing
    )
    paths = {name: path for name, path in found.items() if path is not None}
    _check_predictions(protocol, {name: probe(path) for name, path in paths.items()})
    return [ClipPair(clip, real[clip.name], paths[clip.name], hash_file(paths[clip.name])) for clip in protocol.clips]


def find_references(protocol: BenchmarkProtocol, references: Path) -> dict[str, Path]:
    """Returns the reference file of each clip by the clip's name; the contents are not checked.

    Raises:
        InputError: the folder or files are missing. `value` has the names of the clips.
    """
    _check_folder("references", references)
    real = {clip.name: references / PurePosixPath(clip.video) for clip in protocol.clips}
    missing = {name: "" for name, path in real.items() if not path.is_file()}
    _raise_for_clips(
        f"have no reference in '{references}'; give the folder that the protocol was made for",
        ErrorCode.missing_file,
        "--references",
        missing,
    )
    return real


def _check_folder(label: str, folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(
            f"--{label} '{folder}' is not a folder; give a folder of videos",
            code=ErrorCode.missing_file,
            field=f"--{label}",
            value=str(folder),
        )


def _find_prediction(folder: Path, name: str) -> Path | None:
    """Returns the video NAME.* or NAME/video.mp4.

    Raises:
        InputError: several exist.
    """
    found = [path for suffix in sorted(VIDEO_SUFFIXES) if (path := folder / f"{name}{suffix}").is_file()]
    if (nested := folder / name / "video.mp4").is_file():
        found.append(nested)
    if len(found) > 1:
        raise InputError(
            f"'{found[0]}' and '{found[1]}' are both predictions of '{name}'; keep one",
            code=ErrorCode.conflict,
            field="--predictions",
            value=name,
        )
    return found[0] if found else None


def _check_predictions(protocol: BenchmarkProtocol, infos: dict[str, MediaInfo]) -> None:
    aspect = protocol.width / protocol.height
    frames = {clip.name: clip.frames for clip in protocol.clips}

    def check(
        problem: str,
        field: str,
        invalid: Callable[[str, MediaInfo], bool],
        value: Callable[[str, MediaInfo], str],
        code: ErrorCode = ErrorCode.out_of_range,
    ) -> None:
        wrong = {name: value(name, info) for name, info in infos.items() if invalid(name, info)}
        _raise_for_clips(f"have a prediction {problem}", code, field, wrong)

    check(
        "without video; give videos",
        "video",
        lambda _, info: not info.has_video,
        lambda *_: "audio only",
        ErrorCode.unreadable_media,
    )
    check(
        f"that does not have the protocol's {protocol.fps:g} frames per second; resample it",
        "fps",
        lambda _, info: abs(info.fps / protocol.fps - 1) > FPS_TOLERANCE,
        lambda _, info: f"{info.fps:g}",
    )
    check(
        f"of another length; up to {protocol.surplus} extra frames are cut off",
        "frames",
        lambda name, info: not frames[name] <= info.frames <= frames[name] + protocol.surplus,
        lambda name, info: f"{info.frames} frames, must be {frames[name]}",
    )
    check(
        f"of another aspect ratio than {protocol.width}x{protocol.height}; crop it as the reference",
        "size",
        lambda _, info: abs(info.width / info.height / aspect - 1) > ASPECT_TOLERANCE,
        lambda _, info: f"{info.width}x{info.height}",
    )
    if protocol.is_reenactment:
        return
    check(
        "without audio; mux the driving audio into it",
        "audio",
        lambda _, info: not info.has_audio,
        lambda *_: "no audio",
        ErrorCode.unreadable_media,
    )


def _raise_for_clips(problem: str, code: ErrorCode, field: str, clips: Mapping[str, str]) -> None:
    """Raises an error about `clips`, details by name; nothing if there are none."""
    if not clips:
        return
    listed = [f"{name} ({detail})" if detail else name for name, detail in clips.items()][:MAX_LISTED_NAMES]
    rest = ", ..." if len(clips) > MAX_LISTED_NAMES else ""
    raise InputError(
        f"{len(clips)} clip{'s' * (len(clips) > 1)} {problem}: {', '.join(listed)}{rest}",
        code=code,
        field=field,
        value=list(clips),
    )

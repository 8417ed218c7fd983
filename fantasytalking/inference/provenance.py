"""The record (JSON) beside a video: everything that determined it, so that the same machine can reproduce its bits."""

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

import fantasytalking
from fantasytalking.common.config import config_from_dict
from fantasytalking.common.devices import device_name
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import existing_file, fingerprint, hash_file
from fantasytalking.common.limits import MAX_RECORD_BYTES
from fantasytalking.common.text import utf8_bytes
from fantasytalking.common.text_files import read_json
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.model_sources import ResolvedModel

RECORD_FORMAT = 1
RECORD_KEYS = frozenset(["config", "hashes", "video_sha256"])
"""Keys that distinguish a record from other JSON files."""
RECORDED_PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "numpy",
    "av",
    "opencv-contrib-python",
    "mediapipe",
    "onnxruntime",
)


@dataclass(frozen=True)
class GenerationRecord:
    """Configuration, inputs and environment of one video."""

    config: InferConfig
    image: Path
    audio_paths: tuple[Path, ...]
    hashes: dict[str, str]
    """Hashes of image, audio, driving videos and weights, by name."""
    versions: dict[str, str]
    device: str
    num_threads: int
    output: Path
    video_sha256: str = ""
    """Hash of the video; empty before it is written."""
    driving_videos: tuple[Path, ...] = ()
    conditions: dict[str, Path] = field(default_factory=dict)
    """Files of registered conditions, by name."""

    @classmethod
    def create(
        cls,
        config: InferConfig,
        image: Path,
        audio_paths: Sequence[Path],
        driving_videos: Sequence[Path],
        model: ResolvedModel,
        output: Path,
        conditions: Mapping[str, Path] = MappingProxyType({}),
    ) -> "GenerationRecord":
        """Returns the record of a video that is about to be generated.

        Raises:
            InputError: an input file does not exist.
        """
        hashes = {
            name: hash_file(existing_file(path, name))
            for name, path in _input_files(image, audio_paths, driving_videos, conditions).items()
        }
        hashes |= {name: fingerprint(path) for name, path in model.paths_used(bool(driving_videos)).items()}
        return cls(
            config,
            image,
            tuple(audio_paths),
            hashes,
            dict(package_versions()),
            device_name(model.device),
            torch.get_num_threads(),
            output,
            driving_videos=tuple(driving_videos),
            conditions=dict(conditions),
        )

    def to_json_string(self, result: dict[str, Any]) -> str:
        """Returns the record as JSON, with the `result` of the generation; a single audio is a string, not a list."""
        audio = [str(path.resolve()) for path in self.audio_paths]
        values = {
            "format": RECORD_FORMAT,
            "image": str(self.image.resolve()),
            "audio": audio[0] if len(audio) == 1 else audio,
            "drive": [str(path.resolve()) for path in self.driving_videos],
            "conditions": {name: str(path.resolve()) for name, path in self.conditions.items()},
            "output": os.path.realpath(self.output),
            "video_sha256": self.video_sha256,
            "hashes": self.hashes,
            "versions": self.versions,
            "device": self.device,
            "threads": self.num_threads,
            "config": _to_plain(asdict(self.config)),
            "result": result,
        }
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    def save(self, path: Path, result: dict[str, Any]) -> None:
        """Writes `to_json_string`; names that are not UTF-8 are escaped, and `load` returns them unchanged."""
        path.write_bytes(utf8_bytes(self.to_json_string(result)))

    @classmethod
    def load(cls, path: str | Path) -> "GenerationRecord":
        """Loads a record; configuration keys of earlier releases are renamed.

        Raises:
            InputError: the file is missing, too large, or not a record.
        """
        values = read_json(path, "record", MAX_RECORD_BYTES, allow_nan=False)
        kinds = {
            "image": str,
            "audio": str | list,
            "drive": list,
            "conditions": dict,
            "output": str,
            "video_sha256": str,
            "hashes": dict,
            "versions": dict,
            "device": str,
            "threads": int,
            "config": dict,
        }
        values.setdefault("drive", [])  # absent in records from before driving videos
        values.setdefault("conditions", {})  # absent in records from before registered conditions
        wrong = [name for name, kind in kinds.items() if not isinstance(values.get(name), kind)]
        wrong += [name for name in ("audio", "drive") if not _is_str_or_list(values.get(name))]
        if "conditions" not in wrong and not all(isinstance(path, str) for path in values["conditions"].values()):
            wrong.append("conditions")
        if values.get("format") != RECORD_FORMAT or wrong:
            what = (
                f"'{wrong[0]}' is missing or has another type" if wrong else f"its format is {values.get('format')!r}"
            )
            raise InputError(
                f"'{path}' is not the record of a video ({what}); give the .json beside one",
                code=ErrorCode.malformed_file,
                field=wrong[0] if wrong else "format",
                value=values.get(wrong[0] if wrong else "format"),
            )
        if not 1 <= values["threads"] <= 4096:
            raise InputError(
                f"'{path}': threads is {values['threads']}; it must be 1 to 4096",
                code=ErrorCode.out_of_range,
                field="threads",
                value=values["threads"],
            )
        return cls(
            config_from_dict(InferConfig, values["config"], str(path)),
            Path(values["image"]),
            _paths(values["audio"]),
            values["hashes"],
            values["versions"],
            values["device"],
            values["threads"],
            Path(values["output"]),
            values["video_sha256"],
            _paths(values["drive"]),
            {name: Path(path) for name, path in values["conditions"].items()},
        )

    def differences(self, current: "GenerationRecord") -> list[str]:
        """Returns what differs from the environment of this record, in words.

        Raises:
            InputError: an input file or weights differ, so that the video cannot be the same.
        """
        inputs = _input_files(current.image, current.audio_paths, current.driving_videos, current.conditions)
        loras = {name: file.path for name, file in current.config.optimizations.lora_files().items()}
        for name in sorted({*self.hashes, *current.hashes}):
            if self.hashes.get(name) != current.hashes.get(name):
                configured = loras.get(name) or getattr(current.config, name, None)
                path = inputs.get(name, configured or name)
                raise InputError(
                    f"{name} '{path}' is not what the video was generated from; restore it, or run without --reproduce",
                    code=ErrorCode.conflict,
                    field=name,
                    value=str(path),
                )
        changed = [
            f"{name} was {self.versions.get(name, 'absent')}, is {current.versions.get(name, 'absent')}"
            for name in sorted({*self.versions, *current.versions})
            if self.versions.get(name) != current.versions.get(name)
        ]
        return changed + (
            [f"the device was {self.device}, is {current.device}"] if self.device != current.device else []
        )


def is_record(path: Path) -> bool:
    """Whether a file exists and is a record, of this or an earlier release."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_RECORD_BYTES:
            return False
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("format") == RECORD_FORMAT and values.keys() >= RECORD_KEYS


def _input_files(
    image: Path, audio_paths: Sequence[Path], driving_videos: Sequence[Path], conditions: Mapping[str, Path]
) -> dict[str, Path]:
    """Input files by the names of their hashes: image, audio, audio 2, ..., driver, driver 2, ..., condition NAME."""
    lists = (("audio", audio_paths), ("driver", driving_videos))
    numbered = {
        name if number == 1 else f"{name} {number}": path
        for name, paths in lists
        for number, path in enumerate(paths, start=1)
    }
    return {"image": image, **numbered, **{f"condition {name}": path for name, path in conditions.items()}}


def _is_str_or_list(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _paths(value: str | list[str]) -> tuple[Path, ...]:
    return tuple(map(Path, [value] if isinstance(value, str) else value))


@cache  # Reads all source files; what runs is what was imported.
def package_versions() -> Mapping[str, str]:
    """Returns the versions of Python, this package, its source code and the packages that affect the result."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("fantasytalking", *RECORDED_PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    folder = Path(fantasytalking.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    found["source"] = digest.hexdigest()[:16]
    return found


def _to_plain(value: Any) -> Any:
    """Enumerations as their names, as in YAML."""
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_to_plain(item) for item in value]
    return value.name if isinstance(value, Enum) else value

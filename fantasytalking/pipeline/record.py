"""The JSON beside a video: all that decided it, so that the same machine can make it again bit for bit."""

import hashlib
import importlib.metadata
import json
import platform
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch

import fantasytalking
from fantasytalking.config import config_of
from fantasytalking.errors import InputError
from fantasytalking.files import existing_file, hash_file
from fantasytalking.pipeline.settings import InferConfig
from fantasytalking.pipeline.weights import Weights
from fantasytalking.tensor_files import read_json

FORMAT = 1
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "av", "opencv-contrib-python", "mediapipe", "onnxruntime")
MAX_RECORD_BYTES = 1 << 20
MAX_HASHED_BYTES = 64 << 20
"""Files of weights up to this size are compared by content, larger ones by name and size."""


@dataclass(frozen=True)
class Record:
    """What was asked for, with what."""

    config: InferConfig
    image: Path
    audio: Path
    hashes: dict[str, str]
    """Of image, audio and each place of weights."""
    versions: dict[str, str]
    device: str
    threads: int
    output: Path
    video: str = ""
    """Hash of the video; empty before there is one."""

    @classmethod
    def of(cls, config: InferConfig, image: Path, audio: Path, weights: Weights, output: Path, device: str) -> "Record":
        """The record of a video that is about to be made.

        Raises:
            InputError: image or audio is no file.
        """
        hashes = {
            "image": hash_file(existing_file(image, "image")),
            "audio": hash_file(existing_file(audio, "audio")),
            **{name: fingerprint(place) for name, place in weights.places.items()},
        }
        return cls(config, image, audio, hashes, versions(), device, torch.get_num_threads(), output)

    def as_json(self, result: dict[str, Any]) -> str:
        """As text; `result` says what came out."""
        values = {
            "format": FORMAT,
            "image": str(self.image.resolve()),
            "audio": str(self.audio.resolve()),
            "output": str(self.output.resolve()),
            "video_sha256": self.video,
            "hashes": self.hashes,
            "versions": self.versions,
            "device": self.device,
            "threads": self.threads,
            "config": _plain(asdict(self.config)),
            "result": result,
        }
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> "Record":
        """Reads a record back.

        Raises:
            InputError: it is missing, too large, or not such a record.
        """
        path = existing_file(path, "record")
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise InputError(f"'{path}' is too large for a record; give the JSON that stands beside a video")
        values = read_json(path)
        kinds = {
            "image": str,
            "audio": str,
            "output": str,
            "video_sha256": str,
            "hashes": dict,
            "versions": dict,
            "device": str,
            "threads": int,
            "config": dict,
        }
        wrong = [name for name, kind in kinds.items() if not isinstance(values.get(name), kind)]
        if values.get("format") != FORMAT or wrong:
            what = f"'{wrong[0]}' is missing or of another kind" if wrong else f"its format is {values.get('format')!r}"
            raise InputError(f"'{path}' is not the record of a video ({what}); give the JSON that stands beside one")
        if not 1 <= values["threads"] <= 4096:
            raise InputError(f"'{path}': threads is {values['threads']}; it must be 1 to 4096")
        return cls(
            config_of(InferConfig, values["config"], str(path)),
            Path(values["image"]),
            Path(values["audio"]),
            values["hashes"],
            values["versions"],
            values["device"],
            values["threads"],
            Path(values["output"]),
            values["video_sha256"],
        )

    def differences(self, now: "Record") -> list[str]:
        """What has changed since this record was made, in words.

        Raises:
            InputError: image, audio or weights are not the same, so that the video cannot be either.
        """
        for name in sorted({*self.hashes, *now.hashes}):
            if self.hashes.get(name) != now.hashes.get(name):
                owners = (now, now.config, now.config.savings)
                place = next((place for owner in owners if (place := getattr(owner, name, None))), name)
                raise InputError(
                    f"{name} '{place}' is not what the video was made from; restore it, or run without --replay"
                )
        changed = [
            f"{name} was {self.versions.get(name, 'absent')}, is {now.versions.get(name, 'absent')}"
            for name in sorted({*self.versions, *now.versions})
            if self.versions.get(name) != now.versions.get(name)
        ]
        return changed + ([f"the device was {self.device}, is {now.device}"] if self.device != now.device else [])


def fingerprint(place: Path) -> str:
    """Of a file or a folder: names, sizes and, up to `MAX_HASHED_BYTES`, contents."""
    digest = hashlib.sha256()
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    for file in files:
        size = file.stat().st_size
        content = hash_file(file) if size <= MAX_HASHED_BYTES else ""
        digest.update(f"{file.relative_to(place.parent).as_posix()}\0{size}\0{content}\n".encode())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Of Python, this package, its source code, and what takes part in the arithmetic."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("fantasytalking", *PACKAGES):
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


def _plain(value: Any) -> Any:
    """Enumerations as their names, as YAML gives them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.name if isinstance(value, Enum) else value

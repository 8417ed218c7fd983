"""Names of clips and identities of people, read from the paths of videos by the patterns of a benchmark."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.text import utf8_bytes
from fantasytalking.evaluation.benchmark.config import IDENTITY_GROUP, BenchmarkConfig

MAX_CLIP_NAME_LENGTH = 100
"""Longest name of a clip that is made from the name of a file."""


class ClipIdentity(NamedTuple):
    """Name of a clip and the person in it."""

    name: str
    identity: str


@dataclass(frozen=True)
class ClipNaming:
    """How a benchmark names its clips and people."""

    identity_pattern: re.Pattern[str]
    name_pattern: str

    @classmethod
    def from_config(cls, config: BenchmarkConfig) -> "ClipNaming":
        """Returns the naming of a configuration; a layout of earlier releases has that of the shipped benchmark."""
        if config.identity_pattern is None:
            config = load_config(BenchmarkConfig, preset_path("benchmarks", config.layout.value))
        assert config.identity_pattern is not None, "shipped benchmarks of videos have a pattern"
        return cls(re.compile(config.identity_pattern), config.name_pattern)

    def identify(self, video: str) -> ClipIdentity | None:
        """Returns the name and the person of a video, given its path relative to the references.

        None if the video is not part of the dataset.

        >>> naming = ClipNaming(re.compile(r"(?P<identity>M\\d+)_(?P<take>\\d+)"), "{identity}-{take}")
        >>> naming.identify("front/M003_017.mp4")
        ClipIdentity(name='M003-017', identity='M003')
        """
        found = self.identity_pattern.search(video)
        if found is None:
            return None
        path = PurePosixPath(video)
        fields = {"stem": path.stem, "folder": "-".join(path.parts[:-1]), **found.groupdict()}
        return ClipIdentity(self.name_pattern.format(**fields), found[IDENTITY_GROUP])


def safe_clip_name(name: str) -> str:
    """Returns a valid clip name for the name of a file; long names are cut and end in their md5."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-") or "clip"
    if len(plain) <= MAX_CLIP_NAME_LENGTH:
        return plain
    digest = hashlib.md5(utf8_bytes(name), usedforsecurity=False).hexdigest()[:8]
    return f"{plain[: MAX_CLIP_NAME_LENGTH - 9]}-{digest}"

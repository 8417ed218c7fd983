"""Writes what a corpus is read by, from the stored results of its clips: manifest, rejections, normalizer and sheet."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.data.manifest import (
    MANIFEST_FILE,
    REJECTIONS_FILE,
    ClipRecord,
    Rejection,
    RejectionReason,
    write_records,
)
from fantasytalking.data.prepare.clip_limits import PEOPLE_KEY, stored_failure
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.data.prepare.corpus_sheet import write_contact_sheet
from fantasytalking.data.prepare.duplicates import DuplicateSearch
from fantasytalking.data.prepare.plan import SceneClip
from fantasytalking.data.prepare.staleness import COMPANIONS_KEY, FEATURE_FILE_KEY
from fantasytalking.motion_normalizer import MOTION_NORMALIZER_FILE, MotionMeasure, MotionNormalizer

CONFIG_FILE = "data.yaml"
"""The settings of the last run, in the folder of the corpus."""
CORPUS_CONTACT_SHEET_FILE = "contact_sheet.png"
MEASURE_NAMES = frozenset(item.name for item in fields(ClipRecord) if item.type == float | None)
"""Names of measured values in the manifest."""

logger = logging.getLogger(__name__)

Result = dict[str, Any]
"""What is stored of a clip: measured values, and either the reason of its rejection or what its features are."""


@dataclass(frozen=True)
class CorpusWriter:
    """Writes the files of a corpus."""

    output: Path
    """Folder of the corpus."""
    config: PreparationConfig
    """The settings; its limits decide which clips are kept."""
    result_path: Callable[[SceneClip], Path]
    """Path of a clip's stored result, for messages."""

    def write(
        self, results: Sequence[tuple[SceneClip, Result]], rejections: Sequence[Rejection], *, draw_clips: bool
    ) -> tuple[list[ClipRecord], list[Rejection]]:
        """Writes manifest.jsonl, rejected.jsonl, motion_normaliser.json and, with `draw_clips`, contact_sheet.png.

        Args:
            results: the clips and what is stored of each.
            rejections: whole videos and scenes that were rejected.
            draw_clips: whether to draw clips on the contact sheet, for which they are prepared again.

        Returns:
            The lines of manifest.jsonl and of rejected.jsonl.

        Raises:
            InputError: no clip can be used, or the features of one are missing.
        """
        used: list[tuple[SceneClip, Result]] = []
        duplicates = DuplicateSearch(self.config.min_duplicate_distance)
        rejected = list(rejections)
        for clip, result in results:
            failure = stored_failure(result, self.config) or duplicates.check(clip.file.video, clip.start, result)
            if failure is None and "expression_measure" not in result:
                failure = RejectionReason.NOT_PREPARED, "the limits keep the clip; prepare it with --input"
            if failure is None:
                used.append((clip, result))
            else:
                measured = {name: result[name] for name in result if name in MEASURE_NAMES or name == PEOPLE_KEY}
                rejected.append(Rejection(clip.file.video, clip.start, *failure, measured))
        _warn_unmeasured([result for _, result in used])
        write_records(self.output / REJECTIONS_FILE, rejected)
        if not used:
            counts = format_reason_counts(rejected)
            raise InputError(
                f"no clip of '{self.output}' can be used ({counts}); {REJECTIONS_FILE} lists the reasons",
                code=ErrorCode.unreadable_media,
                field="--input",
                value=counts,
            )
        normalizer = self._motion_normalizer([result for _, result in used])
        normalizer.save(self.output / MOTION_NORMALIZER_FILE)
        records = [self._record(clip, result, normalizer) for clip, result in used]
        write_records(self.output / MANIFEST_FILE, records)
        if self.config.contact_sheet_clips and draw_clips:
            by_name = {record.clip: record for record in records}
            chosen = _evenly_spaced([clip for clip, _ in used], self.config.contact_sheet_clips)
            pairs = [(clip, by_name[clip.name]) for clip in chosen]
            write_contact_sheet(pairs, self.config, self.output / CORPUS_CONTACT_SHEET_FILE)
        return records, rejected

    def _motion_normalizer(self, results: list[dict[str, Any]]) -> MotionNormalizer:
        if self.config.motion_normalizer is not None:
            return MotionNormalizer.load(self.config.motion_normalizer)
        return MotionNormalizer.fit(
            [MotionMeasure(result["expression_measure"], result["body_measure"]) for result in results]
        )

    def _record(self, clip: SceneClip, result: dict[str, Any], normalizer: MotionNormalizer) -> ClipRecord:
        features = features_path(clip)
        if not (self.output / features).is_file():
            done = self.result_path(clip)
            raise InputError(
                f"the features of '{clip.name}' are missing; delete '{done}' and run the preparation again",
                code=ErrorCode.missing_file,
                field="features",
                value=clip.name,
            )
        expression, body = normalizer.normalize(MotionMeasure(result["expression_measure"], result["body_measure"]))
        return ClipRecord(
            clip=clip.name,
            video=clip.file.video,
            start=clip.start,
            duration=round(self.config.duration, 6),
            fps=self.config.fps,
            frames=self.config.frames,
            expression=round(expression, 6),
            body=round(body, 6),
            features=features.as_posix(),
            **{name: value for name, value in result.items() if name not in (FEATURE_FILE_KEY, COMPANIONS_KEY)},
        )


def features_path(clip: SceneClip) -> Path:
    """Returns the path of a clip's features within the folder of its corpus."""
    return Path("features") / clip.name[:2] / f"{clip.name}.safetensors"


def format_reason_counts(rejections: Sequence[Rejection]) -> str:
    """Returns how many clips were rejected for each reason, in one line."""
    counts = Counter(rejection.reason.value for rejection in rejections)
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def _warn_unmeasured(results: Sequence[Result]) -> None:
    """Warns of clips that an earlier release prepared, to which most limits cannot be applied."""
    count = sum("upscale" not in result for result in results)
    if count:
        logger.warning(
            f"{count} clips were prepared by an earlier release and lack measured values; limits of what they lack do "
            "not apply to them"
        )


def _evenly_spaced(clips: list[SceneClip], count: int) -> list[SceneClip]:
    """Returns at most `count` clips, evenly spaced."""
    step = max(1, -(-len(clips) // count))
    return clips[::step]

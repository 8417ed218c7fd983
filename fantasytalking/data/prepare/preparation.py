"""Data preparation: a folder of talking videos in, a corpus for training out.

Four stages, each shared out between the processes and each kept as one small file a task (see `progress`): every video
is opened, every minute of it searched for scene cuts, every clip of every scene checked and encoded; then the main
process writes manifest.jsonl, rejected.jsonl, motion_normaliser.json and contact_sheet.png.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fantasytalking.common.config import save_config
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import fingerprint
from fantasytalking.common.resumable_tasks import Processes, Stage, open_folder
from fantasytalking.data.clip_rejected import Refused
from fantasytalking.data.features import save_features
from fantasytalking.data.manifest import MANIFEST, REJECTED, ClipRecord, Reason, Rejection, write_lines
from fantasytalking.data.prepare.clip import prepare_clip
from fantasytalking.data.prepare.clip_sheet import write_contact_sheet
from fantasytalking.data.prepare.config import DataConfig
from fantasytalking.data.prepare.encode import Encoders, encoder_places
from fantasytalking.data.prepare.plan import (
    Clip,
    Span,
    TimeRange,
    VideoFile,
    find_videos,
    plan_video,
    probe_video,
    ranges_of,
    read_ranges,
    spans_of,
)
from fantasytalking.data.prepare.scenes import SpanScan, scan_span
from fantasytalking.motion_normalizer import NORMALISER, MotionMeasure, MotionNormaliser

CONTACT_SHEET = "contact_sheet.png"


class Preparation:
    """One run over one folder of videos."""

    def __init__(self, videos: Path, output: Path, config: DataConfig, encoders: Encoders) -> None:
        self.output, self.config, self.encoders = output, config, encoders
        wanted = None if config.ranges is None else read_ranges(config.ranges)
        self.files = find_videos(videos, wanted)
        self.wanted: Mapping[str, list[TimeRange]] | None = wanted
        self.fingerprint = config.fingerprint()
        progress = output / "progress"
        self.probing: Stage[VideoFile] = Stage("videos", progress / "videos", lambda file: probe_video(file, config))
        self.scanning: Stage[Span] = Stage("scenes", progress / "scenes", self._scan)
        self.encoding: Stage[Clip] = Stage("clips", progress / "clips", self._encode)

    def run(self, processes: Processes) -> tuple[list[ClipRecord], list[Rejection]]:
        """Goes on where an earlier run stopped; on all processes at once.

        Returns:
            the lines of manifest.jsonl and of rejected.jsonl (empty on processes other than the main one).

        Raises:
            InputError: the output holds other things or another run, or no clip can be used.
        """
        if processes.is_main_process:
            encoders = {name: fingerprint(place) for name, place in encoder_places(self.config).items()}
            open_folder(self.output, self.fingerprint, encoders)
            save_config(self.config, self.output / "data.yaml")
        processes.wait_for_everyone()
        self.probing.run(self.files, processes)
        spans = {file: self._spans(file) for file in self.files}
        self.scanning.run([span for found in spans.values() for span in found], processes)
        planned = [line for file in self.files for line in self._plan(file, spans[file])]
        clips = [line for line in planned if isinstance(line, Clip)]
        self.encoding.run(clips, processes)
        if not processes.is_main_process:
            return [], []
        return self._merge(clips, [line for line in planned if isinstance(line, Rejection)])

    def _scan(self, span: Span) -> dict[str, Any]:
        return asdict(scan_span(span.file.path, span.start, self.config.cut_threshold))

    def _spans(self, file: VideoFile) -> list[Span]:
        probed = self.probing.result(file)
        return [] if "reason" in probed else spans_of(file, probed["duration"], ranges_of(file, self.wanted))

    def _plan(self, file: VideoFile, spans: list[Span]) -> list[Clip | Rejection]:
        probed = self.probing.result(file)
        if "reason" in probed:
            return [Rejection(file.video, 0.0, Reason(probed["reason"]), probed["detail"])]
        scans = [SpanScan(**self.scanning.result(span)) for span in spans]
        return list(plan_video(file, scans, ranges_of(file, self.wanted), self.config))

    def _encode(self, clip: Clip) -> dict[str, Any]:
        """Prepares and encodes a clip; the features are in place before its result is."""
        try:
            prepared = prepare_clip(clip, self.config)
            features = self.encoders.encode(prepared)
        except Refused as refused:
            return {"reason": refused.reason.value, "detail": refused.detail}
        save_features(features, self.output / _features_path(clip), self.fingerprint)
        height, width = prepared.frames.shape[1:3]
        return {
            "width": width,
            "height": height,
            "face_size": round(prepared.face_size, 3),
            "expression_measure": prepared.expression,
            "body_measure": prepared.body,
            "people": len(prepared.tracks),
        }

    def _merge(self, clips: list[Clip], rejections: list[Rejection]) -> tuple[list[ClipRecord], list[Rejection]]:
        results = [(clip, self.encoding.result(clip)) for clip in clips]
        rejections = rejections + [
            Rejection(clip.file.video, clip.start, Reason(result["reason"]), result["detail"])
            for clip, result in results
            if "reason" in result
        ]
        write_lines(self.output / REJECTED, rejections)
        used = [(clip, result) for clip, result in results if "reason" not in result]
        if not used:
            raise InputError(f"no clip of '{self.output}' can be used ({_counted(rejections)}); see {REJECTED}")
        normaliser = self._normaliser([result for _, result in used])
        normaliser.save(self.output / NORMALISER)
        records = [self._record(clip, result, normaliser) for clip, result in used]
        write_lines(self.output / MANIFEST, records)
        if self.config.contact_sheet_clips:
            by_name = {record.clip: record for record in records}
            chosen = _spread([clip for clip, _ in used], self.config.contact_sheet_clips)
            pairs = [(clip, by_name[clip.name]) for clip in chosen]
            write_contact_sheet(pairs, self.config, self.output / CONTACT_SHEET)
        return records, rejections

    def _normaliser(self, results: list[dict[str, Any]]) -> MotionNormaliser:
        if self.config.normaliser is not None:
            return MotionNormaliser.load(self.config.normaliser)
        return MotionNormaliser.fit(
            [MotionMeasure(result["expression_measure"], result["body_measure"]) for result in results]
        )

    def _record(self, clip: Clip, result: dict[str, Any], normaliser: MotionNormaliser) -> ClipRecord:
        features = _features_path(clip)
        if not (self.output / features).is_file():
            done = self.encoding.path(clip)
            raise InputError(f"the features of '{clip.name}' are gone; delete '{done}' and run the preparation again")
        expression, body = normaliser.normalise(MotionMeasure(result["expression_measure"], result["body_measure"]))
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
            **result,
        )


def prepare(videos: Path, output: Path, config: DataConfig, processes: Processes, device: torch.device) -> str:
    """Prepares the videos below a folder and tells in one line what came of it; the way in for scripts.

    Raises:
        InputError: before anything is written: components missing, no videos, a foreign output folder. At the end: no
            clip can be used.
    """
    torch.set_num_threads(config.threads)
    preparation = Preparation(videos, output, config, Encoders.load(config, device))
    records, rejections = preparation.run(processes)
    left_out = f"; left out: {_counted(rejections)}, see {REJECTED}" if rejections else ""
    return f"{len(records)} clips in '{output / MANIFEST}'{left_out}"


def _features_path(clip: Clip) -> Path:
    return Path("features") / clip.name[:2] / f"{clip.name}.safetensors"


def _counted(rejections: list[Rejection]) -> str:
    counts = Counter(rejection.reason.value for rejection in rejections)
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def _spread(clips: list[Clip], count: int) -> list[Clip]:
    """At most `count` clips, evenly spread over all."""
    step = max(1, -(-len(clips) // count))
    return clips[::step]

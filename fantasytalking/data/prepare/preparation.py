"""Prepares a folder of talking videos as a training corpus.

Three stages are distributed over the processes and store one small file per task, so that a run can be resumed
(`fantasytalking.common.resumable_tasks`): every video is probed, every minute of it is scanned for scene cuts, and
every clip of every scene is checked and encoded. The main process then writes manifest.jsonl, rejected.jsonl,
motion_normaliser.json and contact_sheet.png.
"""

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fantasytalking.common.agreement import errors_on_all
from fantasytalking.common.config import save_config
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import check_utf8_path, fingerprint
from fantasytalking.common.locks import lock_output
from fantasytalking.common.resumable_tasks import ProcessState, TaskStage, check_output_folder, open_output_folder
from fantasytalking.data.features import save_features
from fantasytalking.data.manifest import (
    MANIFEST_FILE,
    REJECTIONS_FILE,
    ClipRecord,
    ClipRejected,
    Rejection,
    RejectionReason,
    write_records,
)
from fantasytalking.data.prepare.clip import prepare_clip
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.data.prepare.corpus_sheet import write_contact_sheet
from fantasytalking.data.prepare.encode import FeatureEncoders, encoder_paths
from fantasytalking.data.prepare.plan import (
    SceneClip,
    TimeRange,
    VideoFile,
    VideoSpan,
    find_videos,
    plan_video,
    probe_video,
    read_time_ranges,
    spans_to_scan,
    time_ranges_for,
)
from fantasytalking.data.prepare.scenes import SpanScan, scan_span
from fantasytalking.data.prepare.staleness import (
    COMPANIONS_KEY,
    FEATURE_FILE_KEY,
    companions_mark,
    feature_file_mark,
    result_holds,
)
from fantasytalking.motion_normalizer import MOTION_NORMALIZER_FILE, MotionMeasure, MotionNormalizer

CORPUS_CONTACT_SHEET_FILE = "contact_sheet.png"


class CorpusPreparation:
    """One run over one folder of videos.

    Args:
        videos: the input folder.
        output: the output folder, new or of a run to resume.
        config: the settings.

    Raises:
        InputError: the input folder contains no video, or the file of time ranges is malformed.
    """

    def __init__(self, videos: Path, output: Path, config: PreparationConfig) -> None:
        self.output, self.config = output, config
        self._encoders: FeatureEncoders | None = None
        time_ranges = None if config.time_ranges is None else read_time_ranges(config.time_ranges)
        self.files = find_videos(videos, time_ranges)
        self.time_ranges: Mapping[str, list[TimeRange]] | None = time_ranges
        self.fingerprint = config.fingerprint()
        progress = output / "progress"
        self.probe_stage: TaskStage[VideoFile] = TaskStage(
            "videos", progress / "videos", lambda file: probe_video(file, config)
        )
        self.scan_stage: TaskStage[VideoSpan] = TaskStage("scenes", progress / "scenes", self._scan)
        self.encode_stage: TaskStage[SceneClip] = TaskStage(
            "clips", progress / "clips", self._encode, self._result_holds
        )

    def check_output(self) -> None:
        """Validates that the output folder is new or belongs to a run with these settings and encoders.

        Raises:
            InputError: it contains other files or another run.
        """
        check_output_folder(self.output, self.fingerprint, self._encoder_fingerprints)

    def run(self, process_state: ProcessState, encoders: FeatureEncoders) -> tuple[list[ClipRecord], list[Rejection]]:
        """Runs or resumes the preparation; to be called on all processes at once.

        Clips are prepared again if their features are damaged or missing, or if their caption or speech has changed.

        Args:
            process_state: the processes of the run.
            encoders: the frozen encoders.

        Returns:
            The lines of manifest.jsonl and of rejected.jsonl; empty lists on processes other than the main one.

        Raises:
            InputError: the output folder contains other files or another run, or no clip can be used.
        """
        self._encoders = encoders
        with errors_on_all():
            if process_state.is_main_process:
                open_output_folder(self.output, self.fingerprint, self._encoder_fingerprints)
                save_config(self.config, self.output / "data.yaml")
        process_state.wait_for_everyone()
        self.probe_stage.run(self.files, process_state)
        spans = {file: self._spans(file) for file in self.files}
        self.scan_stage.run([span for found in spans.values() for span in found], process_state)
        planned = [line for file in self.files for line in self._plan(file, spans[file])]
        clips = [line for line in planned if isinstance(line, SceneClip)]
        self.encode_stage.run(clips, process_state)
        if not process_state.is_main_process:
            return [], []
        return self._merge(clips, [line for line in planned if isinstance(line, Rejection)])

    @cached_property
    def _encoder_fingerprints(self) -> dict[str, str]:
        return {name: fingerprint(path) for name, path in encoder_paths(self.config).items()}

    def _scan(self, span: VideoSpan) -> dict[str, Any]:
        return asdict(scan_span(span.file.path, span.start, self.config.scene_cut_threshold))

    def _spans(self, file: VideoFile) -> list[VideoSpan]:
        probed = self.probe_stage.result(file)
        return (
            []
            if "reason" in probed
            else spans_to_scan(file, probed["duration"], time_ranges_for(file, self.time_ranges))
        )

    def _plan(self, file: VideoFile, spans: list[VideoSpan]) -> list[SceneClip | Rejection]:
        probed = self.probe_stage.result(file)
        if "reason" in probed:
            return [Rejection(file.video, 0.0, RejectionReason(probed["reason"]), probed["detail"])]
        scans = [SpanScan(**self.scan_stage.result(span)) for span in spans]
        return list(plan_video(file, scans, time_ranges_for(file, self.time_ranges), self.config))

    def _encode(self, clip: SceneClip) -> dict[str, Any]:
        """Prepares and encodes a clip; the features are written before the result."""
        assert self._encoders is not None
        companions = companions_mark(clip, self.config.conditions)
        try:
            prepared = prepare_clip(clip, self.config)
            features = self._encoders.encode(prepared)
        except ClipRejected as rejected:
            return {"reason": rejected.reason.value, "detail": rejected.detail, COMPANIONS_KEY: companions}
        path = self.output / _features_path(clip)
        save_features(features, path, self.fingerprint)
        height, width = prepared.frames.shape[1:3]
        return {
            "width": width,
            "height": height,
            "face_size": round(prepared.face_size, 3),
            "expression_measure": prepared.expression_measure,
            "body_measure": prepared.body_measure,
            "people": len(prepared.tracks),
            **prepared.measures,
            FEATURE_FILE_KEY: feature_file_mark(path),
            COMPANIONS_KEY: companions,
        }

    def _result_holds(self, clip: SceneClip, result: dict[str, Any]) -> bool:
        features = self.output / _features_path(clip)
        return result_holds(clip, result, self.encode_stage.result_path(clip), features, self.config.conditions)

    def _merge(self, clips: list[SceneClip], rejections: list[Rejection]) -> tuple[list[ClipRecord], list[Rejection]]:
        results = [(clip, self.encode_stage.result(clip)) for clip in clips]
        rejections = rejections + [
            Rejection(clip.file.video, clip.start, RejectionReason(result["reason"]), result["detail"])
            for clip, result in results
            if "reason" in result
        ]
        write_records(self.output / REJECTIONS_FILE, rejections)
        used = [(clip, result) for clip, result in results if "reason" not in result]
        if not used:
            counts = _format_reason_counts(rejections)
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
        if self.config.contact_sheet_clips:
            by_name = {record.clip: record for record in records}
            chosen = _evenly_spaced([clip for clip, _ in used], self.config.contact_sheet_clips)
            pairs = [(clip, by_name[clip.name]) for clip in chosen]
            write_contact_sheet(pairs, self.config, self.output / CORPUS_CONTACT_SHEET_FILE)
        return records, rejections

    def _motion_normalizer(self, results: list[dict[str, Any]]) -> MotionNormalizer:
        if self.config.motion_normalizer is not None:
            return MotionNormalizer.load(self.config.motion_normalizer)
        return MotionNormalizer.fit(
            [MotionMeasure(result["expression_measure"], result["body_measure"]) for result in results]
        )

    def _record(self, clip: SceneClip, result: dict[str, Any], normalizer: MotionNormalizer) -> ClipRecord:
        features = _features_path(clip)
        if not (self.output / features).is_file():
            done = self.encode_stage.result_path(clip)
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


def prepare_corpus(
    videos: Path, output: Path, config: PreparationConfig, process_state: ProcessState, device: torch.device
) -> str:
    """Prepares the videos below a folder and returns a one-line summary; the entry point for scripts.

    Args:
        videos: the input folder.
        output: the output folder, new or of a run to resume.
        config: the settings.
        process_state: the processes of the run.
        device: the device of the encoders.

    Raises:
        InputError: before anything is written, if a component or the videos are missing or the output folder contains
            other files; at the end, if no clip can be used.
    """
    torch.set_num_threads(config.num_threads)
    with ExitStack() as lock:
        with errors_on_all():  # what takes no time first
            check_device(config.device)
            check_utf8_path(output, "--output")
            preparation = CorpusPreparation(videos, output, config)
            lock.enter_context(lock_output(output, hold=process_state.is_main_process))
            preparation.check_output()
            encoders = FeatureEncoders.load(config, device)
        records, rejections = preparation.run(process_state, encoders)
    rejected = f"; rejected: {_format_reason_counts(rejections)}, see {REJECTIONS_FILE}" if rejections else ""
    return f"{len(records)} clips in '{output / MANIFEST_FILE}'{rejected}"


def check_device(device: str) -> None:
    """Validates that the encoders can run on a device: auto, cpu or cuda.

    Raises:
        InputError: it is cuda, and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "device is 'cuda', but no CUDA device is available; use device=cpu",
            code=ErrorCode.unsupported,
            field="device",
            value="cuda",
        )


def _features_path(clip: SceneClip) -> Path:
    return Path("features") / clip.name[:2] / f"{clip.name}.safetensors"


def _format_reason_counts(rejections: list[Rejection]) -> str:
    counts = Counter(rejection.reason.value for rejection in rejections)
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def _evenly_spaced(clips: list[SceneClip], count: int) -> list[SceneClip]:
    """Returns at most `count` clips, evenly spaced."""
    step = max(1, -(-len(clips) // count))
    return clips[::step]

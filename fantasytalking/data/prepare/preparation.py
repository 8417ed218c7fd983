"""Prepares a folder of talking videos as a training corpus.

Three stages are distributed over the processes and store one small file per task, so that a run can be resumed
(`fantasytalking.common.resumable_tasks`): every video is probed, every minute of it is scanned for scene cuts, and
every clip of every scene is measured and, if it is within the limits, encoded. The main process then writes
manifest.jsonl, rejected.jsonl, motion_normaliser.json and contact_sheet.png. Other limits can be applied later to what
was measured; only clips that they bring back are prepared again.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fantasytalking.common.agreement import errors_on_all
from fantasytalking.common.config import load_config, save_config
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write_text, check_utf8_path, fingerprint
from fantasytalking.common.locks import lock_output
from fantasytalking.common.resumable_tasks import (
    ProcessState,
    TaskStage,
    begun_fingerprint,
    check_output_folder,
    open_output_folder,
    remove_leases,
)
from fantasytalking.common.text_files import read_json
from fantasytalking.data.features import save_features
from fantasytalking.data.manifest import (
    MANIFEST_FILE,
    REJECTIONS_FILE,
    ClipRecord,
    ClipRejected,
    Rejection,
    RejectionReason,
)
from fantasytalking.data.prepare.clip import prepare_clip
from fantasytalking.data.prepare.clip_limits import first_failure, stored_failure
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.data.prepare.corpus_writer import CONFIG_FILE, CorpusWriter, features_path, format_reason_counts
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


class CorpusPreparation:
    """One run over one folder of videos.

    Args:
        videos: the input folder; None to apply limits to what is stored, without the videos.
        output: the output folder, new or of a run to resume.
        config: the settings.
        refilter: whether the limits may differ from those of the run so far.
        is_main_process: whether this process lists the videos; others read its list in `run`.

    Raises:
        InputError: the input folder contains no video, the file of time ranges is malformed, or no list of the videos
            is stored.
    """

    def __init__(
        self,
        videos: Path | None,
        output: Path,
        config: PreparationConfig,
        *,
        refilter: bool = False,
        is_main_process: bool = True,
    ) -> None:
        self.videos, self.output, self.config, self.refilter = videos, output, config, refilter
        self._encoders: FeatureEncoders | None = None
        self._progress = progress = output / "progress"
        time_ranges = None if config.time_ranges is None else read_time_ranges(config.time_ranges)
        self.time_ranges: Mapping[str, list[TimeRange]] | None = time_ranges
        self.files: list[VideoFile] = []
        if is_main_process:
            self.files = self._stored_files() if videos is None else find_videos(videos, time_ranges)
        self.fingerprint = config.fingerprint()
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
            InputError: it contains other files or another run, or limits differ and this is no refiltering.
        """
        begun = begun_fingerprint(self.output)
        stored = self.output / CONFIG_FILE
        if begun is not None and stored.is_file():
            before = load_config(PreparationConfig, stored)
            if begun == before.fingerprint_with_limits() and before.fingerprint() == self.fingerprint:
                self.fingerprint = begun  # of an earlier release
            if not self.refilter and before.fingerprint() == self.config.fingerprint():
                self._check_limits(before)
        check_output_folder(self.output, self.fingerprint, self._encoder_fingerprints)

    def _check_limits(self, before: PreparationConfig) -> None:
        for name, limit in self.config.limits().items():
            if limit != getattr(before, name):
                raise InputError(
                    f"{name} is {limit}, and output '{self.output}' was prepared with {getattr(before, name)}; add "
                    "--refilter to apply other limits to it",
                    code=ErrorCode.conflict,
                    field=name,
                    value=limit,
                )

    def run(
        self, process_state: ProcessState, encoders: FeatureEncoders | None
    ) -> tuple[list[ClipRecord], list[Rejection]]:
        """Runs or resumes the preparation; to be called on all processes at once.

        Clips are prepared again if their features are damaged or missing, if their caption or speech has changed, or if
        other limits keep them.

        Args:
            process_state: the processes of the run.
            encoders: the frozen encoders; None if `is_prepared`.

        Returns:
            The lines of manifest.jsonl and of rejected.jsonl; empty lists on processes other than the main one.

        Raises:
            InputError: the output folder contains other files or another run, or no clip can be used.
        """
        self._encoders = encoders
        with errors_on_all():
            if process_state.is_main_process:
                open_output_folder(self.output, self.fingerprint, self._encoder_fingerprints)
                save_config(self.config, self.output / CONFIG_FILE)
                atomic_write_text(
                    self._progress / "list.json",
                    json.dumps({"videos": [[file.video, file.size] for file in self.files]}),
                )
        process_state.wait_for_everyone()
        self.files = self.files or self._stored_files()
        self.probe_stage.run(self.files, process_state)
        spans = {file: self._spans(file) for file in self.files}
        self.scan_stage.run([span for found in spans.values() for span in found], process_state)
        clips, rejections = self._planned(spans)
        self.encode_stage.run(clips, process_state)
        if not process_state.is_main_process:
            return [], []
        remove_leases(self._progress)
        return self._write(clips, rejections)

    def apply_limits(self) -> tuple[list[ClipRecord], list[Rejection]]:
        """Writes manifest.jsonl and rejected.jsonl anew by the limits, from what is stored.

        Returns:
            Their lines. Clips that the limits bring back and that have no features are rejected as not prepared.

        Raises:
            InputError: the preparation is not finished, or no clip is within the limits.
        """
        save_config(self.config, self.output / CONFIG_FILE)
        return self._write(*self._planned({file: self._spans(file) for file in self.files}))

    def is_prepared(self) -> bool:
        """Whether every task is done, so that a run computes nothing."""
        if not (self.probe_stage.is_done(self.files) and self._scans_done()):
            return False
        return self.encode_stage.is_done(self._planned({file: self._spans(file) for file in self.files})[0])

    def _scans_done(self) -> bool:
        return self.scan_stage.is_done([span for file in self.files for span in self._spans(file)])

    def _stored_files(self) -> list[VideoFile]:
        """Returns the videos of the last run, whose paths are relative to `videos`."""
        path = self._progress / "list.json"
        if not path.is_file():
            raise InputError(
                f"output '{self.output}' has no list of its videos; give --input, the folder of videos",
                code=ErrorCode.missing_file,
                field="--input",
                value=str(path),
            )
        folder = self.videos or Path()
        return [VideoFile(folder / video, video, size) for video, size in read_json(path)["videos"]]

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

    def _planned(self, spans: dict[VideoFile, list[VideoSpan]]) -> tuple[list[SceneClip], list[Rejection]]:
        planned = [line for file, found in spans.items() for line in self._plan(file, found)]
        clips = [line for line in planned if isinstance(line, SceneClip)]
        return clips, [line for line in planned if isinstance(line, Rejection)]

    def _plan(self, file: VideoFile, spans: list[VideoSpan]) -> list[SceneClip | Rejection]:
        probed = self.probe_stage.result(file)
        if "reason" in probed:
            return [Rejection(file.video, 0.0, RejectionReason(probed["reason"]), probed["detail"])]
        scans = [SpanScan(**self.scan_stage.result(span)) for span in spans]
        return list(plan_video(file, scans, time_ranges_for(file, self.time_ranges), self.config))

    def _encode(self, clip: SceneClip) -> dict[str, Any]:
        """Measures a clip and, if it is within the limits, encodes it; the features are written before the result."""
        assert self._encoders is not None
        companions = companions_mark(clip, self.config.conditions)
        measured: Mapping[str, float] = {}
        try:
            prepared = prepare_clip(clip, self.config, self._encoders.syncnet)
            measured = prepared.measures
            features = self._encoders.encode(prepared)
        except ClipRejected as rejected:
            measured = measured or rejected.measured
            # What a limit decides is decided anew by each run.
            reason = {} if first_failure(measured, self.config) else _stored_reason(rejected)
            return {**measured, **reason, COMPANIONS_KEY: companions}
        path = self.output / features_path(clip)
        save_features(features, path, self.fingerprint)
        height, width = prepared.frames.shape[1:3]
        return {
            "width": width,
            "height": height,
            "face_size": round(prepared.face_size, 3),
            "expression_measure": prepared.expression_measure,
            "body_measure": prepared.body_measure,
            **measured,
            **prepared.hashes,
            FEATURE_FILE_KEY: feature_file_mark(path),
            COMPANIONS_KEY: companions,
        }

    def _result_holds(self, clip: SceneClip, result: dict[str, Any]) -> bool:
        features = self.output / features_path(clip)
        path, conditions = self.encode_stage.result_path(clip), self.config.conditions
        return result_holds(clip, result, path, features, conditions, kept=stored_failure(result, self.config) is None)

    def _write(self, clips: list[SceneClip], rejections: list[Rejection]) -> tuple[list[ClipRecord], list[Rejection]]:
        results = [(clip, self.encode_stage.result(clip)) for clip in clips]
        writer = CorpusWriter(self.output, self.config, self.encode_stage.result_path)
        return writer.write(results, rejections, draw_clips=self.videos is not None)


def prepare_corpus(
    videos: Path,
    output: Path,
    config: PreparationConfig,
    process_state: ProcessState,
    device: torch.device,
    *,
    refilter: bool = False,
) -> str:
    """Prepares the videos below a folder and returns a one-line summary; the entry point for scripts.

    Args:
        videos: the input folder.
        output: the output folder, new or of a run to resume.
        config: the settings.
        process_state: the processes of the run.
        device: the device of the encoders.
        refilter: whether the limits may differ from those of the run so far.

    Raises:
        InputError: before anything is written, if a component or the videos are missing or the output folder contains
            other files; at the end, if no clip can be used.
    """
    torch.set_num_threads(config.num_threads)
    with ExitStack() as lock:
        with errors_on_all():  # what takes no time first
            check_device(config.device)
            check_utf8_path(output, "--output")
            is_main = process_state.is_main_process
            preparation = CorpusPreparation(videos, output, config, refilter=refilter, is_main_process=is_main)
            lock.enter_context(lock_output(output, hold=is_main))
            preparation.check_output()
            prepared = refilter and is_main and process_state.num_processes == 1 and preparation.is_prepared()
            encoders = None if prepared else FeatureEncoders.load(config, device)
        return _summary(output, *preparation.run(process_state, encoders))


def refilter_corpus(output: Path, config: PreparationConfig) -> str:
    """Applies limits to a prepared corpus without its videos and returns a one-line summary.

    Args:
        output: the folder of the corpus.
        config: its settings, with other limits.

    Raises:
        InputError: it is no finished corpus of these settings, or no clip is within the limits.
    """
    check_utf8_path(output, "--output")
    with ExitStack() as lock:
        preparation = CorpusPreparation(None, output, config, refilter=True)
        lock.enter_context(lock_output(output))
        preparation.check_output()
        return _summary(output, *preparation.apply_limits())


def _summary(output: Path, records: list[ClipRecord], rejections: list[Rejection]) -> str:
    rejected = f"; rejected: {format_reason_counts(rejections)}, see {REJECTIONS_FILE}" if rejections else ""
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


def _stored_reason(rejected: ClipRejected) -> dict[str, str]:
    return {"reason": rejected.reason.value, "detail": rejected.detail}

"""Other limits are applied to what was measured; only clips that they bring back are prepared."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from fantasytalking.cli import run
from fantasytalking.common.errors import ErrorCode
from fantasytalking.data.manifest import ClipRecord, ClipRejected, RejectionReason, read_manifest, read_rejections
from fantasytalking.data.prepare.clip import prepare_clip
from fantasytalking.data.prepare.clip_limits import FILTERS, LIMIT_RANGES, Applies, ClipLimits, first_failure
from fantasytalking.data.prepare.config import LIMIT_NAMES, PreparationConfig
from fantasytalking.data.prepare.corpus_writer import MEASURE_NAMES
from fantasytalking.data.prepare.plan import SceneClip, VideoFile
from fantasytalking.perception.syncnet.syncnet_model import SyncNet
from tests.data.preparation_runs import file_hashes, run_in_process, small_config
from tests.helpers.errors import raises_input_error


@dataclass
class Corpora:
    """The same videos, prepared with limits that keep all clips, and with one that rejects the softest."""

    videos: Path
    all_kept: Path
    one_rejected: Path
    limit: str
    """The setting that rejects it."""
    records: list[ClipRecord]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory, good: Path, components: Path) -> Corpora:
    folder, config = tmp_path_factory.mktemp("limits"), small_config(components, contact_sheet_clips=0)
    records, _ = run_in_process(good, folder / "all", config)
    levels = sorted(record.loudness_db or 0.0 for record in records)
    limit = round((levels[0] + levels[1]) / 2, 3)
    run_in_process(good, folder / "one", replace(config, min_loudness_db=limit))
    return Corpora(good, folder / "all", folder / "one", f"min_loudness_db={limit}", records)


def features(folder: Path) -> dict[str, str]:
    return file_hashes(folder / "features")


def test_a_limit_is_applied_without_the_videos(corpora: Corpora, tmp_path: Path) -> None:
    corpus = shutil.copytree(corpora.all_kept, tmp_path / "corpus")
    run(["prepare", "--refilter", "--output", str(corpus), corpora.limit])
    (rejected,) = read_rejections(corpus / "rejected.jsonl")
    assert rejected.reason is RejectionReason.SILENT and rejected.measured["people"] == 1
    assert rejected.measured.keys() - {"people"} == MEASURE_NAMES & rejected.measured.keys()
    assert rejected.measured["face_yaw"] > 0
    kept = read_manifest(corpus / "manifest.jsonl")
    assert [record.clip for record in kept] == [
        record.clip for record in corpora.records if (record.video, record.start) != (rejected.video, rejected.start)
    ]
    fresh = read_rejections(corpora.one_rejected / "rejected.jsonl")
    assert [(line.video, line.start, line.reason, line.detail) for line in fresh] == [
        (rejected.video, rejected.start, rejected.reason, rejected.detail)
    ]
    assert (corpus / "manifest.jsonl").read_bytes() == (corpora.one_rejected / "manifest.jsonl").read_bytes()
    assert features(corpus) == features(corpora.all_kept), "features of rejected clips are kept"
    run(["prepare", "--refilter", "--output", str(corpus), "min_loudness_db=-50"])
    assert file_hashes(corpus) == file_hashes(corpora.all_kept)


def test_limits_change_only_when_asked(corpora: Corpora) -> None:
    before = file_hashes(corpora.all_kept)
    with raises_input_error(ErrorCode.conflict, "min_loudness_db"):
        run_in_process(
            corpora.videos,
            corpora.all_kept,
            small_config(Path(base_of(corpora.all_kept)), contact_sheet_clips=0, min_loudness_db=-20.0),
            check=True,
        )
    with raises_input_error(ErrorCode.output_exists, "output"):
        run(["prepare", "--refilter", "--output", str(corpora.all_kept), "frames=21"])
    assert file_hashes(corpora.all_kept) == before


def base_of(corpus: Path) -> str:
    from fantasytalking.common.config import load_config

    return load_config(PreparationConfig, corpus / "data.yaml").base


def test_a_clip_that_comes_back_is_prepared_and_no_other(corpora: Corpora, tmp_path: Path) -> None:
    corpus = shutil.copytree(corpora.one_rejected, tmp_path / "corpus")
    first = {path: path.stat().st_mtime_ns for path in corpus.rglob("*.safetensors")}
    assert len(first) == 2
    run(["prepare", "--refilter", "--output", str(corpus), "min_loudness_db=-50"])
    (waiting,) = read_rejections(corpus / "rejected.jsonl")
    assert waiting.reason is RejectionReason.NOT_PREPARED
    run(["prepare", "--refilter", "--input", str(corpora.videos), "--output", str(corpus), "min_loudness_db=-50"])
    assert file_hashes(corpus) == file_hashes(corpora.all_kept)
    assert {path: path.stat().st_mtime_ns for path in first} == first


def test_nothing_is_loaded_where_nothing_comes_back(corpora: Corpora, tmp_path: Path) -> None:
    corpus = shutil.copytree(corpora.all_kept, tmp_path / "corpus")
    settings = corpus / "data.yaml"
    settings.write_text(settings.read_text().replace(base_of(corpus), "nowhere"))
    for path in corpus.glob("progress/*.json"):
        if path.name == "settings.json":
            config = PreparationConfig(base="nowhere", **small_settings())
            path.write_text(json.dumps({"fingerprint": config.fingerprint()}))
    run(["prepare", "--refilter", "--input", str(corpora.videos), "--output", str(corpus), corpora.limit])
    assert len(read_manifest(corpus / "manifest.jsonl")) == 2


def small_settings() -> dict:
    return {"fps": 25.0, "frames": 17, "clip_stride": 1000, "buckets": ["64x64"], "contact_sheet_clips": 0}


def test_a_corpus_of_an_earlier_release_with_its_own_limits_is_resumed(corpora: Corpora, tmp_path: Path) -> None:
    corpus = shutil.copytree(corpora.one_rejected, tmp_path / "corpus")
    config = small_config(
        Path(base_of(corpus)), contact_sheet_clips=0, min_loudness_db=float(corpora.limit.partition("=")[2])
    )
    mark = corpus / "progress" / "settings.json"
    mark.write_text(json.dumps({"fingerprint": config.fingerprint_with_limits()}))
    assert config.fingerprint_with_limits() != config.fingerprint()
    run_in_process(corpora.videos, corpus, config, check=True)
    assert file_hashes(corpus / "features") == features(corpora.one_rejected)


def test_syncnet_measures_and_rejects_where_its_weights_are_given(corpora: Corpora) -> None:
    torch.manual_seed(0)
    network = SyncNet().eval().requires_grad_(False)
    path = corpora.videos / "talk.mp4"
    clip = SceneClip(VideoFile(path, path.name, path.stat().st_size), 0.0, None)
    config = small_config(Path(base_of(corpora.all_kept)), min_sync_confidence=0.0, max_sync_offset=15.0)
    prepared = prepare_clip(clip, config, network)
    assert prepared.measures["sync_confidence"] >= 0 and -15 <= prepared.measures["sync_offset"] <= 15
    with pytest.raises(ClipRejected) as refused:
        prepare_clip(clip, replace(config, min_sync_confidence=100.0), network)
    assert refused.value.reason is RejectionReason.OUT_OF_SYNC
    given = replace(config, syncnet="syncnet_v2.model")
    assert given.fingerprint() != config.fingerprint()


def test_every_filter_is_a_limit_of_a_measured_value() -> None:
    assert {each.measure for each in FILTERS} <= MEASURE_NAMES
    assert {each.setting for each in FILTERS} == set(LIMIT_RANGES) - {"min_duplicate_distance"}
    assert set(LIMIT_RANGES) == set(LIMIT_NAMES) - {"filter_people"}
    limits = ClipLimits(filter_people=True)
    for each in FILTERS:
        limit, worse = getattr(limits, each.setting), 1e-3 * (-1 if each.setting.startswith("min_") else 1)
        people = 1 if each.applies is Applies.FACES else 2
        assert each.keeps({each.measure: limit, "people": people}, limits)
        beyond = {each.measure: limit + worse, "people": people}
        assert not each.keeps(beyond, limits)
        failed = first_failure(beyond, limits)
        assert failed is not None and "{" not in failed[1]
    assert first_failure({}, limits) is None


def test_only_a_prepared_corpus_gets_other_limits(tmp_path: Path) -> None:
    with raises_input_error(ErrorCode.missing_file, "--output", str(tmp_path)):
        run(["prepare", "--refilter", "--output", str(tmp_path)])

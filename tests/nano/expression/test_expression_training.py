"""The expression encoder of nano and the reader that judges by expressions: both learn what faces do."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fantasytalking.common.errors import InputError
from fantasytalking.encoders.expression import ExpressionEncoder, ExpressionEncoderConfig
from fantasytalking.nano.config import ExpressionConfig, FitConfig
from fantasytalking.nano.expression.expression_samples import ExpressionSamples, collect_expressions, load_expressions
from fantasytalking.nano.expression.expression_training import STAND, ExpressionTask, encode_samples, measure_encoder
from fantasytalking.nano.expression.linear_probe import correlations, fit_linear, identity_accuracy
from fantasytalking.nano.expression.reader_fitting import fit_reader, measure_reader
from fantasytalking.nano.trainers.component_trainer import fit
from fantasytalking.perception.expression_reader import NAMES, ExpressionReader

CPU = torch.device("cpu")
POSES = 9


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("expressions")
    assert list(collect_expressions(range(6), POSES, 96, folder, 0, 1, 1.2)) == list(range(7))
    return folder


@pytest.fixture(scope="module")
def samples(drawn: Path) -> ExpressionSamples:
    return load_expressions(range(4), drawn)


@pytest.fixture(scope="module")
def others(drawn: Path) -> ExpressionSamples:
    return load_expressions(range(4, 6), drawn)


def config(steps: int = 40) -> ExpressionConfig:
    run = FitConfig(steps=steps, batch=16, learning_rate=0.003, warm_up=2)
    return ExpressionConfig(network=ExpressionEncoderConfig(channels=[8, 16, 16, 16], hidden=16), fit=run)


def test_pairs_of_people_make_the_same_faces(samples: ExpressionSamples) -> None:
    assert samples.pictures.shape[1:] == (96, 96, 3) and samples.truths.shape[1] == len(NAMES)
    assert len(samples.people) > 0.8 * 4 * POSES
    for pose in np.unique(samples.poses):
        same = samples.poses == pose
        assert (samples.truths[same] == samples.truths[same][0]).all()
    assert set(samples.people[samples.poses < POSES].tolist()) == {0, 1}
    assert (samples.truths[samples.rests] == 0).all() and (samples.people[samples.rests] == samples.people).all()
    opening = samples.landmarks[:, 14, 1] - samples.landmarks[:, 13, 1]
    assert np.corrcoef(opening, samples.truths[:, NAMES.index("mouth_open")])[0, 1] > 0.6, "truths are of the pictures"


def test_training_learns_and_goes_on_where_it_stopped(samples: ExpressionSamples, tmp_path: Path) -> None:
    whole = ExpressionTask(config(), samples, 0, CPU)
    report = fit(whole, config().fit, tmp_path / "whole", CPU, 0)
    assert report.last_loss < 0.85 * report.first_loss
    again = ExpressionTask(config(), samples, 0, CPU)
    assert fit(again, config().fit, tmp_path / "whole", CPU, 0).steps == 40
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))


def test_standardised_features_say_the_same(samples: ExpressionSamples) -> None:
    task = ExpressionTask(config(), samples, 0, CPU)
    encoder = ExpressionEncoder(task.network)
    before = task.read(encode_samples(encoder, samples))
    task.standardise()
    features = encode_samples(encoder, samples)
    assert np.allclose(task.read(features), before, atol=1e-3)
    assert (features.mean(dim=0) - STAND).abs().max() < 1e-3
    sizes = [part.std(dim=0).square().mean().item() for part in features.split(encoder.dims, dim=1)]
    assert sizes == pytest.approx([1, 1, 1, 1], abs=1e-2)


def test_measures_are_of_every_truth_and_of_identity(samples: ExpressionSamples, others: ExpressionSamples) -> None:
    task = ExpressionTask(config(), samples, 0, CPU)
    found = measure_encoder(ExpressionEncoder(task.network), task, others)
    assert found.keys() == {*NAMES, "identity_accuracy", "identity_of_crops", "identity_chance"}
    assert found["identity_chance"] == 0.5 and found["identity_of_crops"] > 0.8
    varied = others.truths.std(axis=0) > 0
    assert [bool(np.isfinite(found[name])) for name in NAMES] == varied.tolist()


def test_the_reader_reads_people_it_was_not_fitted_to(samples: ExpressionSamples, others: ExpressionSamples) -> None:
    found = measure_reader(fit_reader(samples), others)
    assert found.keys() == set(NAMES)
    assert found["yaw"] > 0.8 and found["mouth_open"] > 0.7 and found["smile"] > 0.4


def test_the_reader_reads_a_video_from_its_first_face_on(samples: ExpressionSamples, tmp_path: Path) -> None:
    fit_reader(samples).save(tmp_path / "reader.safetensors")
    reader = ExpressionReader.load(tmp_path / "reader.safetensors")
    own = samples.people == 1
    video = np.concatenate([np.full((1, 478, 3), np.nan), samples.landmarks[own]])
    found = reader.read(video)
    assert found.shape == (len(video), len(NAMES)) and np.isnan(found[0]).all() and np.isfinite(found[1:]).all()
    assert correlations(found[1:], samples.truths[own], NAMES)["yaw"] > 0.8
    moved = video + np.array([30.0, 10.0, 0.0])
    assert np.allclose(reader.read(2 * moved)[1:, :5], found[1:, :5], atol=0.02), "wherever and however large"
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a readable safetensors"):
        ExpressionReader.load(tmp_path / "other.safetensors")


def test_probes_find_what_is_there_and_nothing_else() -> None:
    random = np.random.default_rng(0)
    people, poses = np.repeat(np.arange(10), 40), np.tile(np.arange(40), 10)
    names = random.normal(size=(10, 12))[people]
    noise = random.normal(size=(400, 12))
    assert identity_accuracy(names + 0.3 * noise, people, poses) > 0.95
    assert identity_accuracy(noise, people, poses) < 0.2
    weights = random.normal(size=(12, 2))
    found = fit_linear(noise[:200], noise[:200] @ weights + 3, 1e-6)(noise[200:])
    assert np.allclose(found, noise[200:] @ weights + 3, atol=1e-3)
    assert correlations(found, -noise[200:] @ weights, ("a", "b")) == pytest.approx({"a": -1, "b": -1})

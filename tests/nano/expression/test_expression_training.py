"""Tests of the training of the expression encoder and the fitting of the expression reader."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fantasytalking.common.errors import InputError
from fantasytalking.encoders.expression import ExpressionEncoder, ExpressionEncoderConfig
from fantasytalking.evaluation.features.expression_reader import EXPRESSION_PARAMETERS, ExpressionReader
from fantasytalking.nano.expression.expression_samples import (
    ExpressionSamples,
    load_expression_samples,
    render_expression_samples,
)
from fantasytalking.nano.expression.expression_training import (
    FEATURE_MEAN,
    ExpressionEncoderTask,
    encode_samples,
    evaluate_expression_encoder,
)
from fantasytalking.nano.expression.linear_probe import column_correlations, fit_ridge, identity_accuracy
from fantasytalking.nano.expression.reader_fitting import evaluate_expression_reader, fit_reader_weights
from fantasytalking.nano.trainers.component_trainer import train_component
from fantasytalking.nano.trainers.config import ComponentTrainingConfig, ExpressionEncoderTraining

CPU = torch.device("cpu")
POSES = 9


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("expressions")
    assert list(render_expression_samples(range(6), POSES, 96, folder, 0, 1, 1.2)) == list(range(7))
    return folder


@pytest.fixture(scope="module")
def samples(drawn: Path) -> ExpressionSamples:
    return load_expression_samples(range(4), drawn)


@pytest.fixture(scope="module")
def others(drawn: Path) -> ExpressionSamples:
    return load_expression_samples(range(4, 6), drawn)


def config(steps: int = 40) -> ExpressionEncoderTraining:
    run = ComponentTrainingConfig(steps=steps, batch_size=16, learning_rate=0.003, warmup_steps=2)
    return ExpressionEncoderTraining(network=ExpressionEncoderConfig(channels=[8, 16, 16, 16], hidden=16), fit=run)


def test_pairs_of_people_have_the_same_expressions(samples: ExpressionSamples) -> None:
    assert samples.images.shape[1:] == (96, 96, 3) and samples.targets.shape[1] == len(EXPRESSION_PARAMETERS)
    assert len(samples.identities) > 0.8 * 4 * POSES
    for pose in np.unique(samples.pose_ids):
        same = samples.pose_ids == pose
        assert (samples.targets[same] == samples.targets[same][0]).all()
    assert set(samples.identities[samples.pose_ids < POSES].tolist()) == {0, 1}
    assert (samples.targets[samples.rest_indices] == 0).all() and (
        samples.identities[samples.rest_indices] == samples.identities
    ).all()
    opening = samples.landmarks[:, 14, 1] - samples.landmarks[:, 13, 1]
    assert np.corrcoef(opening, samples.targets[:, EXPRESSION_PARAMETERS.index("mouth_open")])[0, 1] > 0.6, (
        "truths are of the pictures"
    )


def test_training_lowers_the_loss_and_resumes(samples: ExpressionSamples, tmp_path: Path) -> None:
    whole = ExpressionEncoderTask(config(), samples, 0, CPU)
    report = train_component(whole, config().fit, tmp_path / "whole", CPU, 0)
    assert report.last_loss < 0.85 * report.first_loss
    again = ExpressionEncoderTask(config(), samples, 0, CPU)
    assert train_component(again, config().fit, tmp_path / "whole", CPU, 0).steps == 40
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))


def test_standardized_features_give_the_same_predictions(samples: ExpressionSamples) -> None:
    task = ExpressionEncoderTask(config(), samples, 0, CPU)
    encoder = ExpressionEncoder(task.network)
    before = task.predict(encode_samples(encoder, samples))
    task.standardize_features()
    features = encode_samples(encoder, samples)
    assert np.allclose(task.predict(features), before, atol=1e-3)
    assert (features.mean(dim=0) - FEATURE_MEAN).abs().max() < 1e-3
    sizes = [part.std(dim=0).square().mean().item() for part in features.split(encoder.dims, dim=1)]
    assert sizes == pytest.approx([1, 1, 1, 1], abs=1e-2)


def test_evaluation_covers_every_parameter_and_identity(samples: ExpressionSamples, others: ExpressionSamples) -> None:
    task = ExpressionEncoderTask(config(), samples, 0, CPU)
    found = evaluate_expression_encoder(ExpressionEncoder(task.network), task, others)
    assert found.keys() == {*EXPRESSION_PARAMETERS, "identity_accuracy", "identity_of_crops", "identity_chance"}
    assert found["identity_chance"] == 0.5 and found["identity_of_crops"] > 0.8
    varied = others.targets.std(axis=0) > 0
    assert [bool(np.isfinite(found[name])) for name in EXPRESSION_PARAMETERS] == varied.tolist()


def test_the_reader_generalizes_to_other_people(samples: ExpressionSamples, others: ExpressionSamples) -> None:
    found = evaluate_expression_reader(fit_reader_weights(samples), others)
    assert found.keys() == set(EXPRESSION_PARAMETERS)
    assert found["yaw"] > 0.8 and found["mouth_open"] > 0.7 and found["smile"] > 0.4


def test_the_reader_reads_a_video_relative_to_its_first_face(samples: ExpressionSamples, tmp_path: Path) -> None:
    fit_reader_weights(samples).save(tmp_path / "reader.safetensors")
    reader = ExpressionReader.load(tmp_path / "reader.safetensors")
    own = samples.identities == 1
    video = np.concatenate([np.full((1, 478, 3), np.nan), samples.landmarks[own]])
    found = reader.read(video)
    assert (
        found.shape == (len(video), len(EXPRESSION_PARAMETERS))
        and np.isnan(found[0]).all()
        and np.isfinite(found[1:]).all()
    )
    assert column_correlations(found[1:], samples.targets[own], EXPRESSION_PARAMETERS)["yaw"] > 0.8
    moved = video + np.array([30.0, 10.0, 0.0])
    assert np.allclose(reader.read(2 * moved)[1:, :5], found[1:, :5], atol=0.02), "wherever and however large"
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a readable safetensors"):
        ExpressionReader.load(tmp_path / "other.safetensors")


def test_probes_find_identity_only_where_it_is_encoded() -> None:
    random = np.random.default_rng(0)
    people, poses = np.repeat(np.arange(10), 40), np.tile(np.arange(40), 10)
    names = random.normal(size=(10, 12))[people]
    noise = random.normal(size=(400, 12))
    assert identity_accuracy(names + 0.3 * noise, people, poses) > 0.95
    assert identity_accuracy(noise, people, poses) < 0.2
    weights = random.normal(size=(12, 2))
    found = fit_ridge(noise[:200], noise[:200] @ weights + 3, 1e-6)(noise[200:])
    assert np.allclose(found, noise[200:] @ weights + 3, atol=1e-3)
    assert column_correlations(found, -noise[200:] @ weights, ("a", "b")) == pytest.approx({"a": -1, "b": -1})

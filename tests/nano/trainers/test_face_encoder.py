"""Tests of the face encoder's training and its export for insightface."""

from pathlib import Path

import numpy as np
import pytest
import torch
from insightface.model_zoo import get_model

from fantasytalking.encoders.arcface import FaceEncoder
from fantasytalking.nano.corpora.portrait_images import PortraitImages
from fantasytalking.nano.trainers.component_trainer import train_component
from fantasytalking.nano.trainers.config import ComponentTrainingConfig, FaceEncoderTraining
from fantasytalking.nano.trainers.face_encoder import (
    FaceEncoderTask,
    FaceNetwork,
    augment_face,
    export_face_network,
    to_network_input,
    verification_accuracy,
)
from tests.helpers.paths import ROOT

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[FaceNetwork, Path]:
    torch.manual_seed(0)
    network = FaceNetwork([8, 8, 8, 8]).eval()
    path = tmp_path_factory.mktemp("face") / "nano.onnx"
    export_face_network(network, path)
    return network, path


def test_portrait_images_are_aligned_as_for_arcface(stills: PortraitImages) -> None:
    assert stills.faces.shape[1:] == (112, 112, 3) and stills.images.shape[1:] == (96, 96, 3)
    assert list(stills.unique_identities) == [0, 1, 2] and len(stills.identities) >= 9
    # An aligned face fills the middle: it differs more from person to person than its corners do from each other.
    assert stills.faces[:, 30:90, 30:80].std() > 10


def test_training_separates_identities(stills: PortraitImages, tmp_path: Path) -> None:
    run = ComponentTrainingConfig(steps=30, batch_size=8, learning_rate=0.003, warmup_steps=2)
    config = FaceEncoderTraining(channels=[8, 8, 16, 16], scale=16.0, margin=0.1, fit=run)
    report = train_component(FaceEncoderTask(config, stills, 0, CPU), run, tmp_path, CPU, 0)
    assert report.last_loss < 0.7 * report.first_loss


def test_the_file_has_no_source_locations(exported: tuple[FaceNetwork, Path]) -> None:
    content = exported[1].read_bytes()
    assert b".py" not in content and str(ROOT).encode() not in content


def test_insightface_loads_it_as_a_recognition_model(
    exported: tuple[FaceNetwork, Path], stills: PortraitImages
) -> None:
    network, path = exported
    model = get_model(str(path), providers=["CPUExecutionProvider"])
    assert model.taskname == "recognition" and (model.input_mean, model.input_std) == (127.5, 127.5)
    encoder = FaceEncoder.from_pretrained(path)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(network(to_network_input(torch.from_numpy(stills.faces[:2])))).numpy()
    for number in range(2):
        assert np.allclose(encoder.encode_aligned(stills.faces[number]), expected[number], atol=2e-5)


def test_augmentation_keeps_the_face(stills: PortraitImages) -> None:
    random = np.random.default_rng(0)
    face = stills.faces[0]
    others = [augment_face(face, random) for _ in range(5)]
    assert all(other.shape == face.shape and other.dtype == np.uint8 for other in others)
    alike = [np.corrcoef(face.ravel(), other.ravel())[0, 1] for other in others]
    assert min(alike) > 0.7 and max(alike) < 1


def test_verification_is_accurate_for_distinct_identities(exported: tuple[FaceNetwork, Path]) -> None:
    plain = np.zeros((6, 112, 112, 3), np.uint8)
    plain[2:4, :56], plain[4:, :, :56] = 255, 255
    people = PortraitImages(plain, plain, np.array([0, 0, 1, 1, 2, 2]))
    found = verification_accuracy(FaceEncoder.from_pretrained(exported[1]), people, seed=0, num_pairs=200)
    assert found["accuracy"] == 1 and found["cosine_same"] > found["cosine_other"] and found["people"] == 3

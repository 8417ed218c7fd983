"""Tests that MediaPipe detects people of the portrait world and measures their mouths."""

import numpy as np
import pytest

from fantasytalking.portrait_world.corpus.rendered_clip import (
    ClipPlan,
    PortraitRenderer,
    clip_ground_truth,
    perform_plan,
)
from fantasytalking.portrait_world.people.identity import make_identity

UPPER_LIP, LOWER_LIP, LEFT_EYE, RIGHT_EYE = 13, 14, (33, 133), (263, 362)


def tracked(plan: ClipPlan, size: int, enlarge: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns measured and true mouth openings (T,) of a clip; measured ones are NaN where no face is detected."""
    import cv2
    import mediapipe

    renderer = PortraitRenderer(make_identity(plan.identity), size)
    performance = perform_plan(renderer.identity, plan)
    known = np.array([frame["mouth_open"] for frame in clip_ground_truth(renderer, plan, performance)["frames"]])
    measured = []
    options = {"static_image_mode": False, "max_num_faces": 1, "refine_landmarks": True}
    with mediapipe.solutions.face_mesh.FaceMesh(**options) as mesh:
        for frame in renderer.frames(performance.animation):
            large = cv2.resize(frame, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC)
            faces = mesh.process(large).multi_face_landmarks
            measured.append(opening(faces[0]) if faces else np.nan)
    return np.array(measured), known


def opening(face: object) -> float:
    """Returns the gap between the inner lips relative to the distance between the eyes."""
    points = np.array([(point.x, point.y) for point in face.landmark])  # type: ignore[attr-defined]
    eyes = points[list(LEFT_EYE)].mean(0) - points[list(RIGHT_EYE)].mean(0)
    return float(np.linalg.norm(points[UPPER_LIP] - points[LOWER_LIP]) / np.linalg.norm(eyes))


def test_a_face_is_detected_and_its_mouth_measured() -> None:
    measured, known = tracked(ClipPlan(2, 0, "Both maps were blue.", 0, expression=0.6, body=0.4), 128, 2)
    assert np.isfinite(measured).mean() >= 0.99
    found = np.isfinite(measured)
    assert np.corrcoef(measured[found], known[found])[0, 1] > 0.92


@pytest.mark.slow
@pytest.mark.parametrize(("size", "enlarge", "min_fraction"), [(96, 3, 0.95), (128, 2, 0.99), (256, 1, 0.99)])
def test_many_faces_are_detected_at_every_size(size: int, enlarge: int, min_fraction: float) -> None:
    text = "We saved the best piece of cake for you."
    clips = [tracked(ClipPlan(number, 0, text, 0), size, enlarge) for number in range(1000, 1006)]
    assert np.isfinite(np.concatenate([measured for measured, _ in clips])).mean() >= min_fraction
    parts = []
    for measured, known in clips:
        found = np.isfinite(measured)
        parts.append((measured[found] - measured[found].mean(), known[found] - known[found].mean()))
    measured, known = (np.concatenate(values) for values in zip(*parts, strict=True))
    assert np.corrcoef(measured, known)[0, 1] > 0.93

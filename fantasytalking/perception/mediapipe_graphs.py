"""MediaPipe's face, pose and silhouette models, made without its chatter, and their results as arrays.

The models travel inside the mediapipe 0.10.21 wheel; nothing is downloaded. Import of mediapipe happens on first use.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

NUM_FACE_LANDMARKS = 478
"""Points of the face mesh with irises."""

NUM_BODY_JOINTS = 33
"""Joints of the pose model."""

_stderr_lock = threading.Lock()
_face_mesh_warned = False

# A serialised landmark is 17 bytes: list tag and length, then a tag and a little-endian float for each of x, y, z.
_LANDMARK_DTYPE = np.dtype(
    [("head", "V2"), ("tag_x", "V1"), ("x", "<f4"), ("tag_y", "V1"), ("y", "<f4"), ("tag_z", "V1"), ("z", "<f4")]
)


@contextmanager
def suppress_stderr() -> Iterator[None]:
    """Sends the process's stderr to nowhere for a moment: the C++ log of 0.10.21 obeys no setting and no variable."""
    with _stderr_lock:
        sys.stderr.flush()
        kept = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def _warm_up(solution: Any) -> Any:
    """Runs a new graph once on a black picture: it logs on its first input."""
    solution.process(np.zeros((64, 64, 3), np.uint8))
    return solution


def create_face_mesh(*, static: bool = False, max_faces: int = 1) -> Any:
    """A FaceMesh graph with irises (478 points); with `static` every picture is searched afresh."""
    with suppress_stderr():
        from mediapipe.python.solutions.face_mesh import FaceMesh

        return _warm_up(FaceMesh(static_image_mode=static, max_num_faces=max_faces, refine_landmarks=True))


def reset_graph(solution: Any) -> None:
    """Makes a tracking graph forget where it saw the face; about 4 ms."""
    with suppress_stderr():
        solution.reset()
        _warm_up(solution)


def create_face_detection(*, full_range: bool, min_confidence: float = 0.5) -> Any:
    """A FaceDetection graph: short range for faces that fill the picture, full range for small ones."""
    with suppress_stderr():
        from mediapipe.python.solutions.face_detection import FaceDetection

        return _warm_up(FaceDetection(min_confidence, model_selection=int(full_range)))


def create_body_pose() -> Any:
    """A Pose graph of complexity 1, the only one in the wheel, without its smoothing over frames."""
    with suppress_stderr():
        from mediapipe.python.solutions.pose import Pose

        return _warm_up(Pose(model_complexity=1, smooth_landmarks=False))


def create_selfie_segmentation() -> Any:
    """A SelfieSegmentation graph with the general (256x256) model."""
    with suppress_stderr():
        from mediapipe.python.solutions.selfie_segmentation import SelfieSegmentation

        return _warm_up(SelfieSegmentation(model_selection=0))


def run_face_mesh(mesh: Any, image: np.ndarray) -> list[np.ndarray]:
    """Runs FaceMesh on a square (S, S, 3) uint8 RGB picture (it misplaces tilted faces in others).

    Returns:
        for every face (478, 3) float32: x and y as shares of the side, z in units of the side.
    """
    global _face_mesh_warned
    assert image.shape[0] == image.shape[1]
    if _face_mesh_warned:
        results = mesh.process(image).multi_face_landmarks
    else:  # a warning comes with the first face of a process
        with suppress_stderr():
            results = mesh.process(image).multi_face_landmarks
        _face_mesh_warned = bool(results)
    return [_landmarks_from_proto(result) for result in results or ()]


def _landmarks_from_proto(landmark_list: Any) -> np.ndarray:
    """Reads a message in its serialised form: ten times faster than point by point."""
    wire = landmark_list.SerializeToString()
    assert len(wire) == NUM_FACE_LANDMARKS * _LANDMARK_DTYPE.itemsize, (
        "the face mesh of this mediapipe has another layout"
    )
    points = np.frombuffer(wire, _LANDMARK_DTYPE)
    return np.stack([points["x"], points["y"], points["z"]], axis=-1)

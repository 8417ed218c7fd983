"""Face tracking: every frame, small faces, lost faces, cuts, and no mixed-up people."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from fantasytalking.common.errors import ErrorCode
from fantasytalking.media import iter_frames, read_image, read_video
from fantasytalking.perception.face_track import FaceTrack, detect_faces, track_faces
from fantasytalking.perception.landmark_measures import eye_opening, mouth_opening, mouth_width
from tests.helpers.errors import raises_input_error
from tests.perception.conftest import COUNT, FPS, SIZE, DrawnScene

TIMES = np.arange(200) / FPS


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.concatenate([left, right], axis=2)


def centers(track: FaceTrack) -> np.ndarray:
    return track.boxes[:, [0, 2]].mean(axis=1)


def test_every_frame_is_found_and_the_mouth_is_measured(talker: DrawnScene, track: FaceTrack) -> None:
    assert track.present.all() and not track.interpolated.any()
    assert track.landmarks.shape == (COUNT, 478, 3) and track.landmarks.dtype == np.float32
    assert track.confidence.min() > 0.8
    assert np.corrcoef(mouth_opening(track.landmarks), talker.mouth)[0, 1] > 0.95
    boxes = track.boxes
    assert (boxes[:, :2] > 0).all() and (boxes[:, 2:] < SIZE).all()
    assert 0.15 * SIZE < track.interocular.mean() < 0.35 * SIZE


def test_size_does_not_change_what_is_measured(talker: DrawnScene, track: FaceTrack) -> None:
    small = np.stack([cv2.resize(frame, (96, 96), interpolation=cv2.INTER_AREA) for frame in talker.frames])
    (found,) = track_faces(small, talker.times)
    assert found.present.mean() >= 0.95
    assert np.corrcoef(mouth_opening(found.landmarks), mouth_opening(track.landmarks))[0, 1] > 0.95
    assert found.interocular.mean() / 96 == pytest.approx(track.interocular.mean() / SIZE, rel=0.05)


def test_a_small_face_in_a_large_frame_is_found(talker: DrawnScene) -> None:
    frames = np.full((10, 480, 640, 3), 90, np.uint8)
    for frame, picture in zip(frames, talker.frames[:10], strict=True):
        frame[300:396, 500:596] = cv2.resize(picture, (96, 96), interpolation=cv2.INTER_AREA)
    (found,) = track_faces(frames, TIMES[:10])
    assert found.present.all()
    assert 500 < np.nanmean(centers(found)) < 596


def test_a_stream_and_an_array_give_equal_tracks(talker: DrawnScene, track: FaceTrack) -> None:
    (found,) = track_faces(zip(talker.times.tolist(), talker.frames, strict=True))
    assert np.array_equal(found.landmarks, track.landmarks)


def test_short_gaps_are_interpolated_and_marked(talker: DrawnScene, track: FaceTrack) -> None:
    frames = talker.frames.copy()
    frames[20:23, 30:100, 20:110] = 128  # a hand before the face, for 0.15 s
    (found,) = track_faces(frames, talker.times)
    assert found.interpolated[20:23].all() and not found.present[20:23].any()
    assert found.present.sum() == COUNT - 3
    assert (found.confidence[20:23] == 0).all()
    error = np.abs(found.landmarks[20:23, :, :2] - track.landmarks[20:23, :, :2]).mean()
    assert error < 0.1 * found.interocular[19]


def test_long_gaps_stay_open_and_the_face_is_found_again(talker: DrawnScene) -> None:
    frames = talker.frames.copy()
    frames[10:22, 30:100, 20:110] = 128
    (found,) = track_faces(frames, talker.times)
    assert not found.known[10:22].any()
    assert np.isnan(found.landmarks[10:22]).all() and np.isnan(mouth_opening(found.landmarks)[12])
    assert found.present[:10].all() and found.present[27:].all()


def test_a_face_is_found_again_after_a_cut_to_black(talker: DrawnScene) -> None:
    frames = talker.frames.copy()
    frames[15:25] = 0
    (found,) = track_faces(frames, talker.times)
    assert found.present[:15].all() and found.present[25:].all() and not found.known[15:25].any()


def test_a_cut_to_another_person_starts_another_track(talker: DrawnScene, listener: DrawnScene) -> None:
    frames = np.concatenate([talker.frames[:20], listener.frames[:16]])
    first, second = track_faces(frames, TIMES[:36])
    assert first.present.tolist() == [True] * 20 + [False] * 16
    assert second.present.tolist() == [False] * 20 + [True] * 16


def test_two_people_keep_their_tracks(talker: DrawnScene, listener: DrawnScene) -> None:
    frames = side_by_side(talker.frames, listener.frames)
    tracks = track_faces(frames, talker.times)
    assert len(tracks) == 2
    left, right = sorted(tracks, key=lambda one: np.nanmean(centers(one)))
    assert left.present.all() and right.present.all()
    assert (centers(left) < SIZE).all() and (centers(right) > SIZE).all()
    assert np.corrcoef(mouth_opening(left.landmarks), talker.mouth)[0, 1] > 0.95
    assert np.nanmax(mouth_opening(right.landmarks)) < 0.1


@pytest.fixture(scope="module")
def touching() -> np.ndarray:
    """(6, 96, 160, 3) two heads that touch: FaceMesh sees the right face through the window around the left one."""
    from fantasytalking.portrait_world.corpus.group_clip import GroupClipPlan, SpeakingRole, make_group_renderer
    from fantasytalking.portrait_world.motion.frame_state import FaceState

    group = make_group_renderer(
        GroupClipPlan(17, 2, (SpeakingRole(17, ""), SpeakingRole(15, "")), seed=0), (160, 96), 1.1846
    )
    left = FaceState(mouth_width=0.92, brow=0.3, smile=0.13, gaze_x=0.09, yaw=0.117, roll=0.06, x=-0.0144)
    right = FaceState(mouth_open=0.05, mouth_width=0.79, brow=0.22, yaw=-0.095, pitch=0.03, x=-0.0153, y=-0.006)
    opening = 0.62 - 0.09 * np.arange(6)
    return np.stack([group.frame([replace(left, mouth_open=float(gap)), right]) for gap in opening])


def test_two_touching_heads_are_both_tracked_from_the_first_frame(touching: np.ndarray) -> None:
    tracks = track_faces(touching, TIMES[:6])
    assert len(tracks) == 2 and all(one.present.all() for one in tracks)
    left, right = sorted(tracks, key=lambda one: np.nanmean(centers(one)))
    assert (centers(left) < 50).all() and (centers(right) > 65).all()
    assert np.ptp(mouth_opening(left.landmarks)) > 4 * np.ptp(mouth_opening(right.landmarks)), "everyone's own mouth"


def test_a_face_missed_at_first_is_found_soon(talker: DrawnScene, listener: DrawnScene) -> None:
    frames = side_by_side(talker.frames[:12], listener.frames[:12])
    frames[:3, 30:100, 20:110] = 128  # a hand before the left face
    left, right = sorted(track_faces(frames, TIMES[:12]), key=lambda one: np.nanmean(centers(one)))
    assert right.present.all()
    assert not left.known[:3].any() and left.present[4:].all(), "searched again after 0.2 s"


def test_searching_for_others_leaves_one_track_bit_for_bit(talker: DrawnScene, track: FaceTrack) -> None:
    (alone,) = track_faces(talker.frames, talker.times, max_people=1)
    assert np.array_equal(alone.landmarks, track.landmarks) and np.array_equal(alone.confidence, track.confidence)


def test_hiding_one_of_two_does_not_move_its_track_to_the_other(talker: DrawnScene, listener: DrawnScene) -> None:
    frames = side_by_side(talker.frames, listener.frames)
    frames[12:30, :, :SIZE] = 100  # the left one disappears
    left, right = sorted(track_faces(frames, talker.times), key=lambda one: np.nanmean(centers(one)))
    assert right.present.all() and (centers(right) > SIZE).all()
    assert not left.known[12:30].any() and left.present[35:].all()
    assert (centers(left)[left.present] < SIZE).all()


def test_people_who_swap_positions_at_a_cut_keep_their_tracks(talker: DrawnScene, listener: DrawnScene) -> None:
    frames = np.concatenate(
        [side_by_side(talker.frames[:12], listener.frames[:12]), side_by_side(listener.frames[:12], talker.frames[:12])]
    )
    talks: list[list[bool]] = []
    for found in track_faces(frames, TIMES[:24]):
        halves = [half for half in (found[:12], found[12:]) if half.known.any()]
        talks.append([bool(np.nanstd(mouth_opening(half.landmarks)) > 0.05) for half in halves])
    assert all(len(set(halves)) == 1 for halves in talks), "the same mouth moves before and after the cut, or neither"
    assert sorted(half for halves in talks for half in halves) == [False, False, True, True], "nobody was lost"


def test_a_video_without_a_face_has_no_track() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 120, 160, 3), np.uint8)
    assert track_faces(noise, TIMES[:8]) == []


def test_a_part_of_a_track(track: FaceTrack) -> None:
    part = track[5:9]
    assert part.times == pytest.approx(track.times[5:9])
    assert np.array_equal(part.landmarks, track.landmarks[5:9]) and part.confidence.shape == (4,)


def test_invalid_frames_are_refused(talker: DrawnScene) -> None:
    for frames, times, code, field, value in (
        (talker.frames, talker.times[:-1], ErrorCode.shape_mismatch, "times", COUNT - 1),
        (talker.frames, None, ErrorCode.shape_mismatch, "times", 0),
        (talker.frames[:0], talker.times[:0], ErrorCode.missing_value, "frames", None),
        (talker.frames.astype(np.float32), talker.times, ErrorCode.shape_mismatch, "frames", (SIZE, SIZE, 3)),
        (
            [(0.0, talker.frames[0]), (0.1, talker.frames[0][:64])],
            None,
            ErrorCode.shape_mismatch,
            "frames",
            (64, SIZE, 3),
        ),
    ):
        with raises_input_error(code, field, value) as error:
            track_faces(frames, times)
        assert "\n" not in str(error.value)


def test_portraits_from_left_to_right(talker: DrawnScene, listener: DrawnScene) -> None:
    faces = detect_faces(side_by_side(talker.frames[:1], listener.frames[:1])[0])
    assert len(faces) == 2
    assert faces[0].box[2] < SIZE < faces[1].box[0]
    assert all(face.confidence > 0.8 and face.landmarks.shape == (478, 3) for face in faces)
    assert detect_faces(np.zeros((64, 64, 3), np.uint8)) == []
    for shape in ((64, 64), (4, 64, 3)):
        with raises_input_error(ErrorCode.shape_mismatch, "image", shape):
            detect_faces(np.zeros(shape, np.uint8))


def test_eyes_and_mouth(listener: DrawnScene) -> None:
    from fantasytalking.portrait_world.corpus.rendered_clip import PortraitRenderer
    from fantasytalking.portrait_world.motion.frame_state import FaceState
    from fantasytalking.portrait_world.people.identity import make_identity

    sitter = PortraitRenderer(make_identity(8), SIZE)
    measured = {}
    for name, state in {
        "rest": FaceState(),
        "blink": FaceState(blink=1.0),
        "open": FaceState(mouth_open=0.9),
        "wide": FaceState(mouth_width=1.0),
    }.items():
        (face,) = detect_faces(sitter.frame(state))
        points = face.landmarks
        measured[name] = eye_opening(points).mean(), float(mouth_opening(points)), float(mouth_width(points))
    assert measured["blink"][0] < 0.7 * measured["rest"][0]
    assert measured["open"][1] > 0.2 > 0.06 > measured["rest"][1]
    assert measured["wide"][2] > 1.05 * measured["rest"][2]


def test_nothing_is_printed(talker: DrawnScene, tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", talker.frames[:3])
    code = (
        "import sys, numpy as np; from fantasytalking.perception.face_track import track_faces; "
        "print(len(track_faces(np.load(sys.argv[1]), np.arange(3.0))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "frames.npy")], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_real_portraits(real_media: Path) -> None:
    for name, count in (("woman.jpg", 1), ("man.jpg", 1), ("two_people.jpg", 2)):
        faces = detect_faces(read_image(real_media / "portraits" / name))
        assert len(faces) == count
        assert all(face.confidence > 0.8 for face in faces)


@pytest.mark.slow
def test_real_videos(real_media: Path) -> None:
    paths = sorted((real_media / "videos").glob("*.mp4"))
    assert paths
    for path in paths:
        tracks = track_faces(iter_frames(path, fps=None))
        assert len(tracks) == (2 if "two_people" in path.name else 1), path.name
        assert all(one.present.mean() >= 0.99 and one.confidence.mean() > 0.8 for one in tracks), path.name


@pytest.mark.slow
def test_real_videos_at_96_pixels(real_media: Path) -> None:
    paths = sorted((real_media / "videos").glob("talk_*.mp4"))
    assert paths
    for path in paths:
        video = read_video(path)
        small = np.stack([cv2.resize(frame, (96, 96), interpolation=cv2.INTER_AREA) for frame in video.frames])
        (found,) = track_faces(small, video.times)
        assert found.present.mean() >= 0.95

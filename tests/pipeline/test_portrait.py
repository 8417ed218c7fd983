"""Pictures of any shape become the model's picture: the face in it, nothing distorted."""

import re

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mediapipe")

import cv2

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.face_range import FaceRange
from fantasytalking.media.resolution import ResizeMode, ResolutionBucket
from fantasytalking.perception.face_track import detect_faces
from fantasytalking.pipeline.portrait import open_image, parse_sizes, prepare_portrait
from tests.helpers.errors import raises_input_error


def eye_to_mouth(points: np.ndarray) -> tuple[float, float]:
    """Distance between the eyes, and from them to the mouth."""
    return float(np.linalg.norm(points[1] - points[0])), float(points[3:, 1].mean() - points[:2, 1].mean())


@pytest.mark.parametrize(
    ("fit", "size"), [(ResizeMode.crop, (64, 128)), (ResizeMode.letterbox, (64, 128)), (ResizeMode.crop, (128, 96))]
)
def test_nothing_is_distorted(face_picture, fit, size):
    made = prepare_portrait(face_picture, [ResolutionBucket(*size)], resize_mode=fit)
    assert made.pixels.shape == (size[1], size[0], 3)
    square = prepare_portrait(face_picture, [ResolutionBucket(160, 160)])
    wide, tall = eye_to_mouth(made.face_points[0])
    wanted_wide, wanted_tall = eye_to_mouth(square.face_points[0])
    assert wide / tall == pytest.approx(wanted_wide / wanted_tall, rel=0.05)
    if fit is ResizeMode.letterbox:
        assert not made.pixels[:20].any() and not made.pixels[-20:].any(), "black bars above and below"


def test_the_nearest_shape_is_taken(face_picture):
    wide = np.concatenate([np.full_like(face_picture, 120), face_picture], axis=1)
    made = prepare_portrait(wide, parse_sizes(["64x64", "128x64", "64x128"]))
    assert made.pixels.shape == (64, 128, 3)


def test_the_crop_follows_the_face(face_picture):
    plain = np.full_like(face_picture, 120)
    for order in ((plain, plain, face_picture), (face_picture, plain, plain)):
        made = prepare_portrait(np.concatenate(order, axis=1), [ResolutionBucket(128, 128)])
        assert 40 < made.face_points[0, :, 0].mean() < 88
        (face,) = detect_faces(made.pixels)
        assert face.box[0] > 0 and face.box[2] < 128


def test_a_small_face_is_gone_nearer_to(face_picture):
    room = np.full((800, 900, 3), 120, np.uint8)
    room[300:460, 500:660] = face_picture
    far = prepare_portrait(room, [ResolutionBucket(256, 256)])
    near = prepare_portrait(room, [ResolutionBucket(256, 256)], min_face_fraction=0.3)
    assert eye_to_mouth(near.face_points[0])[0] > 2 * eye_to_mouth(far.face_points[0])[0]
    (face,) = detect_faces(near.pixels)
    assert (face.box[3] - face.box[1]) / 256 == pytest.approx(0.3, abs=0.06)


def test_a_face_too_small_is_said_with_the_crop_that_would_do(face_picture):
    room = cv2.resize(np.random.default_rng(0).integers(60, 200, (16, 16, 3), np.uint8), (900, 900))
    room[300:356, 500:556] = cv2.resize(face_picture, (56, 56), interpolation=cv2.INTER_AREA)
    with raises_input_error(ErrorCode.no_face, "image", 0) as caught:
        prepare_portrait(room, [ResolutionBucket(64, 64)])
    found = re.search(
        r"at most (\d+) of these pixels around the face, (\d+)% .* (\d+)% from the top", str(caught.value)
    )
    side, x, y = (int(number) for number in found.groups())
    left, top = 9 * x - side // 2, 9 * y - side // 2
    assert left <= 500 and top <= 300 and side >= 56
    portrait = prepare_portrait(room[top : top + side, left : left + side], [ResolutionBucket(64, 64)])
    assert len(portrait.face_boxes) == 1


def test_an_image_of_pillow_is_read_as_its_file(face_picture, tmp_path):
    image = Image.fromarray(np.dstack([face_picture, np.full(face_picture.shape[:2], 120, np.uint8)]))
    image.save(tmp_path / "a.png")
    assert np.array_equal(open_image(image), open_image(tmp_path / "a.png"))
    assert np.array_equal(open_image(Image.fromarray(face_picture)), face_picture)


def test_the_points_are_on_the_prepared_picture(face_picture):
    made = prepare_portrait(cv2.resize(face_picture, (400, 400)), [ResolutionBucket(96, 128)])
    (face,) = detect_faces(made.pixels)
    assert face.box[0] < made.face_points[0, :, 0].min() and made.face_points[0, :, 0].max() < face.box[2]
    assert face.box[1] < made.face_points[0, :, 1].min() and made.face_points[0, :, 1].max() < face.box[3]


def test_one_of_several_faces_must_be_chosen(face_picture):
    two = np.concatenate([face_picture, face_picture[:, ::-1]], axis=1)
    with raises_input_error(ErrorCode.no_face, "image", 2):
        prepare_portrait(two, [ResolutionBucket(64, 64)])
    left = prepare_portrait(two, [ResolutionBucket(160, 160)], face_index=1)
    right = prepare_portrait(two, [ResolutionBucket(160, 160)], face_index=2)
    assert np.abs(left.pixels.astype(int) - right.pixels[:, ::-1]).mean() < 3
    with raises_input_error(ErrorCode.no_face, "face_index", 3):
        prepare_portrait(two, [ResolutionBucket(64, 64)], face_index=3)


def test_several_faces_stand_in_the_order_that_was_asked_for(face_picture):
    two = np.concatenate([face_picture, face_picture[:, ::-1]], axis=1)
    both = prepare_portrait(two, [ResolutionBucket(320, 160)], num_faces=2)
    assert both.face_points.shape == (2, 5, 2) and both.face_boxes.shape == (2, 4)
    left, right = both.face_boxes
    assert left[2] < 170 and right[0] > 150
    for points, box in zip(both.face_points, both.face_boxes, strict=True):
        assert (points > box[:2]).all() and (points < box[2:]).all()
    turned = prepare_portrait(two, [ResolutionBucket(320, 160)], face_index=[2, 1])
    np.testing.assert_array_equal(turned.pixels, both.pixels)
    np.testing.assert_array_equal(turned.face_boxes, both.face_boxes[::-1])
    np.testing.assert_array_equal(turned.face_points, both.face_points[::-1])


def test_several_faces_are_gone_nearer_to_and_all_kept(face_picture):
    room = np.full((800, 900, 3), 120, np.uint8)
    room[300:460, 200:360] = face_picture
    room[320:480, 420:580] = face_picture[:, ::-1]
    far = prepare_portrait(room, [ResolutionBucket(256, 256)], num_faces=2)
    near = prepare_portrait(room, [ResolutionBucket(256, 256)], num_faces=2, min_face_fraction=0.9)
    assert eye_to_mouth(near.face_points[0])[0] > 1.5 * eye_to_mouth(far.face_points[0])[0]
    assert near.face_boxes.min() > 0 and near.face_boxes.max() < 256


@pytest.mark.parametrize(
    ("options", "code", "field", "value"),
    [
        ({"num_faces": 3}, ErrorCode.no_face, "image", 2),
        ({"face_index": [1, 1]}, ErrorCode.conflict, "face_index", [1, 1]),
        ({"face_index": [1, 3]}, ErrorCode.no_face, "face_index", 3),
        ({"num_faces": 2, "sizes": [ResolutionBucket(32, 160)]}, ErrorCode.conflict, "sizes", "32x160"),
    ],
)
def test_missing_faces_are_reported(face_picture, options, code, field, value):
    two = np.concatenate([face_picture, face_picture[:, ::-1]], axis=1)
    with raises_input_error(code, field, value):
        prepare_portrait(two, **{"sizes": [ResolutionBucket(320, 160)], **options})
    three = np.concatenate([two, face_picture], axis=1)
    with raises_input_error(ErrorCode.no_face, "image", 3):
        prepare_portrait(three, [ResolutionBucket(480, 160)], num_faces=2)


def test_a_crop_cuts_none_of_several_faces(face_picture):
    """Whole boxes count, as far as the image shows them; one face alone may be cut."""
    pair = np.concatenate([face_picture, face_picture[:, ::-1]], axis=1)
    (first, second) = prepare_portrait(pair, [ResolutionBucket(320, 160)], num_faces=2).face_boxes
    width = int(second[2] - first[0]) // 16 * 16
    centers = (first[0] + first[2]) / 2, (second[0] + second[2]) / 2
    assert centers[1] - centers[0] < width, "their centers would fit"
    with raises_input_error(ErrorCode.conflict, "sizes", f"{width - 16}x160"):
        prepare_portrait(pair, [ResolutionBucket(width - 16, 160)], num_faces=2)
    assert len(prepare_portrait(pair, [ResolutionBucket(width + 32, 160)], num_faces=2).face_boxes) == 2
    bars = prepare_portrait(pair, [ResolutionBucket(96, 96)], num_faces=2, resize_mode=ResizeMode.letterbox)
    assert len(bars.face_boxes) == 2
    at_the_edge = pair[:, int(first[0]) + 4 :]
    assert len(prepare_portrait(at_the_edge, [ResolutionBucket(320, 160)], num_faces=2).face_boxes) == 2


def test_no_face_is_told():
    with raises_input_error(ErrorCode.no_face, "image", 0):
        prepare_portrait(np.full((100, 100, 3), 90, np.uint8), [ResolutionBucket(64, 64)])


def test_real_photographs(real_media):
    from fantasytalking.media import read_image

    for name, face in (("woman.jpg", None), ("man.jpg", None), ("two_people.jpg", 2)):
        made = prepare_portrait(
            read_image(real_media / "portraits" / name),
            [ResolutionBucket(256, 256)],
            face_index=face,
            min_face_fraction=0.2,
        )
        assert len(detect_faces(made.pixels)) >= 1


@pytest.mark.parametrize("text", ["", "abc", "0", "17", "64x", "x64", "99999", "64*64", "4096x4096", "-64"])
def test_impossible_sizes_are_refused(text):
    with pytest.raises(InputError) as error:
        parse_sizes([text])
    assert (error.value.field, error.value.value) == ("sizes", text)


def fitted(image, size=(128, 128), ranges=None, **options):
    known = {1: FaceRange((0.5, 0.7), (0.4, 0.6), (0.4, 0.65))} if ranges is None else ranges
    return prepare_portrait(
        image, [ResolutionBucket(*size)], resize_mode=ResizeMode.fit, face_ranges=known, **options
    ), known


def test_fit_keeps_what_the_model_knows_bit_for_bit(face_picture):
    plain = prepare_portrait(face_picture, [ResolutionBucket(128, 128)])
    around = FaceRange(*((value - 0.02, value + 0.02) for value in plain.placement))
    for ranges in ({1: around}, {}, {2: around}):
        made, _ = fitted(face_picture, ranges=ranges)
        np.testing.assert_array_equal(made.pixels, plain.pixels)


def test_fit_brings_a_small_face_off_the_middle_into_the_range(face_picture):
    room = np.full((800, 900, 3), 120, np.uint8)
    room[400:560, 600:760] = face_picture
    made, known = fitted(room)
    assert known[1].contains(made.placement) and made.framing_warning(known, ResizeMode.fit) is None
    (face,) = detect_faces(made.pixels)
    assert (face.box[3] - face.box[1]) / 128 == pytest.approx(made.placement.height, abs=0.06)
    as_asked = prepare_portrait(room, [ResolutionBucket(128, 128)], resize_mode=ResizeMode.crop, face_ranges=known)
    np.testing.assert_array_equal(as_asked.pixels, prepare_portrait(room, [ResolutionBucket(128, 128)]).pixels)
    line = as_asked.framing_warning(known, ResizeMode.crop)
    assert line is not None and "resize_mode=fit" in line


def test_fit_keeps_all_of_several_faces(face_picture):
    room = np.full((800, 900, 3), 120, np.uint8)
    room[300:460, 200:360] = face_picture
    room[320:480, 420:580] = face_picture[:, ::-1]
    known = {2: FaceRange((0.5, 0.6), (0.4, 0.6), (0.5, 0.65))}
    made, _ = fitted(room, (160, 96), known, num_faces=2)
    far = prepare_portrait(room, [ResolutionBucket(160, 96)], num_faces=2)
    assert made.placement.height > 1.5 * far.placement.height
    assert (made.face_boxes > 0).all() and (made.face_boxes < (160, 96, 160, 96)).all()

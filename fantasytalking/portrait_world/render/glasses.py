"""Glasses: round or square frames, drawn as smooth lines over the face."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.portrait_world.graphics.image_ops import draw_lines, fill_polygon
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.people.head_mesh import HeadMesh
from fantasytalking.portrait_world.people.identity import Identity
from fantasytalking.portrait_world.render.camera import Camera, Posture

FRAME_COLORS = ((0.10, 0.09, 0.09), (0.30, 0.17, 0.09), (0.42, 0.40, 0.38))


class Glasses:
    """Glasses of one person, as lines at rest in head coordinates."""

    def __init__(self, identity: Identity, head: HeadMesh) -> None:
        f = head.features
        turn = np.linspace(0, 2 * np.pi, 49)
        power = 1.0 if identity.glasses == "round" else 0.55
        wide, tall = 0.225, 0.185 if identity.glasses == "round" else 0.155
        outline_x = wide * np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** power
        outline_y = tall * np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** power
        front = head.surface_depth(0.0, f.eye_y - 0.02) + 0.035
        self.color = FRAME_COLORS[identity.number % len(FRAME_COLORS)]
        self.rims: list[NDArray[np.float64]] = []
        self.arms: list[NDArray[np.float64]] = []
        for side in (-1, 1):
            x = side * (f.eye_x + 0.012) + outline_x
            y = f.eye_y - 0.025 + outline_y
            self.rims.append(np.stack([x, y, front - 0.16 * (np.abs(x) - 0.1).clip(0) ** 1.3], -1))
            hinge = np.array([side * (f.eye_x + 0.012 + wide), f.eye_y + 0.03, front - 0.11])
            temple = np.array([side * 0.80, f.eye_y + 0.03, -0.05])
            self.arms.append(np.linspace(hinge, temple, 12))
        inner = f.eye_x + 0.012 - wide
        bridge_x = np.linspace(-inner, inner, 9)
        self.bridge = np.stack(
            [bridge_x, f.eye_y + 0.02 + 0.25 * (inner**2 - bridge_x**2) / inner, 0 * bridge_x + front], -1
        )


def draw_glasses(glasses: Glasses, image: FloatArray, posture: Posture, camera: Camera, depth: FloatArray) -> None:
    """Draws the glasses on an image (H, W, 3), sRGB in [0, 1], in place, except where `depth` (H * W,) is nearer."""
    height, width = image.shape[:2]
    thickness = max(1, round(0.026 * camera.scale))
    layer = np.zeros((height, width), np.uint8)
    lenses = np.zeros((height, width), np.uint8)

    def projected(line: NDArray[np.float64]) -> FloatArray:
        return camera.project(posture.transform_points(line.astype(np.float32)))

    for rim in glasses.rims:
        points = projected(rim)
        draw_lines(layer, [points], thickness, closed=True)
        fill_polygon(lenses, points)
    draw_lines(layer, [projected(glasses.bridge)], thickness)
    surface = depth.reshape(height, width)
    for arm in glasses.arms:
        points = projected(arm)
        columns = np.clip(points[:, 0].astype(int), 0, width - 1)
        rows = np.clip(points[:, 1].astype(int), 0, height - 1)
        seen = points[:, 2] + 0.03 * camera.scale >= surface[rows, columns]
        hidden = int(np.argmin(seen)) if not seen.all() else len(seen)
        if hidden > 1:
            draw_lines(layer, [points[:hidden]], max(1, thickness - 1))
    cover = layer[..., None].astype(np.float32) / 255
    glint = lenses[..., None].astype(np.float32) / 255 * 0.035
    image += (1 - image) * glint
    image += (np.array(glasses.color, np.float32) - image) * cover * 0.94

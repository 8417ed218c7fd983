"""Drawable person: constructed from an identity, drawn per frame with a state and a camera."""

import numpy as np

from fantasytalking.portrait_world.graphics.mesh import normalize_vectors, smoothstep
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray, Fragments, empty_depth_buffer, rasterize
from fantasytalking.portrait_world.motion.frame_state import FaceState
from fantasytalking.portrait_world.people import eyes
from fantasytalking.portrait_world.people import mouth_interior as mouth
from fantasytalking.portrait_world.people.anatomy import Anatomy, SurfacePart
from fantasytalking.portrait_world.people.face_paint import srgb_to_linear
from fantasytalking.portrait_world.people.hair import make_hair
from fantasytalking.portrait_world.people.identity import Identity, mix_colors
from fantasytalking.portrait_world.people.skin_texture import make_skin_texture
from fantasytalking.portrait_world.render.camera import Camera, posture_from_state
from fantasytalking.portrait_world.render.glasses import Glasses, draw_glasses
from fantasytalking.portrait_world.render.hair_shading import HairRenderer
from fantasytalking.portrait_world.render.lighting import CLOTH_WRAP, SKIN_WRAP, lights_for, shade_surface, tone_map

MAX_FACE_ANGLE, FACE_RING_RANGE = 1.3, (3.25, 11.0)
"""Extent of the face: radians from the front, and rings below the hairline and above the neck. It agrees with that of
MediaPipe's landmarks to a tenth of the face; with a beard, the landmarks have a higher chin."""


class PersonMesh:
    """Mesh, textures and shading of a person, for drawing on any canvas.

    Args:
        identity: the person.
        detail: resolution of the textures in pixels per head unit, that of the canvas.
    """

    def __init__(self, identity: Identity, detail: float) -> None:
        self.identity = identity
        self.anatomy = Anatomy(identity)
        self.lights = lights_for(identity)
        per_cell = int(np.clip(round(detail / 22), 3, 14))
        self.texture = make_skin_texture(identity, self.anatomy.head, float(np.clip(1.3 * detail, 60, 420)), per_cell)
        shells = make_hair(identity, self.anatomy.head, int(np.clip(per_cell, 4, 10)))
        self.hair = [HairRenderer(identity, shell, self.lights) for shell in shells]
        self.glasses = Glasses(identity, self.anatomy.head) if identity.glasses != "none" else None

    def mouth_size(self, state: FaceState) -> tuple[float, float]:
        """Returns the gap between the inner lips relative to its largest value, and the mouth's width relative to the
        distance between the eyes."""
        rig = self.anatomy.rig
        points = rig.deform(state)
        return rig.mouth_opening(points), rig.mouth_width(points)

    def face_points(self, state: FaceState) -> FloatArray:
        """Returns points (N, 3) of the face with this expression, forehead to chin and ear to ear, the head at rest."""
        head = self.anatomy.head
        front = (
            (np.abs(head.angle) < MAX_FACE_ANGLE) & (head.ring > FACE_RING_RANGE[0]) & (head.ring < FACE_RING_RANGE[1])
        )
        return self.anatomy.rig.deform(state)[front]

    def draw(self, image: FloatArray, camera: Camera, state: FaceState) -> None:
        """Draws the person on an image (H, W, 3), sRGB in [0, 1], in place."""
        height, width = image.shape[:2]
        posture = posture_from_state(state)
        points, normals = self.anatomy.deform(state)
        points = posture.transform_points(points, self.anatomy.head_weight)
        normals = posture.transform_normals(normals, self.anatomy.head_weight)
        depth = empty_depth_buffer(height, width)
        fragments = rasterize(camera.project(points), self.anatomy.faces, depth, (height, width))
        flat = image.reshape(-1, 3)
        values = np.concatenate([self.anatomy.vertex_attributes, normals], 1)
        parts = self.anatomy.parts[fragments.face]
        for part in SurfacePart:
            chosen = fragments.select(parts == part)
            if len(chosen.pixel):
                attributes = chosen.interpolate(self.anatomy.faces, values)
                flat[chosen.pixel] = tone_map(self._radiance(part, attributes, chosen, state, camera))
        if self.glasses:
            draw_glasses(self.glasses, image, posture, camera, depth)
        for shell in self.hair:
            shell.draw(image, camera, posture, depth)

    def _radiance(
        self, part: SurfacePart, attributes: FloatArray, fragments: Fragments, state: FaceState, camera: Camera
    ) -> FloatArray:
        """Returns linear radiance (N, 3) of samples of one part from their attributes (N, 8)."""
        columns, rows, local, normals = (
            attributes[:, 0],
            attributes[:, 1],
            attributes[:, 2:5],
            normalize_vectors(attributes[:, 5:8]),
        )
        one = np.ones(len(columns), np.float32)
        if part is SurfacePart.SKIN:
            texels = self.texture.sample(columns, rows)
            wrap = CLOTH_WRAP + (SKIN_WRAP - CLOTH_WRAP) * texels[:, 5:6]
            return shade_surface(texels[:, :3], normals, texels[:, 4], texels[:, 3], self.lights, wrap)
        if part in (SurfacePart.INNER_LIP, SurfacePart.LID_MARGIN):
            base = (
                self.identity.lips
                if part is SurfacePart.INNER_LIP
                else mix_colors(self.identity.skin, (0.80, 0.42, 0.40), 0.5)
            )
            albedo = np.broadcast_to(srgb_to_linear(mix_colors(base, (0.45, 0.12, 0.13), 0.40)), (len(one), 3))
            return shade_surface(albedo, normals, 0.60 * one, 0.5 * one, self.lights, SKIN_WRAP)
        if part is SurfacePart.EYE:
            return self._eye_radiance(normalize_vectors(local), normals, state, camera)
        if part is SurfacePart.EAR:
            albedo = np.broadcast_to(
                srgb_to_linear(mix_colors(self.identity.skin, (0.78, 0.34, 0.28), 0.22)), (len(one), 3)
            )
            return shade_surface(albedo, normals, local[:, 0], 0.25 * one, self.lights, SKIN_WRAP)
        return self._mouth_radiance(part, local, normals, state)

    def _eye_radiance(
        self, directions: FloatArray, normals: FloatArray, state: FaceState, camera: Camera
    ) -> FloatArray:
        gaze = eyes.gaze_vector(state.gaze_x, state.gaze_y)
        softness = 0.9 / (camera.scale * self.anatomy.head.features.eyeball)
        albedo = eyes.eye_albedo(self.identity, directions, gaze, softness)
        f = self.anatomy.head.features
        # The upper lid and its lashes cast a shadow on the upper part of the eye.
        lid = (1 - state.blink) * f.eye_up / f.eyeball
        reach = 0.42 + 0.58 * smoothstep(lid + 0.02, lid - 0.42, directions[:, 1])
        reach = reach * (0.72 + 0.28 * smoothstep(1.05, 0.6, np.abs(directions[:, 0])))
        radiance = shade_surface(albedo, normals, reach, np.zeros(len(reach), np.float32), self.lights, CLOTH_WRAP)
        return radiance * reach[:, None] ** 0.5 + eyes.eye_specular(directions, self.lights.key)[:, None]

    def _mouth_radiance(
        self, part: SurfacePart, local: FloatArray, normals: FloatArray, state: FaceState
    ) -> FloatArray:
        across, down = local[:, 0], local[:, 1]
        light = 0.30 + 0.70 * float(np.clip(state.mouth_open / 0.35, 0, 1))
        if part is SurfacePart.MOUTH_WALL:
            return np.broadcast_to(np.array([0.045, 0.008, 0.008], np.float32) * light, (len(across), 3))
        shade = light * (1 - 0.45 * across**2)
        if part is SurfacePart.TONGUE:
            tongue = np.broadcast_to(np.array([0.40, 0.115, 0.115], np.float32), (len(across), 3))
            reach = 0.55 * shade * (1 - 0.35 * down)
            return shade_surface(tongue, normals, reach, 0.5 + 0 * shade, self.lights, SKIN_WRAP) * reach[:, None]
        upper = part is SurfacePart.UPPER_TEETH
        enamel = mouth.tooth_albedo(across, down if upper else 1 - down, upper)
        reach = (0.80 if upper else 0.62) * shade
        return shade_surface(enamel, normals, reach, 0.4 * shade, self.lights, CLOTH_WRAP) * (
            0.35 + 0.55 * shade[:, None]
        )

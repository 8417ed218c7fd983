"""Encodes a prepared clip: every encoder runs once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from fantasytalking.common.hub import resolve_local
from fantasytalking.condition_registry import registered_condition
from fantasytalking.data.features import ClipFeatures
from fantasytalking.data.manifest import ClipRejected, RejectionReason
from fantasytalking.data.prepare.clip import PreparedClip
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.encoders.arcface import FaceEncoder
from fantasytalking.encoders.audio_features import AudioEncoder
from fantasytalking.encoders.audio_loading import load_audio_encoder
from fantasytalking.encoders.base_geometry import VAE_CONFIG_FILE, read_geometry
from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.encoders.wan import ImageEncoder, TextEncoder, VideoAutoencoder
from fantasytalking.perception.face_crop import five_points
from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.lip_mask import project_mask
from fantasytalking.perception.syncnet.syncnet_model import SyncNet


@dataclass
class FeatureEncoders:
    """The frozen encoders of the method."""

    video: VideoAutoencoder
    text: TextEncoder
    image: ImageEncoder | None
    """None writes no CLIP tokens."""
    audio: AudioEncoder
    face: FaceEncoder
    expression: ExpressionEncoder | None = None
    syncnet: SyncNet | None = None
    """None measures lip sync without a network."""

    def __post_init__(self) -> None:
        # Most clips of a corpus share one caption.
        self._captions: tuple[str, Tensor] | None = None
        self._audio_spec = self.audio.spec

    @classmethod
    def load(cls, config: PreparationConfig, device: torch.device) -> "FeatureEncoders":
        """Loads the encoders that the settings name.

        Raises:
            InputError: an encoder is missing, damaged or of another kind (states how to download it), or clips of the
                configured size cannot be encoded.
        """
        for name in config.conditions:
            registered_condition(name, "conditions")
        source, local = config.base, Path(resolve_local(config.base))
        if (local / VAE_CONFIG_FILE).is_file():
            config.check_geometry(read_geometry(local))
        dtype = config.dtype.torch_dtype
        audio, folder = (config.audio_encoder, "") if config.audio_encoder else (source, "audio_encoder")
        expression = config.expression_encoder
        face = Path(resolve_local(config.face_encoder or local / "face_encoder"))
        video = VideoAutoencoder.from_pretrained(source, device=device)
        config.check_geometry(video.geometry)  # of a base that was not on this machine
        # The text encoder is the largest: what is missing is reported before it is loaded.
        return cls(
            video=video,
            face=FaceEncoder.from_pretrained(face, threads=config.num_threads),
            expression=None if expression is None else ExpressionEncoder.from_pretrained(expression, device=device),
            syncnet=None if config.syncnet is None else SyncNet.from_file(Path(config.syncnet)).to(device),
            audio=load_audio_encoder(audio, subfolder=folder, device=device),
            image=ImageEncoder.from_pretrained(source, device=device, dtype=dtype) if config.image_tokens else None,
            text=TextEncoder.from_pretrained(source, device=device, dtype=dtype),
        )

    def encode(self, clip: PreparedClip) -> ClipFeatures:
        """Returns all features of a clip, on the CPU, in the types of the feature file.

        Raises:
            ClipRejected: the networks of the expression encoder do not detect a tracked face.
        """
        first = torch.from_numpy(clip.frames[0])
        video = rearrange(torch.from_numpy(clip.frames), "t h w c -> 1 c t h w")
        stride, steps = self.video.spatial_stride, self.video.temporal_stride
        masks = {
            method: torch.from_numpy(project_mask(clip.lip_mask, stride, steps, method)).half()
            for method in ("causal", "trilinear")
        }
        return ClipFeatures(
            latents=self.video.encode(video)[0].half().cpu(),
            first_frame_latents=self.video.encode_first_frame(video[:, :, 0], len(clip.frames))[0].half().cpu(),
            text=self._prompt_embeds(clip.caption),
            image=None if self.image is None else self.image.encode(first).half().cpu(),
            audio=self.audio.encode(clip.waveform).half(),
            frame_times=torch.from_numpy(clip.times),
            face=torch.stack([self._face_embedding(clip, track) for track in clip.tracks]),
            lip_mask_causal=masks["causal"],
            lip_mask_trilinear=masks["trilinear"],
            speakers=self._speaker_features(clip),
            audio_encoder=self._audio_spec,
            conditions=clip.conditions,
            **self._expression_features(clip),
        )

    def _face_embedding(self, clip: PreparedClip, track: FaceTrack) -> Tensor:
        return torch.from_numpy(self.face.encode(clip.frames[0], five_points(track.landmarks[0])))

    def _speaker_features(self, clip: PreparedClip) -> Tensor | None:
        if clip.speaker_waveforms is None:
            return None
        return torch.stack([self.audio.encode(samples) for samples in clip.speaker_waveforms]).half()

    def _expression_features(self, clip: PreparedClip) -> dict[str, Tensor]:
        """Returns the expression features and the boxes of each face; empty without an expression encoder."""
        if self.expression is None:
            return {}
        found = []
        for track in clip.tracks:
            points = np.where(track.present[:, None, None], five_points(track.landmarks), np.nan)
            points = self.expression.point_tracker()(clip.frames, points)
            if not np.isfinite(points).all(axis=(1, 2)).any():
                raise ClipRejected(RejectionReason.FACE_LOST, "the expression encoder's networks detect no face")
            found.append(self.expression.encode(clip.frames, points))
        return {
            "expression": torch.stack([each.features for each in found]).half(),
            "expression_present": torch.stack([each.present for each in found]),
            "boxes": torch.from_numpy(np.stack([_filled_boxes(track) for track in clip.tracks])),
        }

    def _prompt_embeds(self, caption: str) -> Tensor:
        if self._captions is None or self._captions[0] != caption:
            self._captions = caption, self.text.encode(caption).half().cpu()
        return self._captions[1]


def _filled_boxes(track: FaceTrack) -> NDArray[np.float32]:
    """Returns the (T, 4) boxes of a face that is known in the first frame; unknown ones repeat the last known."""
    last = np.maximum.accumulate(np.where(track.known, np.arange(len(track.times)), 0))
    boxes: NDArray[np.float32] = track.boxes[last].astype(np.float32)
    return boxes


def encoder_paths(config: PreparationConfig) -> dict[str, Path]:
    """Returns the files and folders of the encoders by name, without those that are not on this machine."""
    source = Path(resolve_local(config.base))
    names = ("vae", "text_encoder", *(["image_encoder"] if config.image_tokens else []))
    paths = {name: source / name for name in names}
    paths["audio_encoder"] = Path(resolve_local(config.audio_encoder or source / "audio_encoder"))
    paths["face_encoder"] = Path(resolve_local(config.face_encoder or source / "face_encoder"))
    if config.expression_encoder is not None:
        paths["expression_encoder"] = Path(config.expression_encoder)
    if config.syncnet is not None:
        paths["syncnet"] = Path(config.syncnet)
    return {name: path for name, path in paths.items() if path.exists()}

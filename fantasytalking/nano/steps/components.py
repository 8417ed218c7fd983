"""Build steps of the pipeline's components. Each returns its measurements and can be rerun after an interruption."""

import dataclasses
import logging
from typing import Any

from fantasytalking.encoders.arcface import FaceEncoder
from fantasytalking.encoders.audio_loading import load_audio_encoder
from fantasytalking.encoders.wan import VideoAutoencoder
from fantasytalking.motion_normalizer import MOTION_NORMALIZER_FILE
from fantasytalking.nano.config import PortraitImagesConfig
from fantasytalking.nano.context import BuildContext, corpus_summary
from fantasytalking.nano.corpora.frame_store import open_frame_store
from fantasytalking.nano.corpora.portrait_images import PortraitImages, load_portrait_images, render_missing_portraits
from fantasytalking.nano.corpora.speech_dataset import (
    load_or_synthesize,
    plan_held_out_utterances,
    plan_training_utterances,
)
from fantasytalking.nano.corpora.video_corpus import plan_held_out_parts, plan_training_parts, render_videos
from fantasytalking.nano.pack import write_pipeline
from fantasytalking.nano.steps.extended_corpus import render_first_people
from fantasytalking.nano.trainers.audio_encoder import AudioEncoderTask, save_audio_encoder, token_accuracy
from fantasytalking.nano.trainers.base_transformer import write_fresh_base, write_trained_base
from fantasytalking.nano.trainers.component_trainer import report_values, train_component
from fantasytalking.nano.trainers.face_encoder import FaceEncoderTask, export_face_network, verification_accuracy
from fantasytalking.nano.trainers.text_image_encoder import (
    TextImageEncoderTask,
    save_text_image_encoders,
    train_tokenizer,
)
from fantasytalking.nano.trainers.vae_readings import expression_readings
from fantasytalking.nano.trainers.video_vae import VideoVaeTask, reconstruction_quality, save_vae, set_latent_statistics
from fantasytalking.nano.training_log import training_summary
from fantasytalking.portrait_world.people.identity import HELD_OUT_IDENTITIES

logger = logging.getLogger(__name__)

STATISTICS_CLIPS = 64
"""Largest number of clips from which the latents' mean and standard deviation are measured."""


def make_training_videos(context: BuildContext) -> dict[str, Any]:
    """Renders the training videos and a few videos of held-out people."""
    config = context.config
    rendering = (config.image_size, config.seed, context.processes, config.zoom)
    videos = render_videos(plan_training_parts(config.videos), context.work_dir / "videos", *rendering)
    held_out = render_videos(plan_held_out_parts(config.videos), context.work_dir / "videos_held_out", *rendering)
    return {"videos": videos, "held_out_videos": held_out}


def train_vae(context: BuildContext) -> dict[str, Any]:
    """Trains the component `vae` and measures the mean and standard deviation of its latents."""
    config, seed, folder = context.config.vae, context.config.seed, context.step_folder("vae")
    further = render_first_people(context, config.extended_people) if config.extended_people else ()
    frames = open_frame_store(context.work_dir / "videos", folder / "frame_store", further)
    task = VideoVaeTask(config, frames, seed, context.device)
    report = train_component(task, config.fit, folder, context.device, seed)
    mean, deviation = set_latent_statistics(task.model, frames, min(STATISTICS_CLIPS, 2 * len(frames)), seed)
    save_vae(task.model, context.components / "vae")
    held_out = open_frame_store(context.work_dir / "videos_held_out", folder / "frame_store_held_out")
    shipped = VideoAutoencoder.from_pretrained(context.components, device=context.device)
    quality = reconstruction_quality(shipped, held_out)
    clips = sorted(path.parent for path in (context.work_dir / "videos_held_out").rglob("video.mp4"))
    quality |= expression_readings(shipped, clips)
    statistics = {"latent_mean_error": mean, "latent_deviation_error": deviation}
    return report_values(report, task.model) | statistics | quality


def train_audio_encoder(context: BuildContext) -> dict[str, Any]:
    """Trains the component `audio_encoder`."""
    config, seed, folder = context.config.audio_encoder, context.config.seed, context.step_folder("audio_encoder")
    logger.info(f"audio encoder: synthesizing {config.num_utterances} utterances")
    speech = load_or_synthesize(
        plan_training_utterances(config.num_utterances, seed), folder / "speech.safetensors", context.processes
    )
    task = AudioEncoderTask(config, context.model.portrait.audio_dim, speech, seed, context.device)
    report = train_component(task, config.fit, folder, context.device, seed)
    save_audio_encoder(task.encoder, context.components / "audio_encoder")
    held_out_plan = plan_held_out_utterances(config.num_held_out_utterances, seed)
    held_out = load_or_synthesize(held_out_plan, folder / "speech_held_out.safetensors", context.processes)
    shipped = load_audio_encoder(context.components, subfolder="audio_encoder")
    return report_values(report, task.encoder) | token_accuracy(shipped, task.head.cpu(), held_out)


def render_portrait_images(context: BuildContext) -> dict[str, Any]:
    """Renders images of many people for the face encoder and the text and image encoders."""
    config, folder = context.config.portrait_images, context.step_folder("stills")
    rendering = (context.config.image_size, folder, context.config.seed, context.processes, context.config.zoom)
    counts = {}
    for subset, identities in _image_identities(config).items():
        for done in render_missing_portraits(identities, config.images_per_person, *rendering):
            if done % 20 == 0:
                logger.info(f"portrait images, {subset}: {done}/{len(identities)} people")
        counts[subset] = len(identities)
    return counts


def train_face_encoder(context: BuildContext) -> dict[str, Any]:
    """Trains the component `face_encoder`."""
    config, seed = context.config.face_encoder, context.config.seed
    training, held_out = _load_portrait_images(context)
    task = FaceEncoderTask(config, training, seed, context.device)
    report = train_component(task, config.fit, context.step_folder("face_encoder"), context.device, seed)
    export_face_network(task.network, context.components / "face_encoder" / "nano.onnx")
    shipped = FaceEncoder.from_pretrained(context.components / "face_encoder")
    return report_values(report, task.network) | verification_accuracy(shipped, held_out, seed)


def train_text_image_encoder(context: BuildContext) -> dict[str, Any]:
    """Trains the components `text_encoder`, `tokenizer`, `image_encoder` and `image_processor`."""
    config, seed, wan = context.config.text_image_encoder, context.config.seed, context.model.wan
    training, held_out = _load_portrait_images(context)
    tokenizer = train_tokenizer(config.vocab_size, seed)
    assert wan.image_dim is not None, "the preset has image cross-attention"
    task = TextImageEncoderTask(config, tokenizer, (wan.text_dim, wan.image_dim), training, seed, context.device)
    report = train_component(task, config.fit, context.step_folder("language"), context.device, seed)
    accuracy = task.retrieval_accuracy(held_out, seed)
    save_text_image_encoders(task.text, task.image, tokenizer, config.image_size, context.components)
    return report_values(report, task.model) | accuracy


def prepare_clips(context: BuildContext) -> dict[str, Any]:
    """Encodes the videos as training features with the command `prepare`."""
    size = context.prepared_size(context.config.image_size)
    context.run_preparation(
        context.config.prepare,
        context.work_dir / "videos",
        context.corpus,
        context.components,
        f"buckets=[{size}x{size}]",
    )
    return corpus_summary(context.corpus)


def train_base(context: BuildContext) -> dict[str, Any]:
    """Trains the component `transformer`, an image-to-video base without audio, with the command `train`."""
    fresh, output = context.work_dir / "fresh_base", context.work_dir / "base_run"
    write_fresh_base(context.model, context.config.seed, fresh)
    context.run_training(context.config.base, fresh, f"output={output}")
    write_trained_base(context.model, output / "adapter", context.components)
    return training_summary(output)


def train_stage1(context: BuildContext) -> dict[str, Any]:
    """Trains the paper's first stage with the command `train`."""
    output = context.work_dir / "stage1"
    context.run_training(context.config.stage1, context.components, f"output={output}")
    return training_summary(output)


def train_stage2(context: BuildContext) -> dict[str, Any]:
    """Trains the paper's second stage with the command `train`."""
    output, start = context.work_dir / "stage2", context.work_dir / "stage1" / "adapter"
    context.run_training(context.config.stage2, context.components, f"output={output}", f"stage.init_from={start}")
    return training_summary(output)


def pack_pipeline(context: BuildContext) -> dict[str, Any]:
    """Writes the finished pipeline, without its model card."""
    adapter = context.work_dir / "stage2_more" / "adapter"
    return write_pipeline(
        context.components,
        adapter,
        context.corpus / MOTION_NORMALIZER_FILE,
        context.output,
        dataclasses.asdict(context.model.portrait),
        context.config.max_text_tokens,
        context.config.flow_shift,
    )


def _image_identities(config: PortraitImagesConfig) -> dict[str, range]:
    return {"training": range(config.num_identities), "held_out": HELD_OUT_IDENTITIES[: config.num_held_out]}


def _load_portrait_images(context: BuildContext) -> tuple[PortraitImages, PortraitImages]:
    identities, folder = _image_identities(context.config.portrait_images), context.work_dir / "stills"
    return load_portrait_images(identities["training"], folder), load_portrait_images(identities["held_out"], folder)

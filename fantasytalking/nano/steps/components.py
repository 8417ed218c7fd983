"""What each step of the build does. A step gives what it measured, and may be run again after a kill."""

import dataclasses
import logging
from typing import Any

from fantasytalking.encoders.arcface import FaceEncoder
from fantasytalking.encoders.wan import VideoAutoencoder
from fantasytalking.encoders.wav2vec import AudioEncoder
from fantasytalking.motion_normalizer import NORMALISER
from fantasytalking.nano.config import StillsConfig
from fantasytalking.nano.context import Workshop, corpus_summary
from fantasytalking.nano.corpora.frame_store import collect_frames
from fantasytalking.nano.corpora.portrait_images import Stills, collect_stills, load_stills
from fantasytalking.nano.corpora.speech_dataset import plan_held_out, plan_training, speech_set
from fantasytalking.nano.corpora.video_corpus import held_out_portions, make_videos, training_portions
from fantasytalking.nano.pack import pack
from fantasytalking.nano.trainers.audio_encoder import AudioTask, save_audio_encoder, token_accuracy
from fantasytalking.nano.trainers.base_transformer import write_fresh_base, write_trained_base
from fantasytalking.nano.trainers.component_trainer import fit, fitted
from fantasytalking.nano.trainers.face_encoder import FaceTask, export_face_network, verification_accuracy
from fantasytalking.nano.trainers.text_image_encoder import LanguageTask, save_language, train_tokenizer
from fantasytalking.nano.trainers.video_vae import VaeTask, reconstruction_quality, save_vae, set_latent_statistics
from fantasytalking.nano.training_log import training_summary

logger = logging.getLogger(__name__)

STATISTICS_CLIPS = 64
FIRST_HELD_OUT = 1000


def make_training_videos(shop: Workshop) -> dict[str, Any]:
    """The corpus, and a few held-out people to measure on."""
    config, drawn = shop.config.videos, (shop.config.size, shop.config.seed, shop.processes, shop.config.closeness)
    videos = make_videos(training_portions(config), shop.work / "videos", *drawn)
    held_out = make_videos(held_out_portions(config), shop.work / "videos_held_out", *drawn)
    return {"videos": videos, "held_out_videos": held_out}


def train_vae(shop: Workshop) -> dict[str, Any]:
    """The part `vae`, its latents' mean and deviation measured."""
    config, seed, folder = shop.config.vae, shop.config.seed, shop.folder("vae")
    frames = collect_frames(shop.work / "videos", folder / "frames")
    task = VaeTask(config, frames, seed, shop.device)
    report = fit(task, config.fit, folder, shop.device, seed)
    mean, deviation = set_latent_statistics(task.model, frames, min(STATISTICS_CLIPS, 2 * len(frames)), seed)
    save_vae(task.model, shop.components / "vae")
    held_out = collect_frames(shop.work / "videos_held_out", folder / "frames_held_out")
    shipped = VideoAutoencoder.from_pretrained(shop.components, device=shop.device)
    quality = reconstruction_quality(shipped, held_out)
    statistics = {"latent_mean_error": mean, "latent_deviation_error": deviation}
    return fitted(report, task.model) | statistics | quality


def train_audio_encoder(shop: Workshop) -> dict[str, Any]:
    """The part `audio_encoder`."""
    config, seed, folder = shop.config.audio, shop.config.seed, shop.folder("audio_encoder")
    logger.info(f"audio encoder: {config.utterances} utterances are spoken")
    speech = speech_set(plan_training(config.utterances, seed), folder / "speech.safetensors", shop.processes)
    task = AudioTask(config, shop.model.portrait.audio_dim, speech, seed, shop.device)
    report = fit(task, config.fit, folder, shop.device, seed)
    save_audio_encoder(task.encoder, shop.components / "audio_encoder")
    others = plan_held_out(config.held_out_utterances, seed)
    held_out = speech_set(others, folder / "speech_held_out.safetensors", shop.processes)
    shipped = AudioEncoder.from_pretrained(shop.components, subfolder="audio_encoder")
    return fitted(report, task.encoder) | token_accuracy(shipped, task.head.cpu(), held_out)


def draw_stills(shop: Workshop) -> dict[str, Any]:
    """Pictures of many people, for the face net and the text and image encoders."""
    config, folder = shop.config.stills, shop.folder("stills")
    drawn = (shop.config.size, folder, shop.config.seed, shop.processes, shop.config.closeness)
    counts = {}
    for name, people in _stills_people(config).items():
        for done in collect_stills(people, config.poses, *drawn):
            if done % 20 == 0:
                logger.info(f"stills: {done}/{len(people)} {name} people")
        counts[name] = len(people)
    return counts


def train_face_encoder(shop: Workshop) -> dict[str, Any]:
    """The part `face_encoder`."""
    config, seed = shop.config.face, shop.config.seed
    training, held_out = _load_stills(shop)
    task = FaceTask(config, training, seed, shop.device)
    report = fit(task, config.fit, shop.folder("face_encoder"), shop.device, seed)
    export_face_network(task.network, shop.components / "face_encoder" / "nano.onnx")
    shipped = FaceEncoder.from_pretrained(shop.components / "face_encoder")
    return fitted(report, task.network) | verification_accuracy(shipped, held_out, seed)


def train_language(shop: Workshop) -> dict[str, Any]:
    """The parts `text_encoder`, `tokenizer`, `image_encoder` and `image_processor`."""
    config, seed, wan = shop.config.language, shop.config.seed, shop.model.wan
    training, held_out = _load_stills(shop)
    tokenizer = train_tokenizer(config.vocabulary, seed)
    assert wan.image_dim is not None, "the miniature has image cross-attention"
    task = LanguageTask(config, tokenizer, (wan.text_dim, wan.image_dim), training, seed, shop.device)
    report = fit(task, config.fit, shop.folder("language"), shop.device, seed)
    found = task.matched(held_out, seed)
    save_language(task.text, task.image, tokenizer, config.image_size, shop.components)
    return fitted(report, task.model) | found


def prepare_clips(shop: Workshop) -> dict[str, Any]:
    """The corpus as features, by the public script."""
    size = shop.prepared(shop.config.size)
    shop.prepare(shop.config.prepare, shop.work / "videos", shop.corpus, shop.components, f"buckets=[{size}x{size}]")
    return corpus_summary(shop.corpus)


def train_base(shop: Workshop) -> dict[str, Any]:
    """The part `transformer`: image to video without sound, by the public training script."""
    fresh, output = shop.work / "fresh_base", shop.work / "base_run"
    write_fresh_base(shop.model, shop.config.seed, fresh)
    shop.train("train_stage1.py", shop.config.base, fresh, f"output={output}")
    write_trained_base(shop.model, output / "adapter", shop.components)
    return training_summary(output)


def train_stage1(shop: Workshop) -> dict[str, Any]:
    """The paper's first stage, by the public script."""
    output = shop.work / "stage1"
    shop.train("train_stage1.py", shop.config.stage1, shop.components, f"output={output}")
    return training_summary(output)


def train_stage2(shop: Workshop) -> dict[str, Any]:
    """The paper's second stage, by the public script."""
    output, start = shop.work / "stage2", shop.work / "stage1" / "adapter"
    shop.train("train_stage2.py", shop.config.stage2, shop.components, f"output={output}", f"stage.init_from={start}")
    return training_summary(output)


def pack_pipeline(shop: Workshop) -> dict[str, Any]:
    """The finished folder, without its model card."""
    adapter = shop.work / "stage2_more" / "adapter"
    return pack(
        shop.components,
        adapter,
        shop.corpus / NORMALISER,
        shop.output,
        dataclasses.asdict(shop.model.portrait),
        shop.config.text_length,
        shop.config.shift,
    )


def _stills_people(config: StillsConfig) -> dict[str, range]:
    return {
        "training": range(config.identities),
        "held_out": range(FIRST_HELD_OUT, FIRST_HELD_OUT + config.held_out),
    }


def _load_stills(shop: Workshop) -> tuple[Stills, Stills]:
    people, folder = _stills_people(shop.config.stills), shop.work / "stills"
    return load_stills(people["training"], folder), load_stills(people["held_out"], folder)

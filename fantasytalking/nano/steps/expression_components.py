"""Build steps of the expression encoder and of the expression reader, which evaluation uses."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.nano.context import BuildContext
from fantasytalking.nano.expression.expression_samples import (
    ExpressionSamples,
    load_expression_samples,
    render_expression_samples,
)
from fantasytalking.nano.expression.expression_training import ExpressionEncoderTask, evaluate_expression_encoder
from fantasytalking.nano.expression.reader_fitting import evaluate_expression_reader, fit_reader_weights
from fantasytalking.nano.trainers.component_trainer import report_values, train_component
from fantasytalking.nano.trainers.config import ExpressionEncoderTraining
from fantasytalking.portrait_world.people.identity import HELD_OUT_IDENTITIES

logger = logging.getLogger(__name__)

EXPRESSION_FOLDER = "expression_encoder"
FIRST_READER_IDENTITY = 500
"""First training identity of the reader, which must not share people with the encoder."""
READER_FILE = "expression_reader.safetensors"


@dataclass(frozen=True)
class _SampleRenderer:
    context: BuildContext

    def samples(self, subset: str, identities: range, seed: int) -> ExpressionSamples:
        """Returns images of `identities`; missing ones are rendered."""
        config, folder = self.context.config, self.context.step_folder(EXPRESSION_FOLDER) / subset
        rendering = (config.image_size, folder, seed, self.context.processes, config.zoom)
        for done in render_expression_samples(identities, config.expression_encoder.images_per_person, *rendering):
            if done % 20 == 0:
                logger.info(f"expression images, {subset}: {done}/{len(identities)} people")
        return load_expression_samples(identities, folder)


def train_expression_encoder(context: BuildContext) -> dict[str, Any]:
    """Trains the expression encoder and evaluates it on held-out people."""
    config, seed, folder = (
        context.config.expression_encoder,
        context.config.seed,
        context.step_folder(EXPRESSION_FOLDER),
    )
    renderer = _SampleRenderer(context)
    training = renderer.samples("training", range(config.num_identities), seed)
    held_out = renderer.samples("held_out", _held_out_identities(config), seed)
    task = ExpressionEncoderTask(config, training, seed, context.device)
    report = train_component(task, config.fit, folder, context.device, seed)
    task.standardize_features()
    ExpressionEncoder(task.network, context.device).save_pretrained(context.expression_encoder)
    shipped = ExpressionEncoder.from_pretrained(context.expression_encoder, device=context.device)
    return report_values(report, task.network) | evaluate_expression_encoder(shipped, task, held_out)


def fit_expression_reader(context: BuildContext) -> dict[str, Any]:
    """Fits the expression reader to other people than the encoder's and evaluates it on held-out people."""
    config, renderer, seed = context.config.expression_encoder, _SampleRenderer(context), context.config.seed
    samples = renderer.samples(
        "reader", range(FIRST_READER_IDENTITY, FIRST_READER_IDENTITY + config.num_identities), seed + 1
    )
    reader = fit_reader_weights(samples)
    reader.save(expression_reader_path(context))
    return dict(evaluate_expression_reader(reader, renderer.samples("held_out", _held_out_identities(config), seed)))


def expression_reader_path(context: BuildContext) -> Path:
    """Returns the path of the fitted reader. Evaluation finds it by this file name in the folder of metric weights."""
    return context.work_dir / READER_FILE


def _held_out_identities(config: ExpressionEncoderTraining) -> range:
    return HELD_OUT_IDENTITIES[: config.num_held_out]

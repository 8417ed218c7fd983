"""The steps of the build that make the expression encoder, and the reader that judges by expressions."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.nano.config import ExpressionEncoderTraining
from fantasytalking.nano.context import BuildContext
from fantasytalking.nano.expression.expression_samples import (
    ExpressionSamples,
    load_expression_samples,
    render_expression_samples,
)
from fantasytalking.nano.expression.expression_training import ExpressionEncoderTask, evaluate_expression_encoder
from fantasytalking.nano.expression.reader_fitting import evaluate_expression_reader, fit_reader_weights
from fantasytalking.nano.trainers.component_trainer import report_values, train_component

logger = logging.getLogger(__name__)

EXPRESSION_FOLDER = "expression_encoder"
FIRST_READER_IDENTITY = 500
FIRST_HELD_OUT_EXPRESSION_IDENTITY = 1000
READER_FILE = "expression_reader.safetensors"


@dataclass(frozen=True)
class _SampleRenderer:
    context: BuildContext

    def samples(self, subset: str, identities: range, seed: int) -> ExpressionSamples:
        """Pictures of `identities`, drawn where they are not there yet."""
        config, folder = self.context.config, self.context.step_folder(EXPRESSION_FOLDER) / subset
        drawn = (config.image_size, folder, seed, self.context.processes, config.zoom)
        for done in render_expression_samples(identities, config.expression_encoder.images_per_person, *drawn):
            if done % 20 == 0:
                logger.info(f"expressions: {done}/{len(identities)} people, {subset}")
        return load_expression_samples(identities, folder)


def train_expression_encoder(context: BuildContext) -> dict[str, Any]:
    """The expression encoder; what is read from it on held-out people."""
    config, seed, folder, drawing = (
        context.config.expression_encoder,
        context.config.seed,
        context.step_folder(EXPRESSION_FOLDER),
        _SampleRenderer(context),
    )
    training = drawing.samples("training", range(config.num_identities), seed)
    held_out = drawing.samples("held_out", _held_out_identities(config), seed)
    task = ExpressionEncoderTask(config, training, seed, context.device)
    report = train_component(task, config.fit, folder, context.device, seed)
    task.standardize_features()
    ExpressionEncoder(task.network, context.device).save_pretrained(context.expression_encoder)
    shipped = ExpressionEncoder.from_pretrained(context.expression_encoder, device=context.device)
    return report_values(report, task.network) | evaluate_expression_encoder(shipped, task, held_out)


def fit_expression_reader(context: BuildContext) -> dict[str, Any]:
    """The reader for evaluation, of other people and faces than the encoder's; what it reads on held-out people."""
    config, drawing, seed = context.config.expression_encoder, _SampleRenderer(context), context.config.seed
    others = drawing.samples(
        "reader", range(FIRST_READER_IDENTITY, FIRST_READER_IDENTITY + config.num_identities), seed + 1
    )
    reader = fit_reader_weights(others)
    reader.save(expression_reader_path(context))
    return dict(evaluate_expression_reader(reader, drawing.samples("held_out", _held_out_identities(config), seed)))


def expression_reader_path(context: BuildContext) -> Path:
    """Where the fitted reader lies: by its name evaluation finds it when the folder is given as that of weights."""
    return context.work_dir / READER_FILE


def _held_out_identities(config: ExpressionEncoderTraining) -> range:
    return range(FIRST_HELD_OUT_EXPRESSION_IDENTITY, FIRST_HELD_OUT_EXPRESSION_IDENTITY + config.num_held_out)

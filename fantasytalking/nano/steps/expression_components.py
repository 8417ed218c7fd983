"""The steps of the build that make the expression encoder, and the reader that judges by expressions."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.nano.config import ExpressionConfig
from fantasytalking.nano.context import Workshop
from fantasytalking.nano.expression.expression_samples import ExpressionSamples, collect_expressions, load_expressions
from fantasytalking.nano.expression.expression_training import ExpressionTask, measure_encoder
from fantasytalking.nano.expression.reader_fitting import fit_reader, measure_reader
from fantasytalking.nano.trainers.component_trainer import fit, fitted

logger = logging.getLogger(__name__)

FOLDER = "expression_encoder"
FIRST_OF_READER = 500
FIRST_HELD_OUT = 1000
READER = "expression_reader.safetensors"


@dataclass(frozen=True)
class _Drawing:
    shop: Workshop

    def samples(self, what: str, people: range, seed: int) -> ExpressionSamples:
        """Pictures of `people`, drawn where they are not there yet."""
        config, folder = self.shop.config, self.shop.folder(FOLDER) / what
        drawn = (config.size, folder, seed, self.shop.processes, config.closeness)
        for done in collect_expressions(people, config.expression.poses, *drawn):
            if done % 20 == 0:
                logger.info(f"expressions: {done}/{len(people)} people, {what}")
        return load_expressions(people, folder)


def train_expression_encoder(shop: Workshop) -> dict[str, Any]:
    """The expression encoder; what is read from it on held-out people."""
    config, seed, folder, drawing = shop.config.expression, shop.config.seed, shop.folder(FOLDER), _Drawing(shop)
    training = drawing.samples("training", range(config.people), seed)
    held_out = drawing.samples("held_out", _held_out(config), seed)
    task = ExpressionTask(config, training, seed, shop.device)
    report = fit(task, config.fit, folder, shop.device, seed)
    task.standardise()
    ExpressionEncoder(task.network, shop.device).save_pretrained(shop.expression_encoder)
    shipped = ExpressionEncoder.from_pretrained(shop.expression_encoder, device=shop.device)
    return fitted(report, task.network) | measure_encoder(shipped, task, held_out)


def fit_expression_reader(shop: Workshop) -> dict[str, Any]:
    """The reader for evaluation, of other people and faces than the encoder's; what it reads on held-out people."""
    config, drawing, seed = shop.config.expression, _Drawing(shop), shop.config.seed
    others = drawing.samples("reader", range(FIRST_OF_READER, FIRST_OF_READER + config.people), seed + 1)
    reader = fit_reader(others)
    reader.save(reader_path(shop))
    return dict(measure_reader(reader, drawing.samples("held_out", _held_out(config), seed)))


def reader_path(shop: Workshop) -> Path:
    """Where the fitted reader lies: by its name evaluation finds it when the folder is given as that of weights."""
    return shop.work / READER


def _held_out(config: ExpressionConfig) -> range:
    return range(FIRST_HELD_OUT, FIRST_HELD_OUT + config.held_out)

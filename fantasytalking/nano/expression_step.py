"""The step of the build that makes the expression encoder, and the reader that judges by expressions."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.nano.expression import ExpressionConfig, ExpressionTask, measure_encoder
from fantasytalking.nano.expression_reader import fit_reader, measure_reader
from fantasytalking.nano.expression_samples import ExpressionSamples, collect_expressions, load_expressions
from fantasytalking.nano.fitting import fit
from fantasytalking.nano.workshop import Workshop

logger = logging.getLogger(__name__)

FIRST_OF_READER = 500
FIRST_HELD_OUT = 1000
READER = "expression_reader.safetensors"


@dataclass(frozen=True)
class _Drawing:
    shop: Workshop
    config: ExpressionConfig

    def samples(self, what: str, people: range, seed: int) -> ExpressionSamples:
        """Pictures of `people`, drawn where they are not there yet."""
        config, folder = self.shop.config, self.shop.folder("expression_encoder") / what
        drawn = (config.size, folder, seed, self.shop.processes, config.closeness)
        for done in collect_expressions(people, self.config.poses, *drawn):
            if done % 20 == 0:
                logger.info(f"expressions: {done}/{len(people)} people, {what}")
        return load_expressions(people, folder)


def train_expression_encoder(shop: Workshop, config: ExpressionConfig) -> dict[str, Any]:
    """The part `expression_encoder`; what is read from it on held-out people."""
    seed, folder, drawing = shop.config.seed, shop.folder("expression_encoder"), _Drawing(shop, config)
    training = drawing.samples("training", range(config.people), seed)
    held_out = drawing.samples("held_out", _held_out(config), seed)
    task = ExpressionTask(config, training, seed, shop.device)
    report = fit(task, config.fit, folder, shop.device, seed)
    task.standardise()
    target = shop.components / "expression_encoder"
    ExpressionEncoder(task.network, shop.device).save_pretrained(target)
    found = measure_encoder(ExpressionEncoder.from_pretrained(target, device=shop.device), task, held_out)
    parameters = sum(value.numel() for value in task.network.parameters())
    losses = {"first_loss": report.first_loss, "last_loss": report.last_loss}
    return {"parameters": parameters, "steps": report.steps, **losses, **found}


def fit_expression_reader(shop: Workshop, config: ExpressionConfig) -> dict[str, Any]:
    """The reader for evaluation, of other people and faces than the encoder's; what it reads on held-out people."""
    drawing, seed = _Drawing(shop, config), shop.config.seed
    others = drawing.samples("reader", range(FIRST_OF_READER, FIRST_OF_READER + config.people), seed + 1)
    reader = fit_reader(others)
    reader.save(reader_path(shop))
    return dict(measure_reader(reader, drawing.samples("held_out", _held_out(config), seed)))


def reader_path(shop: Workshop) -> Path:
    """Where the fitted reader lies."""
    return shop.work / READER


def _held_out(config: ExpressionConfig) -> range:
    return range(FIRST_HELD_OUT, FIRST_HELD_OUT + config.held_out)

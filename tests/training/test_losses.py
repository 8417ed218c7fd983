"""Condition dropout, lip mask and the flow matching loss."""

import pytest
import torch

from fantasytalking.data.collate import TrainingBatch
from fantasytalking.flow_matching import LossNormalization, SigmaConfig
from fantasytalking.training.losses import FlowMatchingObjective, drop_conditions, loss_weight
from fantasytalking.training.rng import StepRandomness, step_randomness
from fantasytalking.training.stage_config import (
    DROPOUT_NAMES,
    DropoutConfig,
    LossConfig,
    LossWeight,
    MaskSampling,
    ReferenceDropoutTarget,
)
from tests.helpers.tiny_transformer import tiny_conditions, tiny_latents, tiny_transformer

LIP = LossConfig(weight=LossWeight.lip)
NO_DROPOUT = DropoutConfig(reference=0.0, audio=0.0, prompt=0.0)


def many_draws(count: int) -> StepRandomness:
    return step_randomness(3, 7, range(count), (1, 1, 1, 1))


def test_conditions_are_dropped_independently_at_their_rates():
    count, shares = 6000, DropoutConfig(reference=0.1, audio=0.2, prompt=0.3)
    conditions = tiny_conditions(batch=1, frames=1, size=2)
    many = conditions._replace(
        prompt_embeds=conditions.prompt_embeds[:, :1, :1].expand(count, 1, 1),
        image_latents=conditions.image_latents.expand(count, -1, -1, -1, -1),
        image_embeds=conditions.image_embeds[:, :1, :1].expand(count, 1, 1),
        condition_scale=torch.ones(count, 2),
    )
    dropped = drop_conditions(many, many_draws(count).dropout_uniform, shares)
    audio, face = (dropped.condition_scale == 0).unbind(dim=1)
    prompt = (dropped.prompt_embeds == 0).flatten(1).all(dim=1)
    for chosen, share in ((face, 0.1), (audio, 0.2), (prompt, 0.3)):
        assert chosen.float().mean().item() == pytest.approx(share, abs=0.02)  # 3 standard errors
    for first, second, share in ((face, audio, 0.02), (face, prompt, 0.03), (audio, prompt, 0.06)):
        assert (first & second).float().mean().item() == pytest.approx(share, abs=0.01)
    assert torch.equal(dropped.image_latents, many.image_latents)


@pytest.mark.parametrize("target", ReferenceDropoutTarget)
def test_reference_target_selects_what_is_dropped(target: ReferenceDropoutTarget):
    conditions = tiny_conditions(batch=2)
    config = DropoutConfig(reference=0.5, audio=0.0, prompt=0.0, reference_target=target)
    uniforms = {**dict.fromkeys(DROPOUT_NAMES, torch.tensor([0.9, 0.9])), "reference": torch.tensor([0.4, 0.6])}
    dropped = drop_conditions(conditions, uniforms, config)
    face = target in (ReferenceDropoutTarget.face, ReferenceDropoutTarget.all)
    picture = target in (ReferenceDropoutTarget.image, ReferenceDropoutTarget.all)
    assert dropped.condition_scale.tolist() == [[1.0, 0.0 if face else 1.0], [1.0, 1.0]]
    assert (dropped.image_latents[0].abs().max() == 0) == picture
    assert (dropped.image_embeds[0].abs().max() == 0) == picture
    for name in ("image_latents", "image_embeds", "prompt_embeds"):
        assert torch.equal(getattr(dropped, name)[1], getattr(conditions, name)[1])


def test_a_base_without_image_attention_has_no_image_embeds():
    conditions = tiny_conditions(batch=1)._replace(image_embeds=None)
    config = DropoutConfig(reference_target=ReferenceDropoutTarget.all)
    assert drop_conditions(conditions, dict.fromkeys(DROPOUT_NAMES, torch.zeros(1)), config).image_embeds is None


def test_lip_mask_is_used_where_p_exceeds_eta():
    mask = torch.rand(4, 1, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    draws = many_draws(4)._replace(
        mask_uniform=torch.tensor([0.1, 0.2, 0.21, 0.9]), step_mask_uniform=torch.full((4,), 0.9)
    )
    weight = loss_weight(mask, draws, LIP)
    assert torch.equal(weight[:2], torch.ones_like(mask[:2]))
    assert torch.equal(weight[2:], mask[2:])
    assert torch.equal(
        loss_weight(mask, draws, LossConfig(weight=LossWeight.lip, mask_sampling=MaskSampling.step)), mask
    )
    assert loss_weight(mask, draws, LossConfig()) is None


def test_p_is_masked_at_the_rate_of_eta():
    count = 4000
    weight = loss_weight(torch.zeros(count, 1, 1, 1, 1), many_draws(count), LIP)
    assert weight.mean().item() == pytest.approx(0.2, abs=0.02)
    per_step = torch.tensor(
        [step_randomness(0, step, [0, 1], (1, 1, 1, 1)).step_mask_uniform[0] for step in range(1000)]
    )
    assert (per_step <= 0.2).float().mean().item() == pytest.approx(0.2, abs=0.04)


@pytest.mark.parametrize("normalization", LossNormalization)
def test_flow_matching_loss_equals_its_formula(normalization: LossNormalization):
    model, conditions = tiny_transformer(), tiny_conditions()
    sample, _ = tiny_latents()
    mask = torch.rand(2, 1, *sample.shape[2:], generator=torch.Generator().manual_seed(5))
    draws = step_randomness(0, 0, [0, 1], sample.shape[1:])._replace(
        sigma_uniform=torch.tensor([0.2, 0.6]), mask_uniform=torch.tensor([0.1, 0.9])
    )
    config = LossConfig(weight=LossWeight.lip, normalization=normalization, sigmas=SigmaConfig(shift=3.0))
    with torch.no_grad():
        objective = FlowMatchingObjective(config, NO_DROPOUT)
        result = objective.compute_loss(model, TrainingBatch(sample, conditions, mask), draws, torch.float32)

        sigmas = torch.tensor([3 * 0.2 / 1.4, 3 * 0.6 / 2.2])
        noisy = (1 - sigmas.view(2, 1, 1, 1, 1)) * sample + sigmas.view(2, 1, 1, 1, 1) * draws.noise
        error = (model(noisy, 1000 * sigmas, conditions).sample - (draws.noise - sample)) ** 2
    area = 16 * mask[1].sum() if normalization is LossNormalization.mask else error[1].numel()
    expected = torch.stack([error[0].mean(), (mask[1] * error[1]).sum() / area])
    torch.testing.assert_close(result.loss, expected)
    torch.testing.assert_close(result.sigmas, sigmas)


def test_random_numbers_depend_on_seed_step_and_position_only():
    whole, part = step_randomness(1, 5, [0, 1, 2, 3], (2, 3)), step_randomness(1, 5, [2, 3], (2, 3))
    drawn = part._asdict() | part.dropout_uniform
    every = whole._asdict() | whole.dropout_uniform
    for name in drawn.keys() - {"dropout_uniform"}:
        assert torch.equal(drawn[name], every[name][2:])
    assert whole.step_mask_uniform.unique().numel() == 1
    for other in (
        step_randomness(2, 5, [0], (2, 3)),
        step_randomness(1, 6, [0], (2, 3)),
        step_randomness(1, 5, [1], (2, 3)),
    ):
        assert not torch.equal(other.noise[0], whole.noise[0])
        assert other.sigma_uniform[0] != whole.sigma_uniform[0]

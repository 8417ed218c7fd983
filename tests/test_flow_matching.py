"""The equations of flow matching, by hand."""

import pytest
import torch

from fantasytalking.common.config import load_config
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.flow_matching import (
    LossNormalization,
    SigmaConfig,
    SigmaDistribution,
    add_noise,
    flow_matching_loss,
    sample_sigmas,
)
from tests.helpers.errors import raises_input_error


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_noise_goes_straight_from_sample_to_noise():
    sample, noise = random(3, 16, 2, 4, 4), random(3, 16, 2, 4, 4, seed=1)
    noisy = add_noise(sample, noise, torch.tensor([0.0, 0.25, 1.0]))
    assert torch.equal(noisy[0], sample[0])
    assert torch.equal(noisy[2], noise[2])
    torch.testing.assert_close(noisy[1], 0.75 * sample[1] + 0.25 * noise[1])


def test_the_true_velocity_has_no_loss_and_leads_back_to_the_sample():
    sample, noise, sigmas = random(2, 16, 2, 4, 4), random(2, 16, 2, 4, 4, seed=1), torch.tensor([0.3, 0.8])
    velocity = noise - sample
    assert flow_matching_loss(velocity, sample, noise).tolist() == [0.0, 0.0]
    back = add_noise(sample, noise, sigmas) - sigmas.view(-1, 1, 1, 1, 1) * velocity
    torch.testing.assert_close(back, sample)


def test_loss_is_the_mean_squared_error_of_each_sample():
    prediction, sample, noise = (random(2, 16, 2, 4, 4, seed=seed) for seed in range(3))
    expected = [((prediction[i] - noise[i] + sample[i]) ** 2).mean().item() for i in range(2)]
    torch.testing.assert_close(flow_matching_loss(prediction, sample, noise), torch.tensor(expected))


def test_masked_loss_by_hand():
    sample, noise, prediction = torch.zeros(1, 2, 1, 2, 2), torch.zeros(1, 2, 1, 2, 2), torch.zeros(1, 2, 1, 2, 2)
    prediction[0, :, 0] = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 6.0]]])
    mask = torch.tensor([[0.0, 1.0], [0.0, 0.5]]).view(1, 1, 1, 2, 2)
    # Squared errors, averaged over the two channels: 1, 4, 9, (16 + 36) / 2 = 26.
    by_positions = flow_matching_loss(prediction, sample, noise, mask)
    assert by_positions.item() == pytest.approx((4 + 0.5 * 26) / 4)
    by_mask = flow_matching_loss(prediction, sample, noise, mask, LossNormalization.mask)
    assert by_mask.item() == pytest.approx((4 + 0.5 * 26) / 1.5)


def test_a_mask_of_ones_changes_nothing_and_an_empty_one_has_no_loss():
    prediction, sample, noise = (random(2, 16, 2, 4, 4, seed=seed) for seed in range(3))
    plain = flow_matching_loss(prediction, sample, noise)
    for normalisation in LossNormalization:
        ones = flow_matching_loss(prediction, sample, noise, torch.ones(2, 1, 2, 4, 4), normalisation)
        torch.testing.assert_close(ones, plain)
        empty = flow_matching_loss(prediction, sample, noise, torch.zeros(2, 1, 2, 4, 4), normalisation)
        assert empty.tolist() == [0.0, 0.0]


def test_loss_of_half_precision_is_computed_in_float32():
    prediction, sample, noise = (random(1, 16, 2, 4, 4, seed=seed) for seed in range(3))
    loss = flow_matching_loss(prediction.bfloat16(), sample, noise)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, flow_matching_loss(prediction.bfloat16().float(), sample, noise))


def test_shift_moves_sigmas_towards_noise():
    uniforms = torch.linspace(0, 0.999, 1000)
    assert torch.allclose(sample_sigmas(uniforms, SigmaConfig(shift=1.0)), uniforms)
    shifted = sample_sigmas(uniforms, SigmaConfig(shift=5.0))
    torch.testing.assert_close(shifted, 5 * uniforms / (1 + 4 * uniforms))
    assert (shifted.diff() > 0).all()
    assert shifted[0] == 0
    assert shifted[-1] < 1


def test_logit_normal_sigmas_have_the_stated_logits():
    uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    config = SigmaConfig(distribution=SigmaDistribution.logit_normal, mean=0.5, std=0.7, shift=1.0)
    logits = torch.logit(sample_sigmas(uniforms, config).double())
    assert logits.mean().item() == pytest.approx(0.5, abs=0.02)
    assert logits.std().item() == pytest.approx(0.7, abs=0.02)
    extremes = sample_sigmas(torch.tensor([0.0, 1 - 2**-24]), config)
    assert torch.isfinite(extremes).all()


@pytest.mark.parametrize(("name", "value"), [("shift", 0), ("std", 0), ("shift", 1000)])
def test_settings_out_of_range_are_rejected(name: str, value: float):
    with raises_input_error(ErrorCode.out_of_range, f"sigmas.{name}", value):
        load_config(SigmaConfig, None, [f"{name}={value}"])


@pytest.mark.parametrize("override", ["mean=nan", "distribution=normal"])
def test_settings_that_are_no_number_or_choice_are_rejected(override: str):
    with pytest.raises(InputError, match=override.partition("=")[0]):
        load_config(SigmaConfig, None, [override])

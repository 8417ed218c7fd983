"""The table of conditions names every tensor, parameter and probability of the code exactly once."""

from fantasytalking.condition_registry import registered_conditions
from fantasytalking.condition_specs import CONDITIONS, PER_BRANCH_TENSORS, PER_WINDOW_TENSORS
from fantasytalking.conditions import Conditions, ExpressionCondition, flatten_conditions, unflatten_conditions
from fantasytalking.models.cfg_branches import CfgOrder
from fantasytalking.models.expression_config import ExpressionModuleConfig
from fantasytalking.models.guidance_embedder import DistillationSpec
from fantasytalking.models.wan_loading import adapter_module_of, adapter_modules
from fantasytalking.training.rng import step_randomness
from fantasytalking.training.stage_config import DROPOUT_NAMES
from tests.helpers.tiny_transformer import tiny_conditions, tiny_transformer


def test_every_tensor_stands_in_one_entry():
    tensors = [name for spec in CONDITIONS for name in spec.tensors]
    inner = [f"expression.{name}" for name in ExpressionCondition._fields]
    outer = [name for name in Conditions._fields if name not in ("expression", "registered")]
    assert sorted(tensors) == sorted(outer + inner)
    assert set(PER_BRANCH_TENSORS) == {"prompt_embeds", "condition_scale", "expression.scale"}
    assert {
        **dict.fromkeys(["audio_embeds", "audio_mask", "speaker_regions"], "audio"),
        **dict.fromkeys([f"expression.{name}" for name in ("features", "present", "regions")], "expression"),
    } == PER_WINDOW_TENSORS


def test_every_parameter_of_the_papers_modules_belongs_to_one_entry():
    sizes = ExpressionModuleConfig((3, 2, 4, 5), (0, 0, 2, 3), token_dim=16, width=12, depth=1, heads=2, head_dim=4)
    distillation = DistillationSpec(4, 5.0, (1.0, 7.0), (1.0, 7.0), CfgOrder.text_first, 8)
    model = tiny_transformer(expression=sizes.to_dict(), distillation=distillation.to_dict())
    base = {name for name, _ in tiny_transformer().named_parameters() if adapter_module_of(name) is None}
    assert {name for name, _ in model.named_parameters() if adapter_module_of(name) is None} == base
    modules = adapter_modules().keys() - registered_conditions().keys()
    assert {adapter_module_of(name) for name, _ in model.named_parameters()} == {None, *modules}
    assert model.blocks[0].attn2.decoupled == tuple(spec.name for spec in CONDITIONS if spec.is_decoupled)


def test_a_probability_has_its_own_random_numbers():
    assert set(step_randomness(0, 0, [0], (1, 1, 1, 1)).dropout_uniform) == set(DROPOUT_NAMES)


def test_named_tensors_are_the_conditions():
    plain = tiny_conditions(batch=1)
    again = unflatten_conditions(flatten_conditions(plain))
    assert all(mine is theirs for mine, theirs in zip(again, plain, strict=True))

"""Configurations: types, suggestions, validation, and writing them back."""

from dataclasses import dataclass, field

import pytest
from omegaconf import MISSING

from fantasytalking.common.config import config_from_dict, load_config, preset_path, save_config
from fantasytalking.common.errors import ErrorCode, InputError
from tests.helpers.errors import raises_input_error


@dataclass
class Inner:
    rate: float = 0.5

    def validate(self) -> None:
        if not 0 <= self.rate <= 1:
            raise InputError(
                f"inner.rate is {self.rate}; 0 to 1", code=ErrorCode.out_of_range, field="inner.rate", value=self.rate
            )


@dataclass
class Outer:
    name: str = MISSING
    steps: int = 10
    sizes: list[int] = field(default_factory=lambda: [1, 2])
    inner: Inner = field(default_factory=Inner)


def write(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_file_then_overrides(tmp_path):
    path = write(tmp_path, "name: a\nsteps: 20\ninner: {rate: 0.1}\n")
    config = load_config(Outer, path, ["inner.rate=0.9", "sizes=[3]"])
    assert config == Outer("a", 20, [3], Inner(0.9))
    save_config(config, tmp_path / "resolved.yaml")
    assert load_config(Outer, tmp_path / "resolved.yaml") == config


@pytest.mark.parametrize(
    ("text", "overrides", "code", "field", "suggestion"),
    [
        ("name: a\nstep: 3\n", [], ErrorCode.unknown_key, "step", "did you mean 'steps'"),
        ("name: a\n", ["inner.rat=1"], ErrorCode.unknown_key, "inner.rat", "did you mean 'rate'"),
        ("name: a\nsteps: many\n", [], ErrorCode.invalid_type, "steps", ""),
        ("name: a\ninner: 3\n", [], ErrorCode.invalid_type, "inner", ""),
        ("name: a\nsizes: {}\n", [], ErrorCode.invalid_type, None, ""),
        ("steps: 3\n", [], ErrorCode.missing_value, "name", "name=..."),
        ("name: a\n", ["inner.rate=2"], ErrorCode.out_of_range, "inner.rate", "2.0"),
        ("name: a\n", ["steps"], ErrorCode.invalid_type, "override", "key=value"),
        ("name: a\n", ["=3"], ErrorCode.invalid_type, "override", "key=value"),
        ("- a\n", [], ErrorCode.malformed_file, "config", "ListConfig"),
        ("name: [\n", [], ErrorCode.malformed_file, "config", "YAML"),
        ("", [], ErrorCode.missing_value, "name", "name=..."),
    ],
)
def test_mistakes_are_named_with_their_cure(tmp_path, text, overrides, code, field, suggestion):
    with raises_input_error(code, field) as caught:
        load_config(Outer, write(tmp_path, text), overrides)
    assert suggestion in str(caught.value)


def test_a_missing_file_and_an_unknown_preset(tmp_path):
    with raises_input_error(ErrorCode.missing_file, "config"):
        load_config(Outer, tmp_path / "none.yaml")
    with raises_input_error(ErrorCode.invalid_choice, "model", "wan13b") as caught:
        preset_path("wan13b", "model")
    assert "did you mean 'wan1.3b'" in str(caught.value)


@pytest.mark.parametrize(
    "value", ["${oc.env:HOME}", "${steps}", "a ${oc.env:HOME,x}", "\\\\\\\\${steps}", "${oc.decode:${oc.env:A}}"]
)
def test_interpolations_are_refused_by_name(tmp_path, value):
    for text, overrides in [
        (f"name: '{value}'\n", []),
        ("name: a\n", [f"name={value}"]),
        (f"name: a\nsizes: ['{value}']\n", []),
    ]:
        with raises_input_error(ErrorCode.unsupported) as caught:
            load_config(Outer, write(tmp_path, text), overrides)
        assert caught.value.field in ("name", "sizes.0") and "not resolved" in str(caught.value)


def test_escaped_text_is_kept_and_written_back(tmp_path):
    config = load_config(Outer, write(tmp_path, "name: 'costs \\${5}'\n"))
    assert config.name == "costs ${5}"
    for name in ("costs ${5}", "${oc.env:HOME}", "${", "a\\${b}", "back\\slash"):
        config.name = name
        save_config(config, tmp_path / "resolved.yaml")
        assert load_config(Outer, tmp_path / "resolved.yaml") == config


def test_plain_values_mean_what_they_say():
    @dataclass
    class Texts:
        text: str = ""
        many: list[str] = field(default_factory=list)

    for text in ("${oc.env:HOME}", "x ${a} y\\", "\\${a}", "\\\\${a} \\ z", "${", "costs $5", "a\\b", "{a: 1}", "null"):
        assert config_from_dict(Texts, {"text": text, "many": [text]}, "record") == Texts(text, [text])
    with raises_input_error(ErrorCode.unknown_key, "txt") as caught:
        config_from_dict(Texts, {"txt": "a"}, "record")
    assert "did you mean 'text'" in str(caught.value)

"""Configuration at the door: typed, suggested, validated, written back."""

from dataclasses import dataclass, field

import pytest
from omegaconf import MISSING

from fantasytalking.common.config import config_from_dict, load_config, preset_path, save_config
from fantasytalking.common.errors import InputError


@dataclass
class Inner:
    rate: float = 0.5

    def validate(self) -> None:
        if not 0 <= self.rate <= 1:
            raise InputError(f"inner.rate is {self.rate}; 0 to 1")


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
    ("text", "overrides", "message"),
    [
        ("name: a\nstep: 3\n", [], "unknown key 'step'; did you mean 'steps'"),
        ("name: a\n", ["inner.rat=1"], "unknown key 'inner.rat'; did you mean 'rate'"),
        ("name: a\nsteps: many\n", [], "steps"),
        ("name: a\ninner: 3\n", [], "inner"),
        ("steps: 3\n", [], "no value for name"),
        ("name: a\n", ["inner.rate=2"], r"inner.rate is 2.0; 0 to 1"),
        ("name: a\n", ["steps"], "not of the form key=value"),
        ("name: a\n", ["=3"], "not of the form key=value"),
        ("- a\n", [], "must hold keys and values"),
        ("name: [\n", [], "not valid YAML"),
        ("", [], "no value for name"),
    ],
)
def test_mistakes_are_named_with_their_cure(tmp_path, text, overrides, message):
    with pytest.raises(InputError, match=message):
        load_config(Outer, write(tmp_path, text), overrides)


def test_a_missing_file_and_an_unknown_preset(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_config(Outer, tmp_path / "none.yaml")
    with pytest.raises(InputError, match=r"no preset 'wan13b'.*did you mean 'wan1.3b'"):
        preset_path("wan13b", "model")


def test_plain_values_mean_what_they_say():
    @dataclass
    class Texts:
        text: str = ""
        many: list[str] = field(default_factory=list)

    for text in ("${oc.env:HOME}", "x ${a} y\\", "\\${a}", "\\\\${a} \\ z", "${", "costs $5", "a\\b", "{a: 1}", "null"):
        assert config_from_dict(Texts, {"text": text, "many": [text]}, "record") == Texts(text, [text])
    with pytest.raises(InputError, match="record: unknown key 'txt'; did you mean 'text'"):
        config_from_dict(Texts, {"txt": "a"}, "record")

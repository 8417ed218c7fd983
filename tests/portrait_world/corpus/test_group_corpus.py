"""Tests of corpora of groups: people, texts, the script, resuming."""

import json
from pathlib import Path

import pytest
import yaml

from fantasytalking.common.errors import ErrorCode
from fantasytalking.portrait_world.corpus.clip_corpus import CorpusPlan, make_corpus
from fantasytalking.portrait_world.corpus.group_corpus import GroupCorpusPlan, parse_image_size, plan_world_corpus
from tests.helpers.errors import raises_input_error
from tests.helpers.paths import ROOT
from tests.helpers.scripts import run_script

LINES = tuple(f"Sentence {word}." for word in ("one", "two", "three", "four", "five"))


def plan(people: int = 2, size: tuple[int, int] = (160, 96), **others: float) -> GroupCorpusPlan:
    return GroupCorpusPlan(range(1000, 1010), LINES, people, size, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize("people", [2, 3])
def test_everyone_says_every_sentence_next_to_others(people: int) -> None:
    clips = list(plan(people, (80 * people, 96)).clips())
    assert len(clips) == 50
    assert len({clip.name for clip in clips}) == 50
    for clip in clips:
        texts = {role.identity: role.text for role in clip.roles}
        assert len(texts) == people, "everyone in a picture is somebody else"
        assert set(texts) <= set(range(1000, 1010))
        assert texts[clip.number] == LINES[clip.sentence]
    company = [role for clip in clips for role in clip.roles if role.identity != clip.number]
    assert 0.15 < sum(not role.text for role in company) / len(company) < 0.45
    places = [[role.identity for role in clip.roles].index(clip.number) for clip in clips]
    assert set(places) == set(range(people))


def test_a_group_keeps_its_people_and_depends_on_the_seed() -> None:
    groups = {}
    for clip in plan(3, (240, 96)).clips():
        assert groups.setdefault(clip.number, set(clip.identities)) == set(clip.identities)
    others = {clip.number: set(clip.identities) for clip in plan(3, (240, 96), seed=1).clips()}
    assert groups != others
    assert [clip.roles for clip in plan().clips()] == [clip.roles for clip in plan().clips()]


@pytest.mark.parametrize(
    ("wrong", "limit"),
    [
        ({"people": 4}, "from 1 to 3"),
        ({"people": 0}, "from 1 to 3"),
        ({"size": (160, 90)}, "multiples of 16"),
        ({"size": (152, 96)}, "multiples of 16"),
        ({"size": (96, 96)}, "106"),
        ({"size": (1296, 512)}, "1280"),
        ({"jitter": 0.06}, "0.05"),
        ({"jitter": -0.01}, "0.05"),
        ({"expression": 1.5}, "from 0 to 1"),
        ({"zoom": 0.9}, "from 1 to 1.5"),
    ],
)
def test_invalid_plans_are_rejected(wrong: dict[str, float], limit: str) -> None:
    ((field, value),) = wrong.items()
    with raises_input_error(ErrorCode.out_of_range, field, value) as caught:
        plan(**wrong)  # type: ignore[arg-type]
    assert limit in str(caught.value)


def test_a_group_of_three_needs_three_identities() -> None:
    with raises_input_error(ErrorCode.conflict, "identities", 2):
        GroupCorpusPlan(range(2), LINES, 3, (240, 96))


def test_sizes_are_parsed() -> None:
    assert parse_image_size("160x96", 2) == (160, 96)
    assert parse_image_size("96", 1) == (96, 96)
    assert parse_image_size("96", 2) == (160, 96)
    assert parse_image_size("96", 3) == (240, 96)
    for wrong in ("", "96x", "x96", "1x2x3", "-5", "²", "9999999"):
        with raises_input_error(ErrorCode.invalid_type, "size", wrong):
            parse_image_size(wrong, 2)


def test_one_person_per_video_is_a_portrait() -> None:
    chosen = {"expression": None, "body": None, "seed": 0, "zoom": 1.0}
    assert plan_world_corpus(range(2), LINES, 1, (96, 96), 0.0, **chosen) == CorpusPlan(range(2), LINES, size=96)  # type: ignore[arg-type]
    for size, jitter in (((160, 96), 0.0), ((96, 96), 0.01)):
        with raises_input_error(ErrorCode.conflict, "people", 1):
            plan_world_corpus(range(2), LINES, 1, size, jitter, **chosen)  # type: ignore[arg-type]


def test_the_script_renders_groups_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("Hop.\n")
    out = tmp_path / "out"
    arguments = ["--sentences", lines, "--identities", "5-6", "--people", 2, "--size", "160x96", "--output", out]
    done = run_script(monkeypatch, capsys, "make_portrait_world.py", *arguments, "--camera-jitter", 0.005)
    assert done.code == 0, done.err
    assert sorted(path.name for path in out.iterdir()) == ["corpus.json", "g0005_s0000", "g0006_s0000"]
    truth = json.loads((out / "g0005_s0000" / "truth.json").read_text())
    assert {person["identity"] for person in truth["people"]} == {5, 6}
    assert len({(x, y) for x, y in truth["jitter"]}) > 5
    build = yaml.safe_load((ROOT / "configs" / "nano" / "build.yaml").read_text())
    assert truth["closeness"] == build["zoom"] == 1.1846, "people are as large as nano knows them"

    same = GroupCorpusPlan(range(5, 7), ("Hop.",), 2, (160, 96), zoom=1.1846, jitter=0.005)
    assert list(make_corpus(same, out)) == [(2, 2)]
    (out / "g0006_s0000" / "truth.json").rename(tmp_path / "kept.json")
    assert next(make_corpus(same, out)) == (1, 2)
    with raises_input_error(ErrorCode.output_exists, "output", str(out)):
        next(make_corpus(GroupCorpusPlan(range(5, 7), ("Hop.",), 2, (160, 96), zoom=1.1846, jitter=0.005, seed=2), out))
    with raises_input_error(ErrorCode.output_exists, "output", str(out / "g0005_s0000")):
        next(make_corpus(GroupCorpusPlan(range(5, 7), ("Hip.",), 2, (160, 96), zoom=1.1846, jitter=0.005), out))

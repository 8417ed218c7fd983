"""A corpus of groups: who meets whom, what each says, the script, continued where it stopped."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fantasytalking.common.errors import InputError
from fantasytalking.portrait_world.corpus.clip_corpus import CorpusPlan, make_corpus
from fantasytalking.portrait_world.corpus.group_corpus import GroupCorpusPlan, parse_image_size, plan_world_corpus
from tests.helpers.paths import ROOT

LINES = tuple(f"Sentence {word}." for word in ("one", "two", "three", "four", "five"))


def plan(people: int = 2, size: tuple[int, int] = (160, 96), **others: float) -> GroupCorpusPlan:
    return GroupCorpusPlan(range(1000, 1010), LINES, people, size, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize("people", [2, 3])
def test_everyone_says_everything_beside_other_people(people: int) -> None:
    clips = list(plan(people, (80 * people, 96)).clips())
    assert len(clips) == 50
    assert len({clip.name for clip in clips}) == 50
    for clip in clips:
        said = {role.identity: role.text for role in clip.roles}
        assert len(said) == people, "everyone in a picture is somebody else"
        assert set(said) <= set(range(1000, 1010))
        assert said[clip.number] == LINES[clip.sentence]
    company = [role for clip in clips for role in clip.roles if role.identity != clip.number]
    assert 0.15 < sum(not role.text for role in company) / len(company) < 0.45
    places = [[role.identity for role in clip.roles].index(clip.number) for clip in clips]
    assert set(places) == set(range(people))


def test_a_group_keeps_its_company_and_a_seed_makes_another() -> None:
    groups = {}
    for clip in plan(3, (240, 96)).clips():
        assert groups.setdefault(clip.number, set(clip.identities)) == set(clip.identities)
    others = {clip.number: set(clip.identities) for clip in plan(3, (240, 96), seed=1).clips()}
    assert groups != others
    assert [clip.roles for clip in plan().clips()] == [clip.roles for clip in plan().clips()]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"people": 4}, "people is 4"),
        ({"people": 0}, "people is 0"),
        ({"size": (160, 90)}, "size is 160x90"),
        ({"size": (152, 96)}, "multiples of 16"),
        ({"size": (96, 96)}, "at least 106 pixels"),
        ({"size": (1296, 512)}, "1280"),
        ({"jitter": 0.06}, "jitter is 0.06"),
        ({"jitter": -0.01}, "jitter"),
        ({"expression": 1.5}, "expression"),
        ({"closeness": 0.9}, "closeness"),
    ],
)
def test_impossible_plans_are_refused(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(InputError, match=told):
        plan(**wrong)  # type: ignore[arg-type]


def test_a_company_of_three_needs_three_people() -> None:
    with pytest.raises(InputError, match="identities are 2 and a picture has 3"):
        GroupCorpusPlan(range(2), LINES, 3, (240, 96))


def test_sizes_are_read() -> None:
    assert parse_image_size("160x96", 2) == (160, 96)
    assert parse_image_size("96", 1) == (96, 96)
    assert parse_image_size("96", 2) == (160, 96)
    assert parse_image_size("96", 3) == (240, 96)
    for wrong in ("", "96x", "x96", "1x2x3", "-5", "²", "9999999"):
        with pytest.raises(InputError, match="size"):
            parse_image_size(wrong, 2)


def test_one_person_is_a_portrait_and_nothing_else() -> None:
    chosen = {"expression": None, "body": None, "seed": 0, "closeness": 1.0}
    assert plan_world_corpus(range(2), LINES, 1, (96, 96), 0.0, **chosen) == CorpusPlan(range(2), LINES, size=96)  # type: ignore[arg-type]
    for size, jitter in (((160, 96), 0.0), ((96, 96), 0.01)):
        with pytest.raises(InputError, match="for several people"):
            plan_world_corpus(range(2), LINES, 1, size, jitter, **chosen)  # type: ignore[arg-type]


def test_the_script_makes_groups_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("Hop.\n")
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "scripts" / "make_portrait_world.py"), "--sentences", str(lines)]
    command += ["--identities", "5-6", "--people", "2", "--size", "160x96", "--output", str(out), "--jitter", "0.005"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["corpus.json", "g0005_s0000", "g0006_s0000"]
    truth = json.loads((out / "g0005_s0000" / "truth.json").read_text())
    assert {person["identity"] for person in truth["people"]} == {5, 6}
    assert len({(x, y) for x, y in truth["jitter"]}) > 5

    made = (out / "g0005_s0000" / "truth.json").read_bytes()
    (out / "g0006_s0000" / "truth.json").rename(tmp_path / "kept.json")
    same = GroupCorpusPlan(range(5, 7), ("Hop.",), 2, (160, 96), jitter=0.005)
    assert list(make_corpus(same, out)) == [(1, 2), (2, 2)]
    assert (out / "g0006_s0000" / "truth.json").read_bytes() == (tmp_path / "kept.json").read_bytes()
    assert (out / "g0005_s0000" / "truth.json").read_bytes() == made
    with pytest.raises(InputError, match="holds clips made with"):
        next(make_corpus(GroupCorpusPlan(range(5, 7), ("Hop.",), 2, (160, 96), jitter=0.005, seed=2), out))
    with pytest.raises(InputError, match="says other words"):
        next(make_corpus(GroupCorpusPlan(range(5, 7), ("Hip.",), 2, (160, 96), jitter=0.005), out))

"""Renamed options of the command line."""

import argparse
import logging

import pytest

from fantasytalking.common.cli_aliases import add_argument_with_alias


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_argument_with_alias(parser, "--num-processes", "--processes", type=int, default=1, choices=(1, 2, 3))
    add_argument_with_alias(parser, "--rows", "--only", nargs="+", default=["all"])
    add_argument_with_alias(parser, "--quick", "--fast", action="store_true")
    return parser


def test_new_options_set_their_destination(parser: argparse.ArgumentParser, caplog: pytest.LogCaptureFixture) -> None:
    assert vars(parser.parse_args([])) == {"num_processes": 1, "rows": ["all"], "quick": False}
    given = parser.parse_args(["--num-processes", "2", "--rows", "a", "b", "--quick"])
    assert vars(given) == {"num_processes": 2, "rows": ["a", "b"], "quick": True}
    assert not caplog.records


def test_old_options_set_the_same_destination_and_warn(
    parser: argparse.ArgumentParser, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        given = parser.parse_args(["--processes", "2", "--only", "a", "b", "--fast"])
    assert vars(given) == {"num_processes": 2, "rows": ["a", "b"], "quick": True}
    assert [record.args for record in caplog.records] == [
        ("--processes", "--num-processes"),
        ("--only", "--rows"),
        ("--fast", "--quick"),
    ]


def test_old_options_are_checked_like_new_ones_and_are_not_listed(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in ("4", "two"):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args(["--processes", value])
        assert ended.value.code == 2
    help_text = parser.format_help()
    assert "--num-processes" in help_text and "--processes " not in help_text.replace("--num-processes ", "")
    assert "--only" not in help_text
    capsys.readouterr()


def test_a_required_option_may_be_given_under_its_old_name() -> None:
    parser = argparse.ArgumentParser()
    add_argument_with_alias(parser, "--driver", "--drive", required=True)
    assert parser.parse_args(["--drive", "a.mp4"]).driver == "a.mp4"

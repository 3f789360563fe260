"""What is asked in the moment before something is removed."""

from __future__ import annotations

import pytest

from modelcache.planning.evicting import Amount, Going, Rule
from modelcache.planning.using import User, Uses
from modelcache.service.lettinggo import may_go

OLD, NEW = "a" * 40, "b" * 40


def using(snapshot: str) -> Uses:
    return Uses((User("lease", "1", "m", frozenset({snapshot})),))


def going(rule: Rule, *snapshots: str) -> Going:
    return Going("m", snapshots, rule, Amount(1, 1), "why")


def test_who_uses_a_revision_keeps_the_model_that_would_go_whole() -> None:
    """Its older revision may have been decided on by itself, and so is not among the model's."""
    assert not may_go(using(OLD), going(Rule.LOWER_PRIORITY, NEW))
    assert may_go(Uses(), going(Rule.LOWER_PRIORITY, NEW))


def test_who_uses_a_revision_keeps_no_other() -> None:
    assert may_go(using(NEW), going(Rule.OLD_REVISION, OLD))
    assert not may_go(using(OLD), going(Rule.OLD_REVISION, OLD))


@pytest.mark.parametrize("rule", [Rule.LOWER_PRIORITY, Rule.OLD_REVISION])
def test_nothing_goes_while_it_is_not_known_who_uses_what(rule: Rule) -> None:
    assert not may_go(Uses(unknown="nobody says"), going(rule, OLD))
    assert may_go(Uses(unknown="nobody says"), going(Rule.LEFTOVER, "partial/key"))

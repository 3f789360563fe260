from __future__ import annotations

import sys
import threading

import pytest

from modelcache.cluster.known import Known
from modelcache.cluster.resources import Object


def thing(number: int) -> Object:
    return {"spec": {"number": number}}


def test_changes_are_news_and_what_is_equal_is_none() -> None:
    known = Known()
    assert known.put("a", thing(1))
    assert not known.put("a", thing(1))
    assert known.put("a", thing(2))
    assert known.drop("a", 10.0)
    assert not known.drop("a", 11.0)
    assert known.objects == {}


def test_what_somebody_looks_at_stays() -> None:
    known = Known()
    known.put("a", thing(1))
    before = known.objects
    assert known.objects is before
    known.put("b", thing(2))
    known.drop("a", 1.0)
    assert before == {"a": thing(1)}
    assert known.objects == {"b": thing(2)}
    with pytest.raises(TypeError):
        before["c"] = thing(3)  # type: ignore[index]


def test_a_list_replaces_everything_and_keeps_what_is_equal() -> None:
    known = Known()
    known.put("a", thing(1))
    known.put("b", thing(2))
    before = known.objects
    assert not known.replace({"b": thing(2), "a": thing(1)})
    assert known.objects is before
    assert known.replace({"a": thing(1), "c": thing(3)})
    assert known.objects == {"a": thing(1), "c": thing(3)}
    assert known.objects["a"] is before["a"]


def test_a_list_says_of_nothing_that_it_was_deleted() -> None:
    known = Known()
    known.put("a", thing(1))
    known.replace({})
    assert known.deleted == {}


def test_the_deleted_until_they_come_back() -> None:
    known = Known()
    for number, name in enumerate("abc"):
        known.put(name, thing(1))
        known.drop(name, float(number))
    assert known.deleted == {"a": 0.0, "b": 1.0, "c": 2.0}
    known.put("a", thing(1))
    known.replace({"a": thing(1), "b": thing(1)})
    assert known.deleted == {"c": 2.0}


def test_no_more_than_a_thousand_deleted_are_remembered() -> None:
    known = Known()
    for number in range(1500):
        known.drop(str(number), float(number))
    known.drop("600", 2000.0)
    assert len(known.deleted) == 1000
    assert min(map(int, known.deleted)) == 500
    assert list(known.deleted)[-1] == "600"


def test_many_events_in_a_row_are_cheap() -> None:
    """Nothing is copied for those that nobody looks at."""
    known = Known()
    known.replace({str(number): thing(number) for number in range(5000)})
    first = known.objects
    for number in range(5000):
        known.put(str(number), thing(-number - 1))
    assert known._snapshot is None
    assert first["17"] == thing(17)
    assert known.objects["17"] == thing(-18)


def test_looking_while_it_changes() -> None:
    known = Known()
    known.replace({str(number): thing(0) for number in range(100)})
    wrong: list[object] = []
    end = threading.Event()

    def look() -> None:
        while not end.is_set():
            objects = known.objects
            numbers = {value["spec"]["number"] for value in list(objects.values())}
            # Objects change in order: what is seen is one moment, of two neighbouring numbers.
            if len(objects) != 100 or max(numbers) - min(numbers) > 1:
                wrong.append(numbers)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        looking = [threading.Thread(target=look) for _ in range(3)]
        for thread in looking:
            thread.start()
        for number in range(1, 60):
            for name in range(100):
                known.put(str(name), thing(number))
        end.set()
        for thread in looking:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not wrong

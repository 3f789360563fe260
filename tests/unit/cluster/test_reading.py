from __future__ import annotations

import pytest

from modelcache.cluster.reading import read_model
from modelcache.errors import UsageError
from tests.unit.cluster.samples import URI, cached_model


def test_a_model_is_read_as_the_class_has_it() -> None:
    thing = cached_model(generation=4, priority=3, nodeSelector={"a": "b"})
    thing["metadata"] |= {"generateName": "m-", "annotations": None, "labels": {"x": "y"}}
    model = read_model({**thing, "status": {"whatever": 1}})
    assert (model.name, model.metadata.generation, model.spec.priority) == ("m", 4, 3)


def test_fields_of_a_newer_crd_are_passed_over() -> None:
    thing = cached_model(newField=3, refresh={"policy": "Poll", "jitter": "5m"})
    thing["spec"]["source"]["mirror"] = "x"
    thing["spec"]["nodeAffinity"] = {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [], "matchPods": []}]
        }
    }
    assert read_model(thing).spec.refresh.policy == "Poll"


def test_keys_of_a_mapping_are_not_taken_for_fields() -> None:
    selector = {"example.com/any": "x"}
    assert read_model(cached_model(nodeSelector=selector)).spec.node_selector == selector


def test_the_first_three_faults_are_told_in_one_line() -> None:
    terms = [{"matchExpressions": [{"key": f"k{i}", "operator": "In"}]} for i in range(5)]
    affinity = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    with pytest.raises(UsageError) as caught:
        read_model(cached_model(nodeAffinity=affinity))
    told = str(caught.value)
    assert told.count("needs at least one value") == 3
    assert told.endswith("; and 2 more")


def test_texts_that_yaml_could_not_hold_are_no_hindrance() -> None:
    thing = cached_model(uri="hf://nothing")
    thing["spec"]["source"]["include"] = ["\x7f\U0001f600*", "\ufffe"]
    with pytest.raises(UsageError, match=r"^spec\.source\.uri: 'hf://nothing' names no repository"):
        read_model(thing)
    thing["spec"]["source"]["uri"] = URI
    assert read_model(thing).spec.source.include[0] == "\x7f\U0001f600*"

"""CompileCaches as the API server has them."""

from __future__ import annotations

from typing import Any

import pytest

from modelcache.cluster.reading import read_cache
from modelcache.errors import UsageError
from modelcache.service.webhook import keep_cache
from tests.unit.cluster.injection.samples import cache_spec


def thing(**spec: Any) -> dict[str, Any]:
    metadata = {"name": "llama", "uid": "u", "generation": 1, "managedFields": [{"x": 1}]}
    return {"metadata": metadata, "spec": cache_spec().to_document() | spec, "status": {"x": 1}}


def test_the_spec_is_read() -> None:
    assert read_cache(thing()).spec == cache_spec()
    assert keep_cache(thing()) == {"spec": cache_spec()}


def test_fields_of_a_newer_version_are_left_out() -> None:
    assert read_cache(thing(newer={"x": 1})).spec == cache_spec()


def test_what_cant_be_read_is_told_and_kept_as_nothing() -> None:
    wrong = thing(model="No Name")
    with pytest.raises(UsageError, match=r"spec\.model"):
        read_cache(wrong)
    assert keep_cache(wrong) == {"spec": None}

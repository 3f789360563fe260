"""What holds of any pod: a second time changes nothing, nothing of the user's is lost, and the
patch leads from the one to the other."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from modelcache.cluster.injection import Config, Level, inject
from modelcache.cluster.jsonpatches import difference
from tests.unit.cluster.injection.samples import CACHES, CONFIG, KNOWN, Object, applied, pod

OURS = [
    *("modelcache-models", "modelcache-hub", "modelcache-cache", "modelcache-links"),
    *("modelcache-link", "modelcache-model-0", "modelcache-hub-0", "modelcache-1-hub"),
    *("modelcache-compile", "modelcache-compile-bundles", "modelcache-compile-work"),
    *("modelcache-compile-seed", "modelcache-compile-capture"),
]
NAMES = st.sampled_from([*OURS, "own", "other", "data"])
PLACES = st.sampled_from(
    [
        *("/mnt", "/mnt/models", "/mnt/models/a", "/modelcache/cache", "/modelcache", "/own"),
        *("/data/x", "/cache", "/cache/a"),
    ]
)
SOURCES: st.SearchStrategy[Object] = st.sampled_from(
    [
        {"emptyDir": {}},
        {"emptyDir": {"sizeLimit": "1Gi"}},
        {"hostPath": {"path": "/data/models", "type": "DirectoryOrCreate"}},
        {"hostPath": {"path": "/else"}},
        {"persistentVolumeClaim": {"claimName": "c"}},
    ]
)


def uniquely(things: st.SearchStrategy[Object], key: str) -> st.SearchStrategy[list[Object]]:
    return st.lists(things, max_size=4, unique_by=lambda thing: thing[key])


MOUNTS = uniquely(st.fixed_dictionaries({"name": NAMES, "mountPath": PLACES}), "mountPath")
VARIABLES = uniquely(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["HF_HUB_CACHE", "HF_HUB_OFFLINE", "VLLM_CACHE_ROOT", "A"]),
            "value": st.sampled_from(["/modelcache/cache", "/own", "/cache/vllm", "0", "1"]),
        }
    ),
    "name",
)


@st.composite
def containers(draw: st.DrawFn, name: str, cached: bool) -> Object:
    found: Object = {"name": name, "image": "x"}
    if cached or draw(st.booleans()):
        found["env"] = draw(VARIABLES)
    if not cached and draw(st.booleans()):
        found["volumeMounts"] = draw(MOUNTS)
    if draw(st.booleans()):
        found["resources"] = {"limits": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"}}
    return found


ODD_NAMES = ["unknown", "No"]
ODD_USERS = ["1", "0", "me", ""]
EXPRESSIONS = st.lists(
    st.sampled_from(
        [
            {"key": "zone", "operator": "Exists"},
            {"key": "modelcache.dev/model.a", "operator": "In", "values": ["Ready"]},
        ]
    ),
    max_size=2,
)
TERMS = st.lists(st.fixed_dictionaries({}, optional={"matchExpressions": EXPRESSIONS}), max_size=3)


@st.composite
def pods(draw: st.DrawFn, cached: bool = False) -> Object:
    """Any; `cached`: most of them get a compile cache, which of any few do."""
    models = draw(st.lists(st.sampled_from([*KNOWN, "unknown"]), max_size=3))
    found = pod(",".join(models), draw(st.sampled_from(["preferred", "required", None])))
    if cached or draw(st.booleans()):
        wanted = {"compile-cache": draw(st.sampled_from([*CACHES, *([] if cached else ODD_NAMES)]))}
        wanted |= {"compile-user": draw(st.sampled_from(["1"] if cached else ODD_USERS))}
        for name, value in wanted.items():
            found["metadata"]["annotations"][f"modelcache.dev/{name}"] = value
        if draw(st.booleans()):
            del found["metadata"]["annotations"]["modelcache.dev/model"]
    spec = found["spec"]
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    spec["containers"] = [draw(containers(name, cached)) for name in names]
    if draw(st.booleans()):
        more = draw(st.lists(NAMES.filter(lambda name: name not in names), max_size=2, unique=True))
        spec["initContainers"] = [draw(containers(name, cached)) for name in more]
    if draw(st.booleans()):
        volumes = draw(st.lists(NAMES, max_size=4, unique=True))
        spec["volumes"] = [{"name": name, **draw(SOURCES)} for name in volumes]
    if draw(st.booleans()):
        required = {"nodeSelectorTerms": draw(TERMS)}
        spec["affinity"] = {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}
        }
    # Nothing of it is there twice: what changes one volume would change another.
    made: Object = json.loads(json.dumps(found))
    return made


CONFIGS = st.builds(
    replace,
    st.just(CONFIG),
    level=st.sampled_from([Level.PRIVILEGED, *Level]),
    native_sidecars=st.booleans(),
    compile_port=st.sampled_from([8084, 0]),
)


@given(pods() | pods(cached=True), st.sampled_from([KNOWN, None]), CONFIGS)
def test_a_second_time_changes_nothing(
    given_pod: Object, known: dict[str, str] | None, config: Config
) -> None:
    once = inject(given_pod, known, config, CACHES)
    twice = inject(once.pod, known, config, CACHES)
    assert twice.pod == once.pod
    assert twice.warnings == once.warnings


@given(pods() | pods(cached=True))
def test_the_given_pod_is_not_changed(given_pod: Object) -> None:
    before = copy.deepcopy(given_pod)
    inject(given_pod, KNOWN, CONFIG, CACHES)
    assert given_pod == before


@given(pods() | pods(cached=True))
def test_the_patch_leads_from_the_one_to_the_other(given_pod: Object) -> None:
    after = inject(given_pod, KNOWN, CONFIG, CACHES).pod
    patch = json.loads(json.dumps(difference(given_pod, after)))
    assert applied(given_pod, patch) == after


@given(pods() | pods(cached=True))
def test_every_mount_has_its_volume_and_every_place_one_mount(given_pod: Object) -> None:
    spec = given_pod["spec"]
    everyone = [*spec["containers"], *spec.get("initContainers", ())]
    mounted = {mount["name"] for each in everyone for mount in each.get("volumeMounts", ())}
    before = {volume["name"] for volume in spec.get("volumes", ())}
    found = inject(given_pod, KNOWN, CONFIG, CACHES).pod["spec"]
    names = [volume["name"] for volume in found.get("volumes", ())]
    assert len(set(names)) == len(names)
    titles = [each["name"] for each in [*found["containers"], *found.get("initContainers", ())]]
    assert len(set(titles)) == len(titles)
    for container in [*found["containers"], *found.get("initContainers", ())]:
        mounts = container.get("volumeMounts", ())
        places = [mount["mountPath"] for mount in mounts]
        assert len(set(places)) == len(places)
        # One that names a volume that the user forgot is as wrong as it was.
        assert {mount["name"] for mount in mounts} <= {*names, *(mounted - before)}


def is_ours(name: str) -> bool:
    return name.startswith("modelcache-")


def with_own_variables() -> Object:
    """A pod that gets a compile cache, and has that engine's variable already."""
    found = pod("", None)
    wanted = {"compile-cache": "llama", "compile-user": "1"}
    found["metadata"]["annotations"] = {f"modelcache.dev/{k}": v for k, v in wanted.items()}
    (container,) = found["spec"]["containers"]
    container["env"] = [{"name": "VLLM_CACHE_ROOT", "value": "/own"}]
    return found


@given(pods() | pods(cached=True))
@example(with_own_variables())  # by chance it comes about too seldom
def test_what_has_no_name_of_ours_is_as_it_was(given_pod: Object) -> None:
    found = inject(given_pod, KNOWN, CONFIG, CACHES).pod
    assert found["metadata"] == given_pod["metadata"]
    before, after = given_pod["spec"], found["spec"]
    for field in ("containers", "initContainers"):
        for container in before.get(field, ()):
            (same,) = [each for each in after[field] if each["name"] == container["name"]]
            assert [m for m in same.get("volumeMounts", ()) if not is_ours(m["name"])] == [
                m for m in container.get("volumeMounts", ()) if not is_ours(m["name"])
            ]
            values = {each["name"]: each for each in same.get("env", ())}
            for variable in container.get("env", ()):
                if not variable["value"].startswith("/modelcache/"):
                    assert values[variable["name"]] == variable
    for volume in before.get("volumes", ()):
        if not is_ours(volume["name"]):
            assert volume in after["volumes"]


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["", "a", "a/b", "~", "~1"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["name", "a/b", "m~n", "~1", "", "mountPath"]), inner)
    ),
    max_leaves=16,
)


@given(st.dictionaries(st.text(max_size=2), JSON), st.dictionaries(st.text(max_size=2), JSON))
def test_a_patch_leads_from_any_document_to_any_other(before: Object, after: Object) -> None:
    found = applied(before, difference(before, after))
    assert json.dumps(found, sort_keys=True) == json.dumps(after, sort_keys=True)


@given(JSON)
def test_there_is_nothing_to_patch_between_equals(document: Any) -> None:
    assert difference(document, copy.deepcopy(document)) == []

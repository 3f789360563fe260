"""ValidatingAdmissionPolicies evaluated as the API server does it, by two implementations of CEL.

cel-python is the one in Python. It has no type checker, can't compare a map with null, and knows no
macros with two variables; so our expressions do without. cel-expr-python is Google's, over the C++
one; it checks types as the API server's (cel-go) does. Neither has Kubernetes' own functions, which
our expressions do without as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import celpy
from cel_expr_python import cel
from celpy.adapter import json_to_cel

from tests.support.manifests import Object

Program = Callable[[Mapping[str, Any]], Any]
Engine = Callable[[str], Program]


def cel_python(expression: str) -> Program:
    environment = celpy.Environment()
    program = environment.program(environment.compile(expression))

    def run(names: Mapping[str, Any]) -> Any:
        return _plain(program.evaluate({name: json_to_cel(v) for name, v in names.items()}))

    return run


_ANY = cel.Type.DYN
_FIELDS = cel.Type.Map(cel.Type.STRING, _ANY)
_GOOGLES = cel.NewEnv(
    variables={"object": _ANY, "oldObject": _ANY, "request": _FIELDS, "variables": _FIELDS}
)


def googles(expression: str) -> Program:
    compiled = _GOOGLES.compile(expression)
    return lambda names: compiled.eval(data=dict(names)).plain_value()


ENGINES: dict[str, Engine] = {"cel-python": cel_python, "cel-expr-python": googles}


class Policy:
    """One ValidatingAdmissionPolicy."""

    def __init__(self, document: Object, engine: Engine) -> None:
        self._spec = document["spec"]
        self._conditions = [engine(each["expression"]) for each in self._spec["matchConditions"]]
        self._variables = [
            (each["name"], engine(each["expression"])) for each in self._spec["variables"]
        ]
        self._validations = [
            (
                engine(each["expression"]),
                engine(each["messageExpression"]) if "messageExpression" in each else None,
                str(each.get("message")),
            )
            for each in self._spec["validations"]
        ]

    def matches(self, request: Object) -> bool:
        """Whether the API server would ask this policy."""
        asked = request["resource"]
        resource = "/".join(filter(None, (asked["resource"], request.get("subResource"))))
        return any(
            asked["group"] in rule["apiGroups"]
            and {"*", asked["version"]} & {*rule["apiVersions"]}
            and request["operation"] in rule["operations"]
            and resource in rule["resources"]
            for rule in self._spec["matchConstraints"]["resourceRules"]
        ) and all(_true(condition(_names(request, {}))) for condition in self._conditions)

    def refusals(self, request: Object) -> list[str]:
        """Why it refuses; empty: it doesn't. An expression that fails is an error of the test."""
        variables: dict[str, Any] = {}
        for name, program in self._variables:
            variables[name] = program(_names(request, variables))
        names = _names(request, variables)
        return [
            str(tell(names)) if tell else message
            for holds, tell, message in self._validations
            if not _true(holds(names))
        ]


def _names(request: Object, variables: Mapping[str, Any]) -> dict[str, Any]:
    """What an expression may name. Objects that the request doesn't have are null."""
    bare = {key: value for key, value in request.items() if key not in ("object", "oldObject")}
    return {
        "request": bare,
        "object": request.get("object"),
        "oldObject": request.get("oldObject"),
        "variables": variables,
    }


def _true(value: Any) -> bool:
    assert isinstance(value, bool), value
    return value


def _plain(value: Any) -> Any:
    """cel-python's values as JSON has them."""
    match value:
        case celpy.celtypes.BoolType():
            return bool(value)
        case celpy.celtypes.MapType():
            return {str(key): _plain(each) for key, each in value.items()}
        case celpy.celtypes.ListType():
            return [_plain(each) for each in value]
        case celpy.celtypes.IntType():
            return int(value)
        case celpy.celtypes.DoubleType():
            return float(value)
        case str():
            return str(value)
        case None:
            return None
    raise AssertionError(f"{type(value)} is no value of JSON: {value}")

"""Modules made from signature data that refuse every call the data does not name.

A behaviour is a plain class with the same method names; the double checks number, names and types
of the arguments first. Nothing else is reachable: what is not in the data does not exist.
"""

from __future__ import annotations

import enum
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIGNATURES = Path(__file__).parent / "signatures"


class RefusedCall(Exception):
    """The code under test made a call that the real library does not document."""


def read_signatures(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((SIGNATURES / f"{name}.json").read_text())
    return content


def make_module(data: dict[str, Any], behaviours: dict[str, Any]) -> types.ModuleType:
    """A module as the data describes it.

    behaviours: class name -> class that acts, function name -> function; a class under test may
    derive from the classes that have callbacks.
    """
    module = types.ModuleType(data["module"])
    for path, members in data.get("enums", {}).items():
        if "." not in path:
            setattr(module, path, enum.Enum(path, members))
    for name, description in data.get("classes", {}).items():
        setattr(module, name, _make_class(name, description, behaviours.get(name), module))
    for path, members in data.get("enums", {}).items():
        if "." in path:
            owner, name = path.split(".")
            setattr(getattr(module, owner), name, enum.Enum(name, members))
    for name, parameters in data.get("functions", {}).items():
        function = _checked(f"{data['module']}.{name}", parameters, behaviours[name], module)
        setattr(module, name, function)
    base = Exception
    for name in data.get("errors", []):
        error = type(name, (base,), {"__module__": data["module"]})
        setattr(module, name, error)
        base = getattr(module, data["errors"][0])
    return module


def _make_class(
    name: str, description: dict[str, Any], behaviour: Any, module: types.ModuleType
) -> type:
    """A class whose instances hold one of `behaviour` and pass checked calls on to it."""
    members: dict[str, Any] = {"__slots__": ("_acts", "__dict__")}
    constructor = description.get("constructor")

    def __init__(self: Any, *arguments: Any, **named: Any) -> None:
        if constructor is None:
            raise RefusedCall(f"{name} has no constructor: the library makes it")
        bound = _bind(name, constructor, arguments, named, module)
        self._acts = behaviour(*bound) if behaviour is not None else None

    members["__init__"] = __init__
    for method, parameters in description.get("methods", {}).items():
        members[method] = _method(f"{name}.{method}", method, parameters, module)
    for method, parameters in description.get("static", {}).items():
        function = _checked(f"{name}.{method}", parameters, getattr(behaviour, method), module)
        members[method] = staticmethod(function)
    for attribute in description.get("attributes", []):
        members[attribute] = property(
            lambda self, attribute=attribute: getattr(self._acts, attribute)
        )
    return type(name, (), members)


def wrap(module: types.ModuleType, name: str, acts: Any) -> Any:
    """An instance of a class that only the library makes."""
    double = object.__new__(getattr(module, name))
    double._acts = acts
    return double


def _method(
    full_name: str, method: str, parameters: list[list[str]], module: types.ModuleType
) -> Callable[..., Any]:
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        bound = _bind(full_name, parameters, arguments, named, module)
        return getattr(self._acts, method)(*bound)

    return call


def _checked(
    full_name: str,
    parameters: list[list[str]],
    function: Callable[..., Any],
    module: types.ModuleType,
) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        return function(*_bind(full_name, parameters, arguments, named, module))

    return call


def _bind(
    full_name: str,
    parameters: list[list[str]],
    arguments: tuple[Any, ...],
    named: dict[str, Any],
    module: types.ModuleType,
) -> list[Any]:
    """Arguments in the order of the parameters; one whose type ends in "?" may be left out."""
    names = [parameter[0] for parameter in parameters]
    if len(arguments) > len(names) or not named.keys() <= set(names[len(arguments) :]):
        raise RefusedCall(f"{full_name} takes {names}, not {len(arguments)} and {sorted(named)}")
    given = dict(zip(names, arguments, strict=False)) | named
    bound = []
    for name, kind in parameters:
        is_optional = kind.endswith("?")
        if name not in given:
            if not is_optional:
                raise RefusedCall(f"{full_name} was called without {name}")
            bound.append(None)
            continue
        value = given[name]
        if not (is_optional and value is None):
            _check_type(f"{full_name}: {name}", kind.rstrip("?"), value, module)
        bound.append(value)
    return bound


def _check_type(what: str, kind: str, value: Any, module: types.ModuleType) -> None:
    plain = {"int": int, "str": str, "bool": bool, "float": float, "dict": dict, "list": list}
    if kind == "any":
        return
    if kind == "buffer":
        memoryview(value)  # TypeError: no buffer
        return
    if kind == "path":
        if not isinstance(value, Path):
            raise RefusedCall(f"{what} is {value!r}, not a path")
        return
    if kind == "shape":
        if not isinstance(value, tuple) or not all(type(size) is int for size in value):
            raise RefusedCall(f"{what} is {value!r}, not a tuple of numbers")
        return
    expected = plain.get(kind) or getattr(module, kind)
    exact = type(value) is expected if kind in plain else isinstance(value, expected)
    if not exact:
        raise RefusedCall(f"{what} is {type(value).__name__} {value!r}, not {kind}")

"""A configuration field that knows its limits: `mode: int = setting(2, minimum=0, maximum=3)`."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any

from duplex_asr.errors import ConfigError


def setting(
    default: Any,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[Any, ...] | None = None,
    is_octal: bool = False,
) -> Any:
    """A dataclass field with a default and the values that `check_settings` will allow.

    is_octal: messages show the value as people write it, 0o660.
    """
    limits = {"minimum": minimum, "maximum": maximum, "choices": choices, "is_octal": is_octal}
    return field(default=default, metadata={"limits": limits})


def check_settings(section: object, name: str) -> None:
    """Raise ConfigError, naming `name.key` and the allowed values, if a field is out of range."""
    for each in fields(section):  # type: ignore[arg-type]
        limits = each.metadata.get("limits")
        value = getattr(section, each.name)
        if limits is None or value is None:
            continue
        minimum, maximum, choices = limits["minimum"], limits["maximum"], limits["choices"]
        if choices is not None and value not in choices:
            allowed = ", ".join(repr(choice) for choice in choices)
            raise ConfigError(f"{name}.{each.name} = {value!r}: allowed values are {allowed}")
        is_above = minimum is None or value >= minimum  # NaN is neither
        is_below = maximum is None or value <= maximum
        if not (is_above and is_below):
            shown = _show(value, limits)
            raise ConfigError(f"{name}.{each.name} = {shown}: it must be {describe_range(limits)}")


def describe_range(limits: dict[str, Any]) -> str:
    """The allowed range in words, for error messages and `check-config`."""
    minimum, maximum = limits["minimum"], limits["maximum"]
    if minimum is not None and maximum is not None:
        return f"between {_show(minimum, limits)} and {_show(maximum, limits)}"
    if minimum is not None:
        return f"at least {_show(minimum, limits)}"
    return f"at most {_show(maximum, limits)}"


def _show(value: Any, limits: dict[str, Any]) -> str:
    return oct(value) if limits["is_octal"] else repr(value)

"""How English says what espeak-ng reads wrongly: a match of a pattern in, words out.

A rule may say None: then the text stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

Say = Callable[[re.Match[str]], "str | None"]


@dataclass(frozen=True)
class Rule:
    pattern: re.Pattern[str]
    say: Say


_MONTHS = (
    "January February March April May June July August September October November December".split()
)
_CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "", ""),
}
_UNITS = {
    "km/h": ("kilometer per hour", "kilometers per hour"),
    "m/s": ("meter per second", "meters per second"),
    "mph": ("mile per hour", "miles per hour"),
    "km": ("kilometer", "kilometers"),
    "m": ("meter", "meters"),
    "cm": ("centimeter", "centimeters"),
    "mm": ("millimeter", "millimeters"),
    "km²": ("square kilometer", "square kilometers"),
    "m²": ("square meter", "square meters"),
    "m³": ("cubic meter", "cubic meters"),
    "ft": ("foot", "feet"),
    "mi": ("mile", "miles"),
    "kg": ("kilogram", "kilograms"),
    "g": ("gram", "grams"),
    "mg": ("milligram", "milligrams"),
    "lb": ("pound", "pounds"),
    "lbs": ("pound", "pounds"),
    "oz": ("ounce", "ounces"),
    "l": ("liter", "liters"),
    "L": ("liter", "liters"),
    "ml": ("milliliter", "milliliters"),
    "h": ("hour", "hours"),
    "min": ("minute", "minutes"),
    "s": ("second", "seconds"),
    "ms": ("millisecond", "milliseconds"),
    "B": ("byte", "bytes"),
    "kB": ("kilobyte", "kilobytes"),
    "KB": ("kilobyte", "kilobytes"),
    "MB": ("megabyte", "megabytes"),
    "GB": ("gigabyte", "gigabytes"),
    "TB": ("terabyte", "terabytes"),
    "Hz": ("hertz", "hertz"),
    "kHz": ("kilohertz", "kilohertz"),
    "MHz": ("megahertz", "megahertz"),
    "GHz": ("gigahertz", "gigahertz"),
    "V": ("volt", "volts"),
    "mV": ("millivolt", "millivolts"),
    "W": ("watt", "watts"),
    "kW": ("kilowatt", "kilowatts"),
    "kWh": ("kilowatt hour", "kilowatt hours"),
    "mA": ("milliamp", "milliamps"),
    "hPa": ("hectopascal", "hectopascals"),
    "dB": ("decibel", "decibels"),
    "°C": ("degree Celsius", "degrees Celsius"),
    "°F": ("degree Fahrenheit", "degrees Fahrenheit"),
}
_SHORT_FORMS = {
    "Dr": "Doctor",
    "Mr": "Mister",
    "Mrs": "Missis",
    "Ms": "Miz",
    "Prof": "Professor",
    "St": "Saint",
    "vs": "versus",
    "approx": "approximately",
    "i.e": "that is",
    "e.g": "for example",
}
_DENOMINATORS = {
    2: ("half", "halves"), 3: ("third", "thirds"), 4: ("quarter", "quarters"),
    5: ("fifth", "fifths"), 6: ("sixth", "sixths"), 7: ("seventh", "sevenths"),
    8: ("eighth", "eighths"), 9: ("ninth", "ninths"), 10: ("tenth", "tenths"),
}  # fmt: skip
_DECADES = "tens twenties thirties forties fifties sixties seventies eighties nineties".split()
_NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
_SIGNS = {"~": "about", "≈": "about", "<": "less than", ">": "more than", "≤": "at most",
          "≥": "at least", "#": "number"}  # fmt: skip


def english_rules(language: str) -> list[Rule]:
    """In the order in which they are tried at one place.

    language: "en-us" reads 11/20 as November 20th, other tags as the 11th of a month.
    """
    is_us = language.lower() in ("en", "en-us")
    units = "|".join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))
    before = r"(?<![\w.,/:@-])"
    after = r"(?![\w²³°/@-]|[.,:]\w)"
    patterns: list[tuple[str, Say]] = [
        (rf"{before}(\d{{4}})-(\d\d)-(\d\d){after}", lambda m: _date(m[1], m[2], m[3])),
        (
            rf"{before}(\d{{1,2}})/(\d{{1,2}})/(\d{{4}}){after}",
            lambda m: _date(m[3], m[1], m[2]) if is_us else _date(m[3], m[2], m[1]),
        ),
        (rf"{before}(\d{{1,2}})\.(\d{{1,2}})\.(\d{{4}}){after}", lambda m: _date(m[3], m[2], m[1])),
        (rf"{before}\d+(?:\.\d+){{2,}}{after}", lambda m: m[0].replace(".", " point ")),
        (
            rf"{before}(\d{{1,2}}):(\d\d)(?:\s?([AaPp])\.?[Mm]\b)?(?!\d|:\d)",
            _time,
        ),
        (
            r"([$€£¥])\s?(\d+(?:,\d{3})*)(\.\d+)?(?: (million|billion|trillion)\b)?"
            r"(?![\w]|[.,]\d)",
            lambda m: _money(m[1], m[2], m[3], m[4]),
        ),
        (
            rf"{before}(\d+(?:,\d{{3}})*)(\.\d+)? ?([$€£¥])(?!\w)",
            lambda m: _money(m[3], m[1], m[2], None),
        ),
        (rf"{before}(?:(\d+) )?(\d{{1,2}})/(\d{{1,2}}){after}", _fraction),
        (rf"{before}(\d+) - (\d+){after}", _difference),
        (
            rf"{before}({_NUMBER}) ?(?:–|-) ?({_NUMBER})[ \u00a0\u202f]?({units}|%){after}",
            _range,
        ),
        (rf"{before}({_NUMBER})–({_NUMBER}){after}", _range),
        (rf"{before}(\d{{1,2}}|(?:19|20)\d\d)-(\d{{1,2}}|(?:19|20)\d\d){after}", _range),
        (rf"{before}(1[1-9]|20)([1-9])0s\b", lambda m: f"{m[1]} {_DECADES[int(m[2]) - 1]}"),
        (r"(?<=\b[Tt]he )([1-9])0s\b", lambda m: _DECADES[int(m[1]) - 1]),
        (
            rf"(?<![\w.,/:@])((?:-|−)?{_NUMBER})[ \u00a0\u202f]?({units}){after}",
            lambda m: f"{_signed(m[1])} {_UNITS[m[2]][m[1] != '1']}",
        ),
        (r"\b(Dr|Mr|Mrs|Ms|Prof|St)\.(?=\s+[A-Z])", lambda m: _SHORT_FORMS[m[1]]),
        (r"\b(vs|approx|i\.e|e\.g)\.(?=\s|,)", lambda m: _SHORT_FORMS[m[1]]),
        (r"\b[Nn]o\.(?=\s?\d)", lambda m: "number"),
        (r"(?<!\S)([~≈<>≤≥#])\s?(?=\d)", lambda m: f"{_SIGNS[m[1]]} "),
        (r"(?<![\w.])\.(?=\d)", lambda m: "point "),
    ]
    return [Rule(re.compile(pattern, re.MULTILINE), say) for pattern, say in patterns]


def _signed(number: str) -> str:
    return number if number[0] not in "-−" else f"minus {number[1:]}"


def _date(year: str, month: str, day: str) -> str | None:
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return None
    return f"{_MONTHS[int(month) - 1]} {_ordinal(int(day))}, {year}"


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 < number < 14 else ending}"


def _time(match: re.Match[str]) -> str | None:
    hour, minute, half = int(match[1]), int(match[2]), match[3]
    if hour > 24 or minute > 59:
        return None
    suffix = f" {half.upper()}M" if half else ""
    if minute:
        return f"{hour} {f'oh {minute}' if minute < 10 else minute}{suffix}"
    if half or 0 < hour < 13:
        return f"{hour}{suffix}" if half else f"{hour} o'clock"
    return f"{hour or 'zero'} hundred"


def _money(sign: str, whole: str, rest: str | None, scale: str | None) -> str | None:
    one, many, one_part, many_parts = _CURRENCIES[sign]
    if scale:
        return f"{whole}{rest or ''} {scale} {many}"
    if rest is None:
        return f"{whole} {one if whole == '1' else many}"
    if len(rest) != 3 or not many_parts:  # not so many cents
        return f"{whole}{rest} {many}"
    parts = int(rest[1:])
    said_parts = f"{parts} {one_part if parts == 1 else many_parts}"
    if whole == "0":
        return said_parts
    said = f"{whole} {one if whole == '1' else many}"
    return f"{said} and {said_parts}" if parts else said


def _fraction(match: re.Match[str]) -> str | None:
    above, below = int(match[2]), int(match[3])
    if below not in _DENOMINATORS or not 0 < above < below:
        return None
    part = _DENOMINATORS[below][above > 1]
    said = f"{'one' if above == 1 else above} {part}"
    return f"{match[1]} and {'a ' + part if above == 1 else said}" if match[1] else said


def _difference(match: re.Match[str]) -> str:
    return f"{match[1]} {'to' if int(match[1]) < int(match[2]) else 'minus'} {match[2]}"


def _range(match: re.Match[str]) -> str | None:
    low, high = (float(match[index].replace(",", "")) for index in (1, 2))
    unit = match[3] if match.re.groups == 3 else None
    if low >= high:
        return None
    said = f"{match[1]} to {match[2]}"
    return said if unit is None else f"{said} {_UNITS[unit][1] if unit in _UNITS else 'percent'}"

"""Values of arguments: each function makes one of the text, or says what to give instead."""

import math
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def number(
    bounds: str = "",
    low: float = -math.inf,
    high: float = math.inf,
    kind: type = float,
    words: Sequence[str] = (),
) -> Callable[[str], Any]:
    """A number within bounds, which the message states, or one of some words."""
    noun = "a whole number" if kind is int else "a number"

    def value(text: str) -> Any:
        if text in words:
            return text
        try:
            given = kind(text)
        except ValueError:
            given = math.nan
        if not low <= given <= high:
            raise ArgumentTypeError(f"'{text}': give {noun}{bounds and ', '}{bounds}")
        return given

    return value


def at_least(low: int) -> Callable[[str], Any]:
    return number(f"{low} or more", low, kind=int)


not_negative = number("0 or more", 0, sys.float_info.max)
positive = number("above 0", sys.float_info.min, sys.float_info.max)
part = number("0 to 1", 0, 1)


def series(kind: Callable[[str], float], bounds: str) -> Callable[[str], Any]:
    """Several numbers as a list; a first and a last one, of a pull, as a pair."""

    def numbers(text: str) -> list[float] | tuple[float, float]:
        try:
            if ":" in text:
                first, last = map(kind, text.split(":"))
                return first, last
            return list(dict.fromkeys(kind(one) for one in text.split(",")))
        except (ArgumentTypeError, ValueError):
            raise ArgumentTypeError(f"'{text}': give a number, {bounds}") from None

    return numbers


blur_series = series(not_negative, "0 or more, several as 0,5,10,15, or a pull as 0:15")
f_number_series = series(positive, "above 0, several as 1.4,2.8,5.6, or a pull as 16:1.4")


def pair(kind: Callable[[str], float], given: str) -> Callable[[str], Any]:
    """Two numbers, which the message asks for as they are ``given``."""

    def both(text: str) -> tuple[float, float]:
        try:
            first, second = map(kind, text.split(","))
        except ValueError:
            raise ArgumentTypeError(f"'{text}': give {given}") from None
        return first, second

    return both


pixel = pair(int, "the pixel as X,Y, for example 256,128")
metre_range = pair(float, "metres as NEAR,FAR, for example 1,20")


def file(text: str) -> Path:
    if not (path := Path(text)).is_file():
        wrong = "is a folder" if path.is_dir() else "does not exist"
        raise ArgumentTypeError(f"file {path} {wrong}")
    return path


def existing(text: str) -> Path:
    if not Path(text).exists():
        raise ArgumentTypeError(f"{text} does not exist")
    return Path(text)


def new_file(*suffixes: str) -> Callable[[str], Path]:
    def name(text: str) -> Path:
        path = Path(text)
        if suffixes and path.suffix.lower() not in suffixes:
            raise ArgumentTypeError(f"{path}: give a name that ends in {' '.join(suffixes)}")
        if not path.parent.is_dir():
            raise ArgumentTypeError(f"{path}: there is no folder {path.parent}")
        return path

    return name

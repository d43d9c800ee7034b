"""The scalar types of the configuration: durations, sizes, shares, rates, flags, addresses, paths.

Each is an annotated type: a parser for what people write, and a JSON Schema for their editors.

Owns:       text and number -> value, one by one.
Leaves to:  the models (limits of a field), references.py (what one value says about another).
Invariant:  a parser's ValueError says `{value}` where the value would stand and never repeats it,
            so that problems.py decides whether it may be shown (a token may not).
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core.core_schema import CoreSchema, no_info_before_validator_function

from greenproxy.config.address import UNIX_PREFIX, Address

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {"": 1, "B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_RATE_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_NUMBER = r"([0-9]{1,15}(?:\.[0-9]{1,9})?)"
_DURATION = re.compile(rf"{_NUMBER}(ms|s|m|h|d)\Z")
_SIZE = re.compile(rf"{_NUMBER}(B|KB|MB|GB|TB)?\Z", re.IGNORECASE)
_PERCENTAGE = re.compile(rf"{_NUMBER}%\Z")
_RATE = re.compile(rf"{_NUMBER}/(s|m|h|d)\Z")
_FLAGS = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}

_MAX_DURATION = 366 * 86400.0


def parse_duration(value: object) -> float:
    """`200ms 5s 1m 1h 2d` -> seconds. A number without a unit is refused: seconds here, milliseconds elsewhere.

    Raises ValueError.
    """
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None:
        if value == 0 and not isinstance(value, bool):
            return 0.0
        raise ValueError("{value} is not a duration such as 200ms, 5s, 1m, 1h or 2d")
    seconds = float(match[1]) * _DURATION_UNITS[match[2]]
    if seconds > _MAX_DURATION:
        raise ValueError("a duration is at most 366d")
    return seconds


def parse_size(value: object) -> int:
    """`64KB 10MB 1GB` or a plain number of bytes -> bytes; K is 1024. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        match = _SIZE.match(value) if isinstance(value, str) else None
        if match is None:
            raise ValueError("{value} is not a size such as 64KB, 10MB or 1GB")
        size = int(float(match[1]) * _SIZE_UNITS[(match[2] or "").upper()])
    if not 0 <= size <= 1 << 60:
        raise ValueError("{value} is not a size such as 64KB, 10MB or 1GB")
    return size


def parse_percentage(value: object) -> float:
    """`20%` -> 0.2. Raises ValueError."""
    match = _PERCENTAGE.match(value) if isinstance(value, str) else None
    if match is None or float(match[1]) > 100:
        raise ValueError("{value} is not a percentage from 0% to 100%")
    return float(match[1]) / 100


def parse_rate(value: object) -> float:
    """`10/s 1000/h` -> events a second. Raises ValueError."""
    match = _RATE.match(value) if isinstance(value, str) else None
    if match is None or float(match[1]) == 0:
        raise ValueError("{value} is not a rate such as 10/s, 600/m or 1000/h")
    return float(match[1]) / _RATE_UNITS[match[2]]


def parse_flag(value: object) -> bool:
    """`true false`, and `on off yes no`, which YAML 1.2 leaves as text. Raises ValueError."""
    flag = value if isinstance(value, bool) else _FLAGS.get(value.lower()) if isinstance(value, str) else None
    if flag is None:
        raise ValueError("{value} is neither true nor false")
    return flag


def parse_network(value: object) -> IPNetwork:
    """`10.0.0.0/8` or one address -> network. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError("{value} is not a network such as 10.0.0.0/8")
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        pass
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError("{value} is not a network such as 10.0.0.0/8") from None
    raise ValueError(f"{{value}} has bits set beyond its prefix (did you mean {str(network)!r}?)")


def parse_text(value: object) -> str:
    """Text, or a whole number as its digits: `PORT: 8000` needs no quotes. Raises ValueError."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError("must be text; put it in quotes")


def folder_of(info: ValidationInfo) -> str:
    """The folder that relative paths start from: the configuration file's."""
    context: Mapping[str, str] = info.context or {}
    return context.get("folder") or os.getcwd()


def resolve_address(text: str, folder: str) -> Address:
    """Read an address; a relative `unix:` path starts from `folder`. Raises ValueError."""
    if text.startswith(UNIX_PREFIX) and len(text) > len(UNIX_PREFIX):
        return Address.parse(UNIX_PREFIX + os.path.normpath(os.path.join(folder, text[len(UNIX_PREFIX) :])))
    return Address.parse(text)


def _address(value: object, info: ValidationInfo) -> Address:
    if not isinstance(value, str):
        raise ValueError("{value} is not an address such as 127.0.0.1:8000, [::1]:8000 or unix:/run/app.sock")
    return resolve_address(value, folder_of(info))


def _absolute_path(value: object, info: ValidationInfo) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be a path")
    return os.path.normpath(os.path.join(folder_of(info), value))


def _existing_file(path: str) -> str:
    if not os.path.isfile(path):
        raise ValueError("there is no file {value}")
    if not os.access(path, os.R_OK):
        raise ValueError("the file {value} cannot be read")
    return path


def _existing_folder(path: str) -> str:
    if not os.path.isdir(path):
        raise ValueError("there is no folder {value}")
    return path


def _executable(value: object, info: ValidationInfo) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be the path of a Python interpreter")
    # A bare name is looked up as a shell would; symbolic links stay, because they make a virtual environment.
    path = _absolute_path(value, info) if "/" in value else shutil.which(value)
    if path is None or not os.path.isfile(path) or not os.access(path, os.X_OK):
        raise ValueError("{value} is no program that can be executed")
    return path


def _log_target(value: object, info: ValidationInfo) -> str:
    if value == "stdout" or value == "stderr":
        return str(value)
    return _absolute_path(value, info)


def _text_schema(pattern: re.Pattern[str] | None, *examples: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string", "examples": list(examples)}
    if pattern is not None:
        schema["pattern"] = "^" + pattern.pattern.replace("\\Z", "$")
    return schema


@dataclass(frozen=True)
class OrOff:
    """Annotation: `off`, `no` and `false` are taken too, and mean `value`."""

    value: object = None

    def _replace(self, value: object) -> object:
        is_off = value is False or (isinstance(value, str) and _FLAGS.get(value.lower()) is False)
        return self.value if is_off else value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(self._replace, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(schema), {"enum": ["off", "no", False]}]}


_FLAG_SCHEMA = {"enum": [True, False, "on", "off", "yes", "no"]}
_SIZE_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 0}, _text_schema(_SIZE, "64KB", "10MB")]}
_PATH_SCHEMA = _text_schema(None, "/srv/app")
_ADDRESS_SCHEMA = _text_schema(None, "127.0.0.1:8000", "[::1]:8000", "unix:/run/app.sock")
_TEXT_SCHEMA = {"type": ["string", "integer"]}

Duration = Annotated[float, BeforeValidator(parse_duration), WithJsonSchema(_text_schema(_DURATION, "200ms", "5s"))]
Size = Annotated[int, BeforeValidator(parse_size), WithJsonSchema(_SIZE_SCHEMA)]
Percentage = Annotated[float, BeforeValidator(parse_percentage), WithJsonSchema(_text_schema(_PERCENTAGE, "20%"))]
Rate = Annotated[float, BeforeValidator(parse_rate), WithJsonSchema(_text_schema(_RATE, "10/s", "1000/h"))]
Flag = Annotated[bool, BeforeValidator(parse_flag), WithJsonSchema(_FLAG_SCHEMA)]
Count = Annotated[int, Field(strict=True)]
Text = Annotated[str, BeforeValidator(parse_text), WithJsonSchema(_TEXT_SCHEMA)]
Network = Annotated[IPNetwork, PlainValidator(parse_network), WithJsonSchema(_text_schema(None, "10.0.0.0/8"))]
AnyAddress = Annotated[Address, PlainValidator(_address), WithJsonSchema(_ADDRESS_SCHEMA)]

FilePath = Annotated[str, BeforeValidator(_absolute_path), WithJsonSchema(_PATH_SCHEMA)]
ExistingFile = Annotated[FilePath, AfterValidator(_existing_file), WithJsonSchema(_PATH_SCHEMA)]
ExistingFolder = Annotated[FilePath, AfterValidator(_existing_folder), WithJsonSchema(_PATH_SCHEMA)]
Executable = Annotated[str, BeforeValidator(_executable), WithJsonSchema(_PATH_SCHEMA)]
LogTarget = Annotated[
    str, BeforeValidator(_log_target), WithJsonSchema(_text_schema(None, "stdout", "stderr", "/var/log/access.log"))
]

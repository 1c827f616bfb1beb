"""Negotiated prices: a TOML file that goes before the public price list.

    discount = "12.5%"                # off the list price of every model that is not named below

    [models."claude-opus-5-5"]
    discount = "20%"                  # instead of the one above, not on top of it

    [models."claude-sonnet-5-5"]      # or the prices themselves: dollars per million tokens
    input = "1.80"
    output = "9.00"
    cache_read = "0.09"
    cache_write_5m = "2.25"
    cache_write_1h = "3.60"

Negotiated prices are final: no discount applies to them, and they hold for inputs of any length. A
name covers the dated versions of its model (`claude-sonnet-5-5-20260801`), unless one is named
itself. Numbers may be quoted or not; either way they are read as decimals, digit by digit.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from worker.claude.reply import Tokens
from worker.errors import ConfigurationError

VARIABLE = "CLAUDE_JOBS_PRICES_FILE"

_MILLION = Decimal(1_000_000)
_DATED = re.compile(r"-\d{8}$")


def _share(value: object) -> object:
    wrong = PydanticCustomError("share", 'is a percentage, "15%", or a share below 1, 0.15')
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise wrong
    text = str(value).strip()
    try:
        share = Decimal(text[:-1]) / 100 if text.endswith("%") else Decimal(text)
    except InvalidOperation:
        raise wrong from None
    if not share.is_finite() or not 0 <= share < 1:
        raise wrong
    return share


def _model_name(value: str) -> str:
    if re.search(r"[A-Z\s]", value) or not value:
        raise PydanticCustomError("model", "is not a model's name as the API spells it")
    return value


# The bounds keep every product within the 28 digits in which Decimal is exact, and the cost of a
# call within its column.
Share = Annotated[Decimal, BeforeValidator(_share), Field(decimal_places=6)]
Dollars = Annotated[Decimal, Field(ge=0, le=100_000, decimal_places=8)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Discounted(_Table):
    """A model that costs less than the list says."""

    discount: Share


class Negotiated(_Table):
    """What a model costs, in US dollars per million tokens."""

    input: Dollars
    output: Dollars
    cache_read: Dollars
    cache_write_5m: Dollars
    cache_write_1h: Dollars

    def cost(self, tokens: Tokens) -> Decimal:
        """The price of `tokens`, exact. Thinking is part of the output."""
        millionths = (
            self.input * tokens.input
            + self.output * tokens.output
            + self.cache_read * tokens.cache_read
            + self.cache_write_5m * tokens.cache_write_5m
            + self.cache_write_1h * tokens.cache_write_1h
        )
        return millionths / _MILLION


def _kind(value: Any) -> str:
    return "discounted" if isinstance(value, dict) and "discount" in value else "negotiated"


Entry = Annotated[
    Annotated[Discounted, Tag("discounted")] | Annotated[Negotiated, Tag("negotiated")],
    Discriminator(_kind),
]


class _File(_Table):
    discount: Share = Decimal(0)
    models: dict[Annotated[str, AfterValidator(_model_name)], Entry] = {}


@dataclass(frozen=True)
class PriceOverrides:
    """What a file of negotiated prices says; `sha256` is of its bytes."""

    path: Path
    sha256: str
    otherwise: Discounted
    models: dict[str, Discounted | Negotiated]

    @property
    def label(self) -> str:
        """The file's name and the beginning of its hash."""
        return f"{self.path.name} {self.sha256[:8]}"

    def of(self, model: str) -> Discounted | Negotiated:
        """What applies to `model`: its own entry, that of its undated name, or the discount."""
        for name in (model, _DATED.sub("", model)):
            if name in self.models:
                return self.models[name]
        return self.otherwise


def load_overrides(path: Path) -> PriceOverrides:
    """Read a file of negotiated prices.

    Raises:
        ConfigurationError: one line that names the file and each key that is wrong.
    """
    where = f"{VARIABLE}: {path}"
    try:
        content = path.read_bytes()
        document = tomllib.loads(content.decode("utf-8-sig"), parse_float=Decimal)
        file = _File.model_validate(document)
    except OSError as error:
        raise ConfigurationError(f"{where} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, InvalidOperation) as error:
        raise ConfigurationError(f"{where} is not valid TOML: {error}") from None
    except ValidationError as error:
        problems = "; ".join(_in_words(problem) for problem in error.errors(include_url=False))
        raise ConfigurationError(f"{where}: {problems}") from None
    otherwise = Discounted(discount=file.discount)
    return PriceOverrides(path, hashlib.sha256(content).hexdigest(), otherwise, file.models)


def _in_words(problem: ErrorDetails) -> str:
    place = list(problem["loc"])
    entry = place[2] if len(place) > 2 and place[0] == "models" else None
    if entry is not None:
        del place[2]  # which kind of entry it was taken for, or `[key]`
    key = ".".join(map(str, place))
    match problem["type"]:
        case "missing":
            return f"{key} is missing: a model has either a discount or all five prices"
        case "extra_forbidden" if entry == "discounted":
            return f"{key} cannot stand beside a discount: a model has one or the other"
        case "extra_forbidden":
            known = Negotiated if entry else _File
            return f"{key} is no key of this file: expected {', '.join(known.model_fields)}"
    message = problem["msg"]
    return f"{key} {message[0].lower()}{message[1:]}"

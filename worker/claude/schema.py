"""The output model as the API takes it."""

from __future__ import annotations

from typing import Any

from anthropic import transform_schema
from pydantic import BaseModel

from worker.errors import ConfigurationError


def for_api(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of `model` for `output_config.format`.

    Bounds and patterns move into descriptions: the API does not enforce them, Pydantic does when
    the reply is read.

    Raises:
        ConfigurationError: the model holds something that the API's schemas cannot express.
    """
    try:
        return transform_schema(model)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{model.__module__}.{model.__qualname__} cannot be sent as an output schema: {error}"
        ) from None

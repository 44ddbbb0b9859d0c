"""Rows as rules see them, and the errors of a filter section."""

import io
import json
from collections.abc import Mapping
from typing import Any

import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from pipelines.data.filter_config import FilterConfig


def row(**changes: Any) -> dict[str, Any]:
    """A row of a pair that no rule rejects, except for the changes."""
    return {
        "key": "0" * 20,
        "url": "http://example.org/a.jpg",
        "caption": "a red heart",
        "width": 32,
        "height": 32,
        "original_width": 64,
        "original_height": 64,
        "sha256": "0" * 64,
    } | changes


def encoded(image: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def read(rules: Mapping[str, Any]) -> FilterConfig:
    """The filter section with these rules, as a YAML file gives them."""
    return TypeAdapter(FilterConfig).validate_json(json.dumps({"rules": rules}))


def messages(rules: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the rules, by place."""
    with pytest.raises(ValidationError) as error:
        read(rules)
    return {".".join(map(str, e["loc"][1:])): e["msg"] for e in error.value.errors()}

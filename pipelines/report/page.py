"""What the pages of the report share: the template engine, its filters, text from the data."""

import base64
import re
import unicodedata
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

SPELLINGS: Mapping[str, str] = {
    "blurred 2": "of real images at 1/2 resolution",
    "blurred 4": "of real images at 1/4 resolution",
    "clip": "CLIP",
    "cmmd": "CMMD",
    "efficientnet": "EfficientNet",
    "frechet": "Fréchet",
    "kid": "KID",
}
ZERO = 1e-9  # smaller values are rounding errors
# Control characters that captions need: joiners of emoji and of Persian and Indic letters.
JOINERS = "\u200c\u200d"
REPLACEMENT = "\ufffd"


def render_page(template: str, **values: Any) -> str:
    """One HTML file. Every value is escaped, except those that are `Markup`."""
    css = resources.files("pipelines.report").joinpath("report.css").read_text()
    return _environment().get_template(template).render(css=Markup(css), **values)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "words": lambda name: name.replace("_", " "),
        "metric": metric_label,
        "number": number,
        "count": lambda amount: f"{amount:,}",
        "percent": percent,
        "duration": duration,
        "clean": clean,
    }
    environment.filters |= filters
    return environment


def clean(text: str, limit: int) -> str:
    """Text from the data as one line of at most `limit` characters.

    Characters that would hide or reorder the text around them are replaced.
    """
    cut = text[: 4 * limit]  # a caption may have a megabyte
    line = " ".join("".join(map(_visible, cut)).split())
    return line if len(line) <= limit and len(cut) == len(text) else f"{line[:limit].rstrip()}…"


def _visible(character: str) -> str:
    if character.isspace() or character in JOINERS:
        return character
    return REPLACEMENT if unicodedata.category(character).startswith("C") else character


def data_uri(content: bytes, kind: str = "png") -> str:
    """An image file as a data URI, so that the page needs no other file."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def metric_label(name: str) -> str:
    """The readable name of a metric: "prior/clip_score" becomes "Prior: CLIP score"."""
    subject, what = name.replace("_", " ").split("/")
    label = f"{subject.capitalize()}: {what}"
    for word, spelling in SPELLINGS.items():
        label = re.sub(rf"\b{word}\b", spelling, label, flags=re.IGNORECASE)
    return label


def number(value: float) -> str:
    """Three significant digits, with an exponent only for very small and very large values."""
    if abs(value) < ZERO:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share as a percentage with one decimal; what is not 0 or 100% does not look like it."""
    if 0 < share < 0.001:
        return "< 0.1%"
    return "> 99.9%" if 0.999 < share < 1 else f"{share:.1%}"


def duration(seconds: float | None) -> str:
    """The two largest of hours, minutes and seconds."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"

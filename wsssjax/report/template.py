"""Fills the HTML templates: every page is one text with its style and script inside."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json

import jinja2
import markupsafe

_FOLDER = "templates"


def render(name: str, *, script: str = "", **values) -> str:
    """The page made from `templates/<name>`; a value that the template misses is an error.

    script: file in templates/ that the page runs. Its hash goes into the page's content security
    policy, so that a browser runs nothing else.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("wsssjax.report", _FOLDER), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    code = _source(script) if script else ""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return environment.get_template(name).render(
        style=markup(_source("style.css")), script=markup(code), script_hash=digest, **values)


def markup(text: str) -> markupsafe.Markup:
    """Text that is HTML already: SVG made by charts.py, which escapes every name, our own files."""
    return markupsafe.Markup(text)


def data_block(value) -> markupsafe.Markup:
    """A JSON value as the content of a `<script type="application/json">`: no text in it can end
    the element or begin a comment."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _source(name: str) -> str:
    path = importlib.resources.files("wsssjax.report").joinpath(_FOLDER, name)
    return path.read_text(encoding="utf-8")

"""The templates of the pages, filled."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, content: dict[str, Any]) -> str:
    """A page as HTML; a name that the content lacks is an error.

    Args:
        template: the file's name.
        content: what the template names.
    """
    environment = Environment(
        loader=PackageLoader("cflow_ad", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content)

"""What the HTML pages share: templates, and pictures inside the page as `data:` URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Picture:
    """One picture of a page."""

    uri: str
    """The file itself, in base 64."""

    caption: str
    description: str
    """Read aloud in place of the picture."""

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], caption: str, description: str) -> Self:
        """From RGB pixels, shape `(H, W, 3)`."""
        buffer = io.BytesIO()
        # Colour at full resolution: at half of it the red lines would be smeared.
        image = Image.fromarray(pixels)
        image.save(buffer, "JPEG", quality=75, subsampling="4:4:4", optimize=True)
        return cls(data_uri(buffer.getvalue(), "image/jpeg"), caption, description)


def data_uri(content: bytes, kind: str) -> str:
    """A file of a MIME type as a `data:` URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def render(template: str, content: dict[str, Any]) -> str:
    """Fill a template, by its file's name. A name that the content lacks is an error."""
    environment = Environment(
        loader=PackageLoader("cflow_ad", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content)

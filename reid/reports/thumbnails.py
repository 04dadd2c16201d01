"""Small pictures inside a page, as JPEG data URIs within a budget of bytes."""

import base64
import io
from pathlib import Path

from reid.data.image_file import read_picture
from reid.errors import UnreadableImage

QUALITY = 72
"""Quality of the JPEG, from 1 to 95."""


class Thumbnails:
    """Makes small pictures and counts the bytes that the page has left for them."""

    def __init__(self, budget_bytes: int, *, width: int, height: int) -> None:
        """width and height in pixels are those of the largest picture; the shape of an image is kept."""
        self.left_bytes = budget_bytes
        self._size = (width, height)

    def uri(self, path: str | Path) -> str:
        """The image file as a data URI. `left_bytes` may go below zero: callers look at it between rows."""
        uri = self._draw(path)
        self.left_bytes -= len(uri)
        return uri

    def uri_if_possible(self, path: str | Path) -> str | None:
        """The image file as a data URI; None if it can no longer be read or does not fit into the budget."""
        try:
            uri = self._draw(path)
        except UnreadableImage:  # it was readable a moment ago, and a page need not fail because of one picture
            return None
        if len(uri) > self.left_bytes:
            return None
        self.left_bytes -= len(uri)
        return uri

    def _draw(self, path: str | Path) -> str:
        small = read_picture(path)
        small.thumbnail(self._size)
        data = io.BytesIO()
        small.save(data, "JPEG", quality=QUALITY)
        return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")

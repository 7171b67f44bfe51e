"""Opening an image, read from a file or drawn; and its size without drawing it."""

from __future__ import annotations

from PIL import Image

from neuroglot.data.example import ImageSource, RenderSpec
from neuroglot.data.pixels import read_image
from neuroglot.synthetic.pictures import draw_picture
from neuroglot.synthetic.render import check_render, render
from neuroglot.synthetic.scenes import draw_scene
from neuroglot.synthetic.style import SIZE


def open_image(source: ImageSource) -> Image.Image:
    """Return an image in RGB.

    Raises:
        UserError: a file cannot be read: see `neuroglot.data.pixels.read_image`.
    """
    if isinstance(source, RenderSpec):
        if source.kind == "picture":
            return draw_picture(source.text, source.seed, source.index)
        if source.kind == "scene":
            return draw_scene(source.text, source.seed, source.index)
        return render(source.text, source.seed, source.index, dict(source.style)).image
    return read_image(source)


def image_size(source: ImageSource) -> tuple[int, int]:
    """Return width and height in pixels of the image from `open_image`; a rendering is laid out and not drawn.

    Raises:
        UserError: as `open_image`; also for a text that cannot be drawn.
    """
    if not isinstance(source, RenderSpec):
        return open_image(source).size
    if source.kind != "sign":  # pictures of the embedded corpus can always be drawn
        return SIZE, SIZE
    return check_render(source.text, source.seed, source.index, dict(source.style))

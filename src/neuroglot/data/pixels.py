"""Reading an image file as the RGB pixels that a person would see."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from neuroglot.errors import UserError

MAX_PIXELS = 100_000_000
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def read_image(source: Path | bytes) -> Image.Image:
    """Return an image in RGB: rotated as its EXIF says, its first frame, transparency on white.

    Raises:
        UserError: the file is missing, empty, truncated, no image, or larger than 100 million pixels.
    """
    name = _shortened(str(source)) if isinstance(source, Path) else f"of {len(source)} bytes"
    try:
        if isinstance(source, Path) and not source.is_file():
            what = "is no file" if source.exists() else "does not exist"
            raise UserError(f"image {name} {what}; paths are taken relative to the data file")
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"image {name} has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read; "
                    "scale it down"
                )
            return _as_seen(image)
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(f"image {name} has too many pixels; at most {MAX_PIXELS:,} are read; scale it down") from None
    except (UnidentifiedImageError, OSError, EOFError, SyntaxError, ValueError, RuntimeError) as error:
        said = error.strerror if isinstance(error, OSError) else None  # without the name, which may be of any length
        detail = "no known image format" if isinstance(error, UnidentifiedImageError) else said or str(error)
        raise UserError(
            f"image {name} cannot be read: {detail}; expected a whole {', '.join(IMAGE_SUFFIXES[:4])} file"
        ) from None


def _shortened(name: str) -> str:
    """Return a name that fits a message: what was meant to be an image itself may stand where a path should."""
    return name if len(name) <= 200 else f"{name[:80]}...{name[-40:]} ({len(name):,} characters)"


def _as_seen(image: Image.Image) -> Image.Image:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # more than 8 bits a pixel: scale, for a plain conversion would clip at 255
        values = np.asarray(image, dtype=np.float32)
        largest = 65535.0 if image.mode.startswith("I;16") else values.max()
        span = next((s for s in (1.0, 255.0) if largest <= s), 65535.0)
        image = Image.fromarray((values * (255.0 / span)).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")

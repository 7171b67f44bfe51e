"""Images as a frozen vision tower sees them: computed once an image, kept in memory or in a folder.

N images, P tokens an image, D their width. The tower is that of an image-text-to-text model (what its vision part
hands to its connector, by the table of families) or any vision model that `AutoModel` loads.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d

from neuroglot.data.example import ImageSource, RenderSpec
from neuroglot.data.image import open_image
from neuroglot.errors import UserError
from neuroglot.file_format import fresh
from neuroglot.models.load import on_device

SHARD = 512
"""Images in one file of the cache."""


class Features(Protocol):
    """Vectors of images."""

    def __call__(self, images: Sequence[ImageSource]) -> Tensor:
        """Return the vectors of some images: (N, P, D), float32; P and D are always the same."""
        ...

    def prepare(self, images: Sequence[ImageSource]) -> None:
        """Compute now what will be asked for."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return the arguments that make the same features again."""
        ...


class TowerFeatures:
    """What a frozen vision tower makes of images, in half precision.

    Args:
        model: an image-text-to-text model: `embedded`, a folder or a hub name; its vision part is the tower.
        tower: instead of that, a vision model by folder or hub name (CLIP, SigLIP, DINOv2, ViT ...).
        tokens: most vectors an image; more are averaged over neighbours on the grid.
        cache: folder for what was computed; None keeps it in memory only. Several processes may share it.
        batch_size: images a forward.
        parts: of the model, where the table of families does not know them.
        trust_remote_code: let code that comes with the model run.
    """

    def __init__(
        self,
        model: str = "embedded",
        tower: str | None = None,
        tokens: int = 49,
        cache: Path | None = None,
        batch_size: int = 32,
        parts: Mapping[Any, Sequence[str]] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if tokens < 1:
            raise UserError(f"classic.image_tokens must be 1 or more, got {tokens}")
        self.model, self.tower, self.tokens = model, tower, tokens
        self.cache, self.batch_size, self.parts = cache, batch_size, dict(parts or {})
        self.trust_remote_code = trust_remote_code
        self._known: dict[str, Tensor] = {}
        self._shards: dict[str, tuple[Path, int]] = {}
        self._read: set[Path] = set()
        self._open: dict[Path, Any] = {}
        self._seen: dict[ImageSource, str] = {}
        self._tower: _Tower | None = None

    def describe(self) -> dict[str, Any]:
        """Return the arguments that make the same features again."""
        return {"model": self.model, "tower": self.tower, "tokens": self.tokens, "parts": self.parts}

    def __call__(self, images: Sequence[ImageSource]) -> Tensor:
        """Return the vectors of some images: (N, P, D), float32.

        Raises:
            UserError: an image cannot be read, or the tower cannot be loaded.
        """
        self.prepare(images)
        return torch.stack([self._vectors(self._key(image)) for image in images]).float()

    def prepare(self, images: Sequence[ImageSource]) -> None:
        """Compute what is not known yet, and keep it."""
        self._look()
        fresh_ones = {self._key(image): image for image in images}
        missing = [key for key in fresh_ones if key not in self._known and key not in self._shards]
        for start in range(0, len(missing), SHARD):
            keys = missing[start : start + SHARD]
            result = self._compute([fresh_ones[key] for key in keys])
            if self.cache is None:
                self._known.update(zip(keys, result, strict=True))
            else:
                self._keep(keys, result)

    def _compute(self, images: Sequence[ImageSource]) -> Tensor:
        if self._tower is None:
            self._tower = _load(self)
        rows = [
            self._tower(images[start : start + self.batch_size]) for start in range(0, len(images), self.batch_size)
        ]
        return torch.cat([_pooled(row, self.tokens) for row in rows]).half()

    def _key(self, image: ImageSource) -> str:
        if image not in self._seen:
            if isinstance(image, bytes):
                what: Any = hashlib.sha256(image).hexdigest()
            elif isinstance(image, RenderSpec):
                what = repr(image)
            else:
                open_image(image)  # a missing one is said by its name
                status = image.stat()
                what = (str(image.resolve()), status.st_size, status.st_mtime_ns)
            self._seen[image] = hashlib.sha256(repr(what).encode()).hexdigest()[:32]
        return self._seen[image]

    # ---- the cache: files of whole shards, each there or not --------------------------------------------------------

    def _place(self) -> Path:
        assert self.cache is not None
        name = self.tower or self.model
        what = [name, self.tower is None, self.tokens, self.parts, _stamp(name)]
        return self.cache / f"features-{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}"

    def _look(self) -> None:
        """Take in the shards that this or another process has written."""
        if self.cache is None:
            return
        for path in sorted(self._place().glob("*.safetensors")):
            if path in self._read:
                continue
            self._read.add(path)
            try:
                with safe_open(str(path), framework="pt") as file:
                    keys = (file.metadata() or {})["keys"].split()
            except Exception:  # of a damaged file
                continue  # it is computed again
            self._shards |= {key: (path, row) for row, key in enumerate(keys)}

    def _keep(self, keys: Sequence[str], result: Tensor) -> None:
        folder = self._place()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{hashlib.sha256(' '.join(keys).encode()).hexdigest()[:16]}.safetensors"
        with fresh(path) as part:
            save_file({"vectors": result.contiguous()}, str(part), metadata={"keys": " ".join(keys)})
        self._read.add(path)
        self._shards |= {key: (path, row) for row, key in enumerate(keys)}

    def _vectors(self, key: str) -> Tensor:
        if key in self._known:
            return self._known[key]
        path, row = self._shards[key]
        if path not in self._open:  # mapped, not read: only what is asked for comes into memory
            self._open[path] = safe_open(str(path), framework="pt").__enter__().get_slice("vectors")
        result: Tensor = self._open[path][row]
        return result


class _Tower:
    """From images to rows of vectors, on the accelerator where there is one.

    Args:
        images: the image processor.
        model: what holds the tower.
        forward: from the processor's tensors and how many images they are of to rows of vectors, by the model.
        together: whether several images may be in one forward.
    """

    def __init__(self, images: Any, model: nn.Module, forward: Any, together: bool) -> None:
        self.images, self.forward, self.together = images, forward, together
        self.model = on_device(model)
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def __call__(self, images: Sequence[ImageSource]) -> Tensor:
        """Return (N, T, D): as many vectors an image as the tower makes, without a class token."""
        opened = [open_image(image) for image in images]
        groups = [opened] if self.together else [[image] for image in opened]
        rows = [self._rows(group) for group in groups]
        if len({row.shape[1] for row in rows}) > 1:  # images of different sizes
            least = min(row.shape[1] for row in rows)
            rows = [_pooled(row, least) for row in rows]
        return torch.cat(rows)

    def _rows(self, group: Sequence[Any]) -> Tensor:
        inputs = self.images(images=group, return_tensors="pt")
        placed = {name: value.to(self.device) if torch.is_tensor(value) else value for name, value in inputs.items()}
        rows: Tensor = self.forward(placed, len(group))
        return rows.cpu()


def _load(features: TowerFeatures) -> _Tower:
    return _vision_model(features) if features.tower else _vision_part(features)


def _vision_part(features: TowerFeatures) -> _Tower:
    """The vision part of an image-text-to-text model: what goes into its connector."""
    from neuroglot.models.families import family_of
    from neuroglot.models.load import load_model, load_processor

    model = load_model(features.model, "float32", features.trust_remote_code, features.parts)
    processor = load_processor(features.model, features.trust_remote_code)
    family = family_of(model)
    inner = getattr(model, "model", model)
    if not hasattr(inner, "get_image_features"):
        raise UserError(f"{features.model} has no get_image_features; give a vision model with classic.tower")
    connector = inner.get_submodule(family.connector[0])
    takes = inspect.signature(inner.get_image_features).parameters
    even = family.vision_rows == "even"
    caught: list[Tensor] = []

    def catch(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append(args[0] if args else next(v for v in kwargs.values() if torch.is_tensor(v)))

    connector.register_forward_pre_hook(catch, with_kwargs=True)
    for prefix in family.language:  # nearly all of the memory, and nothing of what the tower makes
        if isinstance(getattr(inner, prefix, None), nn.Module):
            setattr(inner, prefix, nn.Identity())

    def forward(inputs: dict[str, Any], count: int) -> Tensor:
        caught.clear()
        inner.get_image_features(**{name: value for name, value in inputs.items() if name in takes})
        rows = caught[0]
        # one image may have become several tiles, or rows without a batch axis
        return rows if even and rows.dim() == 3 and len(rows) == count else rows.reshape(count, -1, rows.shape[-1])

    return _Tower(processor.image_processor, inner, forward, even)


def _vision_model(features: TowerFeatures) -> _Tower:
    """A vision model by itself, or the vision half of a CLIP."""
    from transformers import AutoImageProcessor, AutoModel

    from neuroglot.models.load import resolve

    name = features.tower or ""
    try:
        position = resolve(name)
        options = {"trust_remote_code": features.trust_remote_code}
        model = AutoModel.from_pretrained(position, dtype=torch.float32, use_safetensors=True, **options).eval()
        images = AutoImageProcessor.from_pretrained(position, **options)
    except Exception as error:  # of transformers, or of the model's own code
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{name} cannot be loaded as a vision model: {why}") from None
    model = getattr(model, "vision_model", model)

    def forward(inputs: dict[str, Any], count: int) -> Tensor:
        rows: Tensor = model(pixel_values=inputs["pixel_values"]).last_hidden_state
        if rows.dim() == 4:  # a convolutional one: (N, D, H, W)
            rows = rows.flatten(2).transpose(1, 2)
        side = math.isqrt(rows.shape[1])
        return rows[:, 1:] if side * side != rows.shape[1] == math.isqrt(rows.shape[1] - 1) ** 2 + 1 else rows

    return _Tower(images, model, forward, True)


def _pooled(rows_NTD: Tensor, most: int) -> Tensor:
    """Average neighbours until there are at most so many vectors an image: on the grid, if they make a square."""
    count = rows_NTD.shape[1]
    if count <= most:
        return rows_NTD
    side = math.isqrt(count)
    channels = rows_NTD.transpose(1, 2)  # (N, D, T)
    if side * side == count:
        grid = channels.unflatten(2, (side, side))
        return adaptive_avg_pool2d(grid, math.isqrt(most)).flatten(2).transpose(1, 2)
    return adaptive_avg_pool1d(channels, most).transpose(1, 2)


def _stamp(name: str) -> list[Any]:
    """What tells one model in a folder from another."""
    from neuroglot.models.load import resolve

    path = Path(resolve(name))
    if not path.is_dir():
        return []
    kept = [p for p in sorted(path.iterdir()) if p.suffix in (".json", ".safetensors")]
    return [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in kept]

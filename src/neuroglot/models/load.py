"""Loading a model and its processor: the embedded one, a folder, or a name on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neuroglot.errors import UserError

EMBEDDED = "embedded"


def embedded_folder() -> Path:
    """Where the embedded model's files are: loadable with plain `from_pretrained`."""
    return Path(__file__).parent / "tiny" / "weights"


def resolve(model: str) -> str:
    """Return what `from_pretrained` takes: a folder or a hub name.

    Raises:
        UserError: it looks like a path, and nothing is there.
    """
    if model == EMBEDDED:
        return str(embedded_folder())
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"model folder {model} has no config.json; expected what save_pretrained writes")
        return str(path)
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise UserError(
            f"model folder {model} does not exist; give a folder, a hub name such as owner/model, or {EMBEDDED}"
        )
    return model


def load_model(model: str, dtype: str = "float32", trust_remote_code: bool = False) -> Any:
    """Return an image-text-to-text model of transformers, in eval mode.

    Raises:
        UserError: it cannot be loaded; the message says why.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    if dtype not in ("float32", "bfloat16", "float16", "auto"):
        raise UserError(f"model.dtype must be float32, bfloat16, float16 or auto, got {dtype!r}")
    kind = dtype if dtype == "auto" else getattr(torch, dtype)
    options = {"dtype": kind, "trust_remote_code": trust_remote_code}
    return _from_pretrained(AutoModelForImageTextToText, "an image-text-to-text model", model, **options).eval()


def load_processor(model: str, trust_remote_code: bool = False) -> Any:
    """Return the model's processor.

    Raises:
        UserError: it cannot be loaded, or has no chat template.
    """
    from transformers import AutoProcessor

    processor = _from_pretrained(AutoProcessor, "a processor", model, trust_remote_code=trust_remote_code)
    if not getattr(processor, "chat_template", None):
        raise UserError(
            f"the processor of {model} has no chat template; use an instruction-tuned model, or set one and save it"
        )
    return processor


def _from_pretrained(kind: Any, what: str, model: str, **options: Any) -> Any:
    from safetensors import SafetensorError
    from transformers.utils import logging

    place = resolve(model)
    logging.disable_progress_bar()
    try:
        return kind.from_pretrained(place, **options)
    except (OSError, ValueError, TypeError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{model} cannot be loaded as {what}: {why}") from None
    finally:
        logging.enable_progress_bar()

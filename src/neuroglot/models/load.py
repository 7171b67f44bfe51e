"""Loading a model and its processor: embedded, from a folder, or from the hub; and the identity of a model."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuroglot.errors import UserError, expect
from neuroglot.file_format import digests, given_path

# ---- Loading --------------------------------------------------------------------------------------------------------

EMBEDDED = "embedded"
IMAGE_TEXT = "an image-text-to-text model"

Parts = Mapping[Any, Sequence[str]]
"""Part -> module prefixes."""


def on_device(model: Any) -> Any:
    """Return a model on the accelerator, where there is one."""
    import torch

    return model.to(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else model


def embedded_folder() -> Path:
    """Return the folder of the embedded model, which `from_pretrained` can load."""
    return Path(__file__).parent / "tiny" / "weights"


def resolve(model: str | Path) -> str:
    """Return a model's folder or hub name for `from_pretrained`.

    Raises:
        UserError: it looks like a path that does not exist, or is nearly the name of the embedded model.
    """
    expect("model", model, (str, Path), f"{EMBEDDED}, a folder, or a name on the hub")
    model = str(model)
    if model == EMBEDDED:
        return str(embedded_folder())
    path = given_path(model)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"model folder {model} has no config.json; expected what save_pretrained writes")
        return str(path)
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise UserError(
            f"model folder {model} does not exist; give a folder, a hub name such as owner/model, or {EMBEDDED}"
        )
    if difflib.get_close_matches(model.lower(), [EMBEDDED], cutoff=0.75):
        raise UserError(f"model {model!r} is not known; did you mean {EMBEDDED}?")
    return model


def load_model(
    model: str | Path,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    parts: Parts | None = None,
    attn_implementation: str | None = None,
) -> Any:
    """Return an image-text-to-text model of transformers, in eval mode.

    Args:
        model: `embedded`, a folder, or a name on the hub.
        dtype: type of its weights.
        trust_remote_code: whether to run code that comes with the model.
        parts: part -> module prefixes, if it is not in the table of families; see `families.set_parts`.
        attn_implementation: a name of transformers, such as `eager` or `flash_attention_2`; its default if None.

    Raises:
        UserError: it cannot be loaded; the message gives the reason.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    if dtype not in ("float32", "bfloat16", "float16", "auto"):
        raise UserError(f"model.dtype must be float32, bfloat16, float16 or auto, got {dtype!r}")
    kind = dtype if dtype == "auto" else getattr(torch, dtype)
    # only safetensors: every other format of weights is a pickle
    options = {"dtype": kind, "trust_remote_code": trust_remote_code, "use_safetensors": True}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    loaded = from_pretrained(AutoModelForImageTextToText, IMAGE_TEXT, model, **options).eval()
    _make_savable(loaded)
    return _parted(loaded, parts)


def _make_savable(model: Any) -> None:
    """Unset values of a checkpoint's generation_config that have no effect.

    Many checkpoints have a temperature but do not sample: transformers warns on loading, ignores the value, and
    refuses to save the model after training.
    """
    config = model.generation_config
    try:
        config.validate(strict=True)
    except ValueError as error:
        for name in re.findall(r"^- `(\w+)`", str(error), re.MULTILINE):
            setattr(config, name, None)


def load_skeleton(model: str | Path, trust_remote_code: bool = False, parts: Parts | None = None) -> Any:
    """Return a model built from its configuration, without weights.

    Raises:
        UserError: there is no such model, or it is of another kind, such as one without a vision part.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = from_pretrained(AutoConfig, IMAGE_TEXT, model, trust_remote_code=trust_remote_code)
    with torch.device("meta"), _explained(model, IMAGE_TEXT):
        skeleton = AutoModelForImageTextToText.from_config(config, trust_remote_code=trust_remote_code)
    return _parted(skeleton, parts)


def _parted(model: Any, parts: Parts | None) -> Any:
    if parts:
        from neuroglot.models.families import set_parts

        set_parts(model, parts)
    return model


def load_processor(model: str | Path, trust_remote_code: bool = False) -> Any:
    """Return the model's processor.

    Raises:
        UserError: it cannot be loaded, or has no chat template.
    """
    from transformers import AutoProcessor

    processor = from_pretrained(AutoProcessor, "a processor", model, trust_remote_code=trust_remote_code)
    if not getattr(processor, "chat_template", None):
        raise UserError(
            f"the processor of {model} has no chat template; use an instruction-tuned model, or set one and save it"
        )
    return processor


def stop_tokens(model: str | Path, trust_remote_code: bool = False) -> tuple[int, ...]:
    """Return the tokens at which generation stops, from the model's generation_config; empty if it has none."""
    from transformers import GenerationConfig

    try:
        config = from_pretrained(GenerationConfig, "settings", model, trust_remote_code=trust_remote_code)
    except UserError:  # many models have none
        return ()
    known = config.eos_token_id
    return () if known is None else tuple(map(int, known)) if isinstance(known, list | tuple) else (int(known),)


def from_pretrained(kind: Any, what: str, model: str | Path, **options: Any) -> Any:
    """Return an object that a class of transformers loads from a folder or the hub, without progress bars.

    Args:
        kind: the class, such as `AutoTokenizer`.
        what: name of the expected kind, for messages.
        model: `embedded`, a folder, or a name on the hub.
        options: options of the class's `from_pretrained`.

    Raises:
        UserError: it cannot be loaded; the message gives the reason.
    """
    from transformers.utils import logging

    source, shown = resolve(model), logging.is_progress_bar_enabled()
    if not Path(source).is_dir() and not _hub_answers():
        options["local_files_only"] = True  # repeated requests for every file would take half a minute
    logging.disable_progress_bar()
    try:
        with _explained(model, what):
            return kind.from_pretrained(source, **options)
    finally:
        if shown:
            logging.enable_progress_bar()


def _hub_answers() -> bool:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        return bool(get_session().head(constants.ENDPOINT, timeout=5).status_code < 500)
    except Exception:  # any exception of the client means no answer
        return False


@contextmanager
def _explained(model: str | Path, what: str) -> Iterator[None]:
    """Turn any exception of transformers into a one-line UserError."""
    try:
        yield
    except Exception as error:  # from transformers, or from the model's code
        text = str(error)
        if "trust_remote_code" in text:
            why = "it brings code of its own, which runs only if you say so; read it, then add --trust-remote-code"
        elif "Unrecognized configuration class" in text:
            why = "it is of another kind, such as a text model without a vision part; give a model that reads images"
        elif missing := re.search(r"requires the (\w+) library|Package `(\w+)` is required", text):
            package = (missing[1] or missing[2]).lower()
            why = f"it needs the package {package}; pip install {package}"
        else:
            why = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        raise UserError(f"{model} cannot be loaded as {what}: {why}") from None


# ---- Identity -------------------------------------------------------------------------------------------------------

WHOLE_FILE = 256 * 2**20
"""Files of a model up to this size in bytes are identified by their content, larger ones by size and time."""


def model_identity(model: str) -> Any:
    """Return a model's identity: small files by content, so that it does not depend on the folder."""
    path = Path(resolve(model))
    if not path.is_dir():
        return str(path)
    kinds = (".json", ".jinja", ".safetensors", ".py")
    return {p.name: _identity(p) for p in sorted(path.iterdir()) if p.suffix in kinds}


def _identity(path: Path) -> Any:
    status = path.stat()
    if status.st_size > WHOLE_FILE:
        return [str(path), status.st_size, status.st_mtime_ns]
    return digests(path)

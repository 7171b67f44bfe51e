"""Systems from the settings of a recipe: what has to be there is missed now, what is large is loaded when it is asked.

Notable: building is cheap, and refuses what is not installed or has no key; `check` of what was built refuses
languages. So a run can do both before it trains for hours.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroglot.data.example import Example
from neuroglot.errors import UserError
from neuroglot.pair import Pair
from neuroglot.systems.base import System, check, close
from neuroglot.systems.cascade import Cascade

if TYPE_CHECKING:
    from neuroglot.config import EvaluateSection
    from neuroglot.config.systems import EndpointSection, OtherModelSection, SystemSettings
    from neuroglot.data.pixels import Budget


class Lazy:
    """A system that is made when it is first asked, and forgotten when it is closed.

    Args:
        name: the key of the system in the scores.
        make: makes it.
        look: refuses what it can refuse without making it.
        batch_size: the system's; 0 where it has none. It is asked for where all answers may be there already.
        borrowed: whether the system is somebody else's, which is not closed here.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], System],
        look: Callable[[Pair], None] = lambda pair: None,
        batch_size: int = 0,
        borrowed: bool = False,
    ) -> None:
        self.name, self._make, self.check = name, make, look
        self.batch_size, self._borrowed = batch_size, borrowed
        self._made: System | None = None

    @property
    def system(self) -> System:
        """The system, made if it is not there."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def translate(self, examples: Sequence[Example]) -> list[str]:
        """Let the system answer."""
        return self.system.translate(examples)

    def nll(self, examples: Sequence[Example]) -> list[float] | None:
        """Let the system score the targets."""
        return self.system.nll(examples)

    def tokens(self, examples: Sequence[Example]) -> list[int] | None:
        """Return how many tokens the targets have, where the system counts them."""
        count = getattr(self.system, "tokens", None)
        return count(examples) if count is not None else None

    @property
    def decoding(self) -> dict[str, Any]:
        """How the system decodes, where it says so and was asked at all."""
        return getattr(self._made, "decoding", {})

    def readable(self, example: Example) -> Example:
        """Return what the system would take of a text, where it refuses some."""
        take = getattr(self.system, "readable", None)
        return take(example) if take is not None else example

    def close(self) -> None:
        """Close the system and let go of it."""
        if self._made is not None and not self._borrowed:
            close(self._made)
        self._made = None


@dataclass(frozen=True)
class Builder:
    """Makes systems from settings.

    Attributes:
        base: the recipe's own model, untrained.
        evaluate: batch sizes and lengths where a system's settings leave them out.
        say: prints a line, such as what an endpoint cost.
        trust_remote_code: let code that comes with a model run.
        budget: how the recipe's own model is shown images, so that other models and endpoints are shown the same.
        max_length: tokens that another model takes at least, whatever it says of its context.
    """

    base: System
    evaluate: EvaluateSection
    say: Callable[[str], None] = lambda text: None
    trust_remote_code: bool = False
    budget: Budget | None = None
    max_length: int = 0

    def build(self, name: str, settings: SystemSettings) -> System:
        """Return the system of a name.

        Raises:
            UserError: a package, a program or a key is missing, with the name before it.
        """
        try:
            return self._build(name, settings)
        except UserError as error:
            raise UserError(f"systems.{name}: {error}") from None

    def check(self, name: str, settings: SystemSettings, pairs: Sequence[Pair]) -> None:
        """Build a system, ask it about every direction, and let go of it.

        Raises:
            UserError: as `build`, or it does not know a direction.
        """
        system = self.build(name, settings)
        try:
            for pair in pairs:
                check(system, pair)
        except UserError as error:
            raise UserError(f"systems.{name}: {error}") from None
        finally:
            close(system)

    def _build(self, name: str, settings: Any) -> System:
        """Make one; the kinds that read images or texts only may also be parts of a cascade."""
        kind, trust = settings.kind, self.trust_remote_code
        if kind == "cascade":
            reader = self._build(f"{name}, reading", settings.reader)
            alike = settings.translator == settings.reader
            translator = reader if alike else self._build(f"{name}, translating", settings.translator)
            return Cascade(reader, translator, name, settings.lines)
        if kind == "base":
            return Lazy(name, lambda: self.base, batch_size=getattr(self.base, "batch_size", 0), borrowed=True)
        if kind == "model":
            size = settings.batch_size or self.evaluate.batch_size
            return Lazy(name, partial(self._model, name, settings), lambda pair: _look(settings, trust), size)
        if kind == "endpoint":
            return self._endpoint(name, settings)
        options = settings.model_dump(exclude={"kind"}, exclude_none=True)
        if kind in ("rapidocr", "tesseract"):
            from neuroglot.systems.ocr import RapidReader, TesseractReader

            if kind == "tesseract":
                return TesseractReader(**options)
            import torch

            return RapidReader(**options, threads=torch.get_num_threads())
        from neuroglot.systems import mt

        if kind == "seq2seq":
            return mt.Seq2SeqTranslator(name, **options, trust_remote_code=trust)
        if kind == "causal":
            return mt.CausalTranslator(name, **options, trust_remote_code=trust)
        return mt.Apertium() if kind == "apertium" else mt.FastTranslate()

    def _model(self, name: str, settings: OtherModelSection) -> System:

        from neuroglot.data.batch import Batcher
        from neuroglot.models.load import load_model, load_processor, on_device, stop_tokens
        from neuroglot.systems.hf import HFSystem
        from neuroglot.systems.mt import longest

        model = on_device(load_model(settings.path, settings.dtype, self.trust_remote_code))
        processor = load_processor(settings.path, self.trust_remote_code)
        context = longest(processor.tokenizer, model.config.get_text_config(), unknown=0)
        # data.max_length counts the tokens of the recipe's own model, so it does not make another's context shorter.
        most = max(context, self.max_length) if context else 0
        stops = stop_tokens(settings.path, self.trust_remote_code)
        batcher = Batcher(processor, most, prompt=settings.prompt, as_shown=self.budget, stops=stops)
        given, own = self.evaluate, settings
        return HFSystem(
            model,
            batcher,
            name,
            own.batch_size or given.batch_size,
            own.max_new_tokens or given.max_new_tokens,
            num_beams=own.beams or given.beams,
            length_penalty=given.length_penalty,
        )

    def _endpoint(self, name: str, settings: EndpointSection) -> System:
        from neuroglot.systems.chat import Patience, Price
        from neuroglot.systems.endpoint import Endpoint

        key = None
        if settings.key_env is not None:
            key = os.environ.get(settings.key_env, "").strip()
            if not key:
                raise UserError(
                    f"the environment variable {settings.key_env} is not set; put the key of {settings.url} into it, "
                    "or leave key_env out if it needs none"
                )
            if not key.isascii() or not key.isprintable():  # no header can carry it; it is not shown
                raise UserError(f"the environment variable {settings.key_env} holds characters that no key can have")
        return Endpoint(
            name,
            settings.url,
            settings.model,
            key,
            settings.prompt,
            settings.options,
            settings.requests_per_minute,
            settings.tokens_per_minute,
            settings.concurrency,
            Patience(settings.attempts, settings.timeout, longest=settings.longest_wait),
            None if settings.price is None else Price(**settings.price.model_dump()),
            None if settings.cache is None else Path(settings.cache),
            self.say,
            self.budget,
        )


def _look(settings: OtherModelSection, trust_remote_code: bool) -> None:
    """Refuse a model that is not there or of another kind."""
    from neuroglot.data.batch import Batcher
    from neuroglot.models.load import load_processor, load_skeleton

    load_skeleton(settings.path, trust_remote_code)
    Batcher(load_processor(settings.path, trust_remote_code), prompt=settings.prompt).check_chat()

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
    from neuroglot.recipe import EvaluateSection
    from neuroglot.recipe.sections.systems import EndpointSection, OtherModelSection, SystemSettings


class Lazy:
    """A system that is made when it is first asked, and forgotten when it is closed.

    Args:
        name: the key of the system in the scores.
        make: makes it.
        look: refuses what it can refuse without making it.
    """

    def __init__(
        self, name: str, make: Callable[[], System], look: Callable[[Pair], None] = lambda pair: None
    ) -> None:
        self.name, self._make, self.check = name, make, look
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

    def close(self) -> None:
        """Close the system and let go of it."""
        if self._made is not None:
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
    """

    base: System
    evaluate: EvaluateSection
    say: Callable[[str], None] = lambda text: None
    trust_remote_code: bool = False

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
            return Lazy(name, lambda: _Borrowed(self.base))
        if kind == "model":
            return Lazy(name, partial(self._model, name, settings), lambda pair: _look(settings, trust))
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
        import torch

        from neuroglot.data.batch import Batcher
        from neuroglot.models.load import load_model, load_processor
        from neuroglot.systems.hf import HFSystem

        model = load_model(settings.path, settings.dtype, self.trust_remote_code)
        if torch.accelerator.is_available():
            model = model.to(torch.accelerator.current_accelerator())
        batcher = Batcher(load_processor(settings.path, self.trust_remote_code), prompt=settings.prompt)
        given, own = self.evaluate, settings
        return HFSystem(
            model,
            batcher,
            name,
            own.batch_size or given.batch_size,
            own.max_new_tokens or given.max_new_tokens,
            num_beams=own.beams or given.beams,
        )

    def _endpoint(self, name: str, settings: EndpointSection) -> System:
        from neuroglot.systems.endpoint import Endpoint, Patience, Price

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
        )


class _Borrowed:
    """Somebody else's system, which is not closed here."""

    def __init__(self, system: System) -> None:
        self.name, self.translate, self.nll = system.name, system.translate, system.nll


def _look(settings: OtherModelSection, trust_remote_code: bool) -> None:
    """Refuse a model that is not there or of another kind."""
    from neuroglot.models.load import load_processor, load_skeleton

    load_skeleton(settings.path, trust_remote_code)
    load_processor(settings.path, trust_remote_code)

"""Examples to model inputs: prompts from the processor's chat template, targets appended, labels masked.

B batch, L tokens. A prompt has the tokens that `apply_chat_template(..., add_generation_prompt=True, tokenize=True)`
of transformers gives; labels are the answer as the same template writes it, up to the token where generation stops.
The two are joined as tokens; their joint text is never tokenised again, so that the label mask is exact for every
tokenizer.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from PIL import Image

from neuroglot.data.example import Example, filled, instruction, shows_source
from neuroglot.data.image import open_image
from neuroglot.data.pixels import Budget
from neuroglot.errors import UserError, expect
from neuroglot.pair import Condition
from neuroglot.printing import short

_PROBE, _FOUND = "neuroglot asks", "neuroglot answers"
"""Texts that no chat template contains."""


class Batch(NamedTuple):
    """Model inputs of one condition.

    Attributes:
        inputs: tensors for the model's forward, with `labels` [B, L] (-100: not a target).
        condition: task and pair of all samples.
        items: one name for each sample; an item has the same name in all pairs. Empty if unknown.
    """

    inputs: dict[str, Any]
    condition: Condition
    items: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return short(self)


class _Frame(NamedTuple):
    """What the chat template writes around an answer.

    Attributes:
        lead: text between the prompt and the answer.
        close: text between the answer and the token that ends it.
        rest: text from that token on.
        end: the id of the token at which generation stops.
        parts: whether the template takes an answer as a list of parts; otherwise it takes a text.
    """

    lead: str
    close: str
    rest: str
    end: int
    parts: bool


class _Prompt(NamedTuple):
    """Number of images, the text beside them, and both as the chat template writes them, up to the answer."""

    images: int
    asked: str
    text: str


@dataclass(frozen=True)
class Batcher:
    """Turns examples into batches for one processor.

    Attributes:
        processor: any transformers processor with a tokenizer and a chat template.
        max_length: most tokens of a sample; 0 for no limit.
        paraphrase: which of the task's instructions to use.
        prompt: an instruction to use instead, with {source} and {target} for the languages' English names.
        max_pixels: most pixels of an image, which is scaled down to it; 0 for no limit.
        max_image_tokens: most tokens of an example's images, which are scaled down to it; 0 for no limit.
        as_shown: another batcher's scaling, instead of these two limits, so that two models see the same images.
        stops: the tokens at which generation stops by the model's generation_config, in addition to the tokenizer's
            end of sequence; see `neuroglot.models.load.stop_tokens`.
    """

    processor: Any
    max_length: int = 0
    paraphrase: int = 0
    prompt: str | None = None
    max_pixels: int = 0
    max_image_tokens: int = 0
    as_shown: Budget | None = None
    stops: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not hasattr(self.processor, "apply_chat_template"):
            expect("processor", self.processor, (), "a processor with a chat template, such as load_processor returns")

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return getattr(self.processor, "tokenizer", self.processor)

    @cached_property
    def _padding(self) -> Any:
        """The processor; if its tokenizer has no padding token, a copy that pads with another token.

        Which token does not matter: attention and labels leave out padding.
        """
        if self.tokenizer.pad_token_id is not None:
            return self.processor
        processor = copy.deepcopy(self.processor)
        tokenizer = getattr(processor, "tokenizer", processor)
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        return processor

    @cached_property
    def _pad(self) -> int:
        return int(getattr(self._padding, "tokenizer", self._padding).pad_token_id)

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """The texts of the special tokens and of the image placeholder, which some tokenizers do not call special."""
        image = getattr(self.processor, "image_token", None)
        return (*special_tokens(self.tokenizer), *([str(image)] if image else []))

    @cached_property
    def _segments(self) -> bool:
        """Whether token types separate the prompt (full attention) from the target (causal), as in PaliGemma.

        Such a processor makes labels from them, and has labels among its outputs; Gemma3's token types mark images.
        """
        return "labels" in getattr(self.processor, "model_input_names", ())

    # ---- the chat template ----------------------------------------------------------------------------------------

    def _asked(self, example: Example, paraphrase: int) -> str:
        """Return the text beside the images: everything of an example that is in the prompt."""
        asked = instruction(example, paraphrase) if self.prompt is None else filled(self.prompt, example)
        if shows_source(example.task):
            if example.source is None:
                raise UserError(
                    f"a {example.task} example needs a source text, got none (target {example.target[:40]!r})"
                )
            asked = f"{example.source}\n{asked}"
        elif example.images:
            asked = f"\n{asked}"
        self._check_marks(asked)
        return asked

    def _prompt(self, images: int, asked: str) -> _Prompt:
        self._check_template(images)
        return _Prompt(images, asked, self._rendered(_question(images, asked), add_generation_prompt=True))

    def _prompt_of(self, example: Example, paraphrase: int) -> _Prompt:
        return self._prompt(len(example.images), self._asked(example, paraphrase))

    def _rendered(self, chat: list[dict[str, Any]], **options: bool) -> str:
        return rendered(self.processor, chat, **options)

    def check_chat(self) -> None:
        """Refuse an unusable chat template, and a prompt that contains special tokens, before any example is read.

        Raises:
            UserError: what is wrong with them.
        """
        self._check_marks(self.prompt or "", "the prompt")
        self._check_template(0)
        self._check_template(1)
        _ = self._frame

    def _check_template(self, images: int) -> None:
        """Refuse a template that does not write the text and a placeholder for each image."""
        if images in self._fitting:
            return
        last, fewer = (
            self._rendered(_question(count, _PROBE), add_generation_prompt=True)
            for count in (images, max(0, images - 1))
        )
        lost = "the text" if _PROBE not in last else "an image" if images and last == fewer else ""
        if lost or "'type':" in last:
            does = f"leaves out {lost}" if lost else "prints the parts of a message instead of reading them"
            raise UserError(
                f"the model's chat template {does} of a user's turn with {images} image(s) and a text; it must take "
                "parts of type image and text; set another one and save it with the processor"
            )
        self._fitting.add(images)

    @cached_property
    def _fitting(self) -> set[int]:
        return set()

    @cached_property
    def _frame(self) -> _Frame:
        """What the template writes around an answer, found with an answer that no template contains."""
        if self._segments:  # its processor copies a target unchanged, and ends it with the end-of-sequence token
            return _Frame("", "", "", self._end_of_sequence(), True)
        chat = _question(0, _PROBE)
        prompt = self._rendered(chat, add_generation_prompt=True)
        for parts in (True, False):
            try:
                lead, answer, rest = _after(prompt, self._rendered([*chat, _answer(_FOUND, parts)])).partition(_FOUND)
            except UserError:
                if parts:
                    continue
                raise
            if answer and "'type':" not in lead:
                close, end = self._ending(rest)
                return _Frame(lead, close, rest[len(close) :], end, parts)
        raise UserError(
            "the model's chat template leaves out the text of an assistant's turn; set another one and save it with "
            "the processor"
        )

    def _ending(self, rest: str) -> tuple[str, int]:
        """Return the part of the text after an answer that precedes the token that ends it, and that token.

        The token is the first at which generation is known to stop; else the first special token, which ends a turn
        of the template; else the end of the sequence.
        """
        stops = {int(token): self.tokenizer.convert_ids_to_tokens(token) for token in self._known_stops}
        special = {int(token): str(t) for token, t in self.tokenizer.added_tokens_decoder.items() if t.special}
        for known in (stops, special):
            matches = [(rest.find(text), -len(text), token) for token, text in known.items() if text and text in rest]
            if matches:
                start, _, end = min(matches)
                return rest[:start], end
        return "", self._end_of_sequence()

    @property
    def _known_stops(self) -> set[int]:
        end = self.tokenizer.eos_token_id
        return {*self.stops, *([] if end is None else [int(end)])}

    def _end_of_sequence(self) -> int:
        if not self._known_stops:
            raise UserError(
                "the model's tokenizer has no end-of-sequence token, and its chat template writes none after an "
                "answer; set tokenizer.eos_token and save it with the processor"
            )
        end = self.tokenizer.eos_token_id
        return min(self.stops) if end is None else int(end)

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end an answer: the one that training teaches, and those of the model and its tokenizer."""
        return tuple(sorted({self._frame.end, *self._known_stops}))

    def _written(self, prompt: _Prompt, target: str) -> tuple[str, str]:
        """Return the end of a prompt, which affects how an answer's first token is made, and the text after it.

        Raises:
            UserError: the template changes the target, or its text with an answer does not begin with the prompt.
        """
        self._check_marks(target)
        if self._segments:
            return "", target
        frame = self._frame
        chat = _question(prompt.images, prompt.asked)
        after = _after(prompt.text, self._rendered([*chat, _answer(target, frame.parts)]))
        for text in dict.fromkeys((target, target.strip(), target.lstrip(), target.rstrip())):
            if after == f"{frame.lead}{text}{frame.close}{frame.rest}":
                start = max((prompt.text.rfind(mark) for mark in self.marks), default=0)
                return prompt.text[max(0, start) :], f"{frame.lead}{text}{frame.close}"
        raise UserError(
            f"the model's chat template writes the target {target[:60]!r} otherwise than it stands, so that "
            "it cannot be learned; change the target, or set another template and save it with the processor"
        )

    def _answers(self, written: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Return the tokens that follow each prompt, with the one that ends the answer."""
        texts = [text for before, after in written for text in (before, before + after)]
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        answers = []
        for (_, after), before, joint in zip(written, ids[::2], ids[1::2], strict=True):
            if joint[: len(before)] != before:  # the answer's beginning would merge with the prompt, which is fixed
                before, joint = self._alone(after)
            answers.append([*joint[len(before) :], self._frame.end])
        return answers

    def _alone(self, text: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a line break, and of it with a text after it, if the two do not merge.

        After a line break, tokenizers put no space before the text. Otherwise return no tokens, and the text's alone.
        """
        before, joint, alone = self.tokenizer(["\n", f"\n{text}", text], add_special_tokens=False)["input_ids"]
        return (before, joint) if joint[: len(before)] == before else ([], alone)

    def _adds(self, text: str) -> bool:
        """Whether the tokenizer adds its special tokens to a prompt, as in transformers' `apply_chat_template`.

        With a processor it does, unless the template has written the first of them; a tokenizer alone does not.
        """
        bos = self.tokenizer.bos_token
        return hasattr(self.processor, "tokenizer") and not (bos is not None and text.startswith(bos))

    # ---- inputs ---------------------------------------------------------------------------------------------------

    def _prompt_inputs(
        self, examples: Sequence[Example], paraphrases: Sequence[int]
    ) -> tuple[dict[str, Any], list[_Prompt]]:
        """Return left-padded inputs of examples, all with images or all without, and their prompts."""
        if len({bool(example.images) for example in examples}) > 1:
            raise UserError("a batch holds examples with images and examples without; make batches of either kind")
        prompts = [self._prompt_of(*each) for each in zip(examples, paraphrases, strict=True)]
        images = [[self.budget.scaled(open_image(i), len(e.images)) for i in e.images] for e in examples]
        options = {"padding": True, "padding_side": "left"}
        inputs = self._processed([prompt.text for prompt in prompts], images, **options)
        real = inputs["attention_mask"].bool()
        for example, prompt, ids, mask in zip(examples, prompts, inputs["input_ids"], real, strict=True):
            self._check(example, ids[mask].tolist(), prompt.asked)
        return inputs, prompts

    def _processed(self, texts: list[str], images: list[list[Image.Image]], **options: Any) -> dict[str, Any]:
        """Return the processor's output for prompts from the chat template."""
        options |= {"return_tensors": "pt", "add_special_tokens": self._adds(texts[0])}
        processor = self._padding
        try:
            if any(images):
                inputs = dict(processor(text=texts, images=images, **options))
            elif self._segments:  # PaliGemma's processor needs an image
                options |= {"return_token_type_ids": True, "add_special_tokens": False}
                inputs = dict(processor.tokenizer([self._begun(text) for text in texts], **options))
            else:
                inputs = dict(processor(text=texts, **options))
        except Exception as error:  # each processor raises other types
            sizes = [f"{image.width} x {image.height}" for shown in images for image in shown]
            of = f"images of {', '.join(sizes[:4])}{', ...' if len(sizes) > 4 else ''} pixels" if sizes else "a text"
            raise UserError(
                f"the model's processor refuses {of}: {_why(error)}; change or leave out the example"
            ) from error
        inputs.pop("labels", None)
        return inputs

    def _begun(self, text: str) -> str:
        return f"{self.tokenizer.bos_token}{text}\n"

    def _check_marks(self, text: str, what: str = "the text") -> None:
        """Refuse a text that contains special tokens of the model, such as the image placeholder."""
        for mark in self.marks:
            if mark in text:
                raise UserError(
                    f"{what} {text.strip()[:60]!r} holds {mark!r}, which is a special token of the model's "
                    "tokenizer; remove it from the example"
                )

    def _check(self, example: Example, ids: Sequence[int], text: str, further: int = 0) -> None:
        """Refuse a text with unknown tokens or too many tokens; `further` tokens are added to the count of `ids`."""
        unknown = self.tokenizer.unk_token_id
        if unknown is not None and unknown in ids:
            for piece in (*text, *text.split()):
                if unknown in self.tokenizer(piece, add_special_tokens=False)["input_ids"]:
                    code = f" (U+{ord(piece):04X})" if len(piece) == 1 else ""
                    raise UserError(
                        f"the model's tokenizer has no token for {piece!r}{code} in {text.strip()[:60]!r}; "
                        "leave the example out or use a model whose tokenizer covers it"
                    )
        if self.max_length and len(ids) + further > self.max_length:
            length = len(ids) + further
            raise UserError(
                f"an example takes {length} tokens, at most {self.max_length} fit: {example.target[:40]!r}; "
                "raise data.max_length or leave the example out"
            )

    def check(self, example: Example, sizes: Sequence[tuple[int, int]] = (), paraphrases: int = 1) -> None:
        """Refuse an example and its alternatives where `encode` would refuse them, without opening an image.

        Args:
            example: what would be encoded.
            sizes: width and height of each of its images.
            paraphrases: how many of the task's instructions are used with it.
        """
        prompts = [self._prompt_of(example, turn) for turn in range(paraphrases)]
        targets = (example.target, *example.alternatives)
        answers = self._answers([self._written(prompts[0], target) for target in targets])
        for target, answer in zip(targets, answers, strict=True):
            self._check(example, answer, target)
        further = max(map(len, answers)) + self._shown([self.budget.fit(size, len(sizes)) for size in sizes])
        for prompt, ids in zip(prompts, self._prompt_ids(prompts), strict=True):
            self._check(example, ids, prompt.asked, further)

    def lengths(self, example: Example, sizes: Sequence[tuple[int, int]] = ()) -> tuple[int, int, int]:
        """Return how many tokens `encode` makes of the prompt's text, of images of these sizes, and of the target."""
        shown = self._shown([self.budget.fit(size, len(sizes)) for size in sizes]) + len(sizes)
        return self.prompt_tokens(example) - len(sizes), shown, self.target_tokens([example])[0]

    def prompt_tokens(self, example: Example) -> int:
        """Return the number of tokens of the prompt, each of its images counted as one."""
        return len(self._prompt_ids([self._prompt_of(example, self.paraphrase)])[0])

    def target_tokens(self, examples: Sequence[Example]) -> list[int]:
        """Return the number of labels that `encode` makes of each example: its target's tokens and the end token."""
        prompts = [self._prompt_of(example, self.paraphrase) for example in examples]
        written = [self._written(prompt, example.target) for prompt, example in zip(prompts, examples, strict=True)]
        return list(map(len, self._answers(written)))

    def _prompt_ids(self, prompts: Sequence[_Prompt]) -> list[list[int]]:
        """Return the tokens of prompts, with one token for each image."""
        begun = self._segments and not prompts[0].images
        texts = [self._begun(prompt.text) if begun else prompt.text for prompt in prompts]
        adds = not begun and self._adds(texts[0])
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=adds)["input_ids"]
        return ids

    def _shown(self, sizes: Sequence[tuple[int, int]]) -> int:
        """Return the number of tokens of images of these sizes, minus their placeholders in the prompt.

        They are counted together: some processors cut an image into tiles only if it is the only one.
        """
        key = tuple(sizes)
        if key not in self._measured:
            prompt = self._prompt(len(key), "?")
            images = [Image.new("RGB", size) for size in key]
            total = self._processed([prompt.text], [images])["input_ids"].shape[1]
            self._measured[key] = total - len(self._prompt_ids([prompt])[0])
        return self._measured[key]

    @cached_property
    def budget(self) -> Budget:
        """How images are scaled."""
        return self.as_shown or Budget(self.max_pixels, self.max_image_tokens, lambda size: self._shown([size]) + 1)

    def check_budget(self) -> None:
        """Refuse a budget of tokens that no image fits into.

        Raises:
            UserError: the processor makes more tokens of the smallest image.
        """
        self.budget.check()

    @cached_property
    def _measured(self) -> dict[tuple[tuple[int, int], ...], int]:
        return {(): 0}

    def prompts(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Return left-padded inputs for generation."""
        return self._prompt_inputs(examples, [self.paraphrase] * len(examples))[0]

    def encode(self, examples: Sequence[Example], paraphrases: Sequence[int] | None = None) -> dict[str, Any]:
        """Return inputs with targets, padded on the right.

        Args:
            examples: all with images or all without.
            paraphrases: the instruction for each example; by default `self.paraphrase` for all.

        Returns:
            The processor's tensors with `input_ids`, `attention_mask` and `labels` [B, L]; labels are -100 except on
            the target's tokens and the one that ends the answer.
        """
        turns = paraphrases or [self.paraphrase] * len(examples)
        inputs, prompts = self._prompt_inputs(examples, turns)
        mask = inputs["attention_mask"].bool()
        answers = self._answers([self._written(p, e.target) for p, e in zip(prompts, examples, strict=True)])
        rows, starts = [], []
        for example, ids, real, answer in zip(examples, inputs["input_ids"], mask, answers, strict=True):
            row = torch.cat([ids[real], torch.tensor(answer)])
            self._check(example, row.tolist(), example.target)
            rows.append(row)
            starts.append(int(real.sum()))
        length = max(map(len, rows))
        input_ids = torch.full((len(rows), length), self._pad)
        labels = torch.full((len(rows), length), -100)
        attention = torch.zeros((len(rows), length), dtype=torch.long)
        for b, (row, start) in enumerate(zip(rows, starts, strict=True)):
            input_ids[b, : len(row)] = row
            labels[b, start : len(row)] = row[start:]
            attention[b, : len(row)] = 1
        for key in [k for k in inputs if k.endswith("token_type_ids")]:
            types = torch.full((len(rows), length), int(self._segments))
            for b, (kinds, real) in enumerate(zip(inputs[key], mask, strict=True)):
                types[b, : int(real.sum())] = kinds[real]
            inputs[key] = types
        return {**inputs, "input_ids": input_ids, "attention_mask": attention, "labels": labels}

    def batches(self, examples: Sequence[Example], size: int, paraphrases: int = 1) -> Iterator[Batch]:
        """Yield profiling batches of one condition each: an item's pairs follow each other, instructions take turns.

        The paraphrase depends on the item's position, so that it is the same in all pairs. Examples that share item,
        task and pair count as different items.
        """
        copies: Counter[tuple[str, str, str]] = Counter()
        groups: dict[tuple[str, str], dict[str, Example]] = {}  # task and item -> pair -> example
        for number, example in enumerate(examples):
            item, pair = example.item or str(number), str(example.pair)
            copy = copies[example.task, item, pair]
            copies[example.task, item, pair] += 1
            groups.setdefault((example.task, f"{item} ({copy + 1})" if copy else item), {})[pair] = example
        # A block contains items of one task that exist in the same pairs.
        alike: dict[tuple[Any, ...], list[tuple[int, str, dict[str, Example]]]] = {}
        for position, ((task, item), group) in enumerate(groups.items()):
            shown = tuple(len(group[pair].images) > 0 for pair in sorted(group))
            alike.setdefault((task, tuple(sorted(group)), shown), []).append((position, item, group))
        for (_, pairs, _), members in alike.items():
            for start in range(0, len(members), size):
                positions, items, block = zip(*members[start : start + size], strict=True)
                for pair in pairs:
                    inputs = self.encode(
                        [group[pair] for group in block], [position % paraphrases for position in positions]
                    )
                    yield Batch(inputs, block[0][pair].condition, items)


def special_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Return the texts that a tokenizer reads as special tokens anywhere in a text."""
    return tuple(str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)


def rendered(processor: Any, chat: list[dict[str, Any]], **options: bool) -> str:
    """Return a conversation as the chat template of a processor or a tokenizer writes it.

    Raises:
        UserError: the template fails.
    """
    try:
        return str(processor.apply_chat_template(chat, tokenize=False, **options))
    except Exception as error:  # a template is a program
        raise UserError(
            f"the model's chat template fails: {_why(error)}; correct it, or set another one and save it with the "
            "processor"
        ) from error


def _question(images: int, asked: str) -> list[dict[str, Any]]:
    content: list[dict[str, str]] = [{"type": "image"} for _ in range(images)]
    return [{"role": "user", "content": [*content, {"type": "text", "text": asked}]}]


def _answer(target: str, parts: bool) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": target}] if parts else target}


def _after(prompt: str, conversation: str) -> str:
    """Return the text of a conversation after a prompt.

    A published template (LLaVA-OneVision's) has other white space before an answer than at the end of the prompt; the
    prompt's is used, since the model sees it.

    Raises:
        UserError: the conversation does not begin with the prompt.
    """
    if conversation.startswith(prompt):
        return conversation[len(prompt) :]
    bare = prompt.rstrip()
    if conversation.startswith(bare) and prompt != bare:
        return conversation[len(bare) :].lstrip()
    raise UserError(
        "the model's chat template does not go on from its own prompt: with add_generation_prompt it ends in "
        f"{prompt[-40:]!r}, and a conversation with an answer is {conversation[-60:]!r}; correct the template and "
        "save it with the processor"
    )


def _why(error: Exception) -> str:
    """Return the message of another library's exception, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__

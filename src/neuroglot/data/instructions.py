"""Instructions: how a task is put to a model, in several paraphrases (the first is used for training and scoring)."""

from __future__ import annotations

from neuroglot.data.example import Example
from neuroglot.errors import UserError, nearest
from neuroglot.pair import INSTRUCT, language_name

_TEXT = (
    "Translate the text to {target}.",
    "What is this in {target}?",
    "Write this text in {target}.",
)

INSTRUCTION = "instruction"
"""Where the `meta` of an `instruct` example has what is asked."""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "image_translation": (
        "Translate the text in the image to {target}.",
        "What does the sign say in {target}?",
        "Write the text of the image in {target}.",
    ),
    # The image is all that sets it apart from text translation: without it, the two are the same prompt.
    "multimodal_translation": _TEXT,
    "ocr": ("Read the text in the image.", "What does the sign say?", "Transcribe the text of the image."),
    "text_translation": _TEXT,
    "describe": ("Name what the image shows.", "What is in the picture?", "Describe the image."),
}


def paraphrases(task: str) -> int:
    """How many instructions a task has; a question is put as it is."""
    return 1 if task == INSTRUCT else len(_templates(task))


def instruction(example: Example, paraphrase: int = 0) -> str:
    """Return the instruction for an example, in English, naming its languages; a question, with its text, as it is."""
    if example.task == INSTRUCT:
        if INSTRUCTION not in example.meta:
            raise UserError(
                f"an {INSTRUCT} example needs its question in meta[{INSTRUCTION!r}], got none (target "
                f"{example.target[:40]!r})"
            )
        asked = str(example.meta[INSTRUCTION])
        return f"{example.source}\n{asked}" if example.source else asked
    templates = _templates(example.task)
    return templates[paraphrase % len(templates)].format(
        source=language_name(example.source_lang), target=language_name(example.target_lang)
    )


def filled(prompt: str, example: Example) -> str:
    """Return a prompt of the user's own, its {source} and {target} replaced by the languages of an example."""
    named = prompt.replace("{source}", language_name(example.source_lang))
    return named.replace("{target}", language_name(example.target_lang))


def _templates(task: str) -> tuple[str, ...]:
    if task not in TEMPLATES:
        raise UserError(f"task {task!r} is not known; {nearest(task, TEMPLATES)}")
    return TEMPLATES[task]


def shows_source(task: str) -> bool:
    """Whether the prompt carries the source text (otherwise it is to be read in the image)."""
    return task in ("text_translation", "multimodal_translation")

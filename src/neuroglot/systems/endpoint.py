"""An OpenAI-compatible endpoint as a System (vLLM, GPT-4o and others): examples to chat completions, several at a
time; answers are cached, so that none is paid for twice.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from neuroglot.data.example import Example, ImageSource, filled, instruction, shows_source
from neuroglot.data.image import open_image
from neuroglot.data.pixels import Budget
from neuroglot.errors import UserError
from neuroglot.file_format import cache_folder
from neuroglot.pair import Pair
from neuroglot.systems.chat import (
    Client,
    GarbageError,
    Patience,
    Price,
    RateLimit,
    StoppedError,
    Usage,
    text_of,
    tokens_of,
)

# ---- The cache of answers -------------------------------------------------------------------------------------------
# One file an answer, named by the hash of the request, put in its place whole: a run can be killed at any moment, and
# several may share a folder. The images of a request are kept as their hashes, the key never.


def key_of(request: Mapping[str, Any]) -> str:
    """Return what an answer is filed under: the same request always has the same."""
    text = json.dumps(request, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class AnswerCache:
    """A folder of answers.

    Args:
        folder: made when the first answer is put there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the answer to a request; None if there is none, or its file is damaged."""
        try:
            kept = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        answer = kept.get("answer") if isinstance(kept, dict) else None
        return answer if isinstance(answer, dict) else None

    def put(self, key: str, request: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Keep an answer.

        Raises:
            UserError: it cannot be written.
        """
        path = self._path(key)
        kept = {"request": _without_images(request), "answer": answer}
        text = json.dumps(kept, ensure_ascii=False, allow_nan=False, indent=1)
        if text.encode("utf-8", "replace").decode() != text:  # half a surrogate pair: escaped, as it came
            text = json.dumps(kept, allow_nan=False, indent=1)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A unique name: two processes may put the same answer at the same time.
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:8]}", suffix=".part")
            try:
                with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                    file.write(text + "\n")
                os.replace(name, path)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(name)
        except OSError as error:
            raise UserError(
                f"answers cannot be kept in {self.folder}: {error.strerror}; set cache to another"
            ) from None

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _without_images(value: Any) -> Any:
    """Return a request with each data URL put short, as its hash."""
    if isinstance(value, Mapping):
        return {name: _without_images(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_images(inner) for inner in value]
    if isinstance(value, str) and value.startswith("data:"):
        return f"{value.partition(',')[0]},sha256:{hashlib.sha256(value.encode()).hexdigest()}"
    return value


# ---- Endpoint -------------------------------------------------------------------------------------------------------
# Notable: the same request is never sent twice, within a run or by a later one (`cache`); an endpoint has no
# likelihood, so it is scored by what it says; what it cost and what was wrong with its answers is said when it is
# closed.

ONLY = {
    "ocr": "Answer with the text only, its lines as in the image.",
    "describe": "Answer with the description only.",
}
"""Added to an instruction, by task; else it asks for the translation only."""
WINDOW = 32
"""Examples whose requests are made together."""
IMAGE_TOKENS = 1000
"""What an image is taken for before the reply says how many tokens it was."""


class Endpoint:
    """A remote model.

    Args:
        name: the key of this system in the scores.
        url: the base, such as `http://localhost:8000/v1`.
        model: its name there.
        key: the bearer token; None to send none.
        prompt: what is asked, with {source} and {target} for the languages' English names; the task's instruction
            and a word against chatter by default. A source text that is shown follows it.
        options: further fields of the request, such as `temperature`.
        requests_per_minute: 0 for any number.
        tokens_per_minute: 0 for any number.
        concurrency: requests at a time.
        patience: with the server.
        price: of tokens, for the bill.
        cache: folder of the answers.
        say: prints the bill.
        budget: scales images down before they are sent; None sends them as they are.

    Raises:
        UserError: a library is missing.
    """

    def __init__(
        self,
        name: str,
        url: str,
        model: str,
        key: str | None = None,
        prompt: str | None = None,
        options: Mapping[str, Any] | None = None,
        requests_per_minute: float = 0,
        tokens_per_minute: float = 0,
        concurrency: int = 4,
        patience: Patience | None = None,
        price: Price | None = None,
        cache: Path | None = None,
        say: Callable[[str], None] = lambda text: None,
        budget: Budget | None = None,
    ) -> None:
        self.budget = budget
        self.name, self.url, self.model, self.prompt = name, url, model, prompt
        self.options, self.concurrency, self.say = dict(options or {}), concurrency, say
        self.bill = Usage(price)
        self.client = Client(
            url, key, RateLimit(requests_per_minute, tokens_per_minute), self.bill, patience or Patience()
        )
        self.cache = AnswerCache(cache or cache_folder("answers"))

    def check(self, pair: Pair) -> None:
        """Nothing is known before it is asked."""

    def translate(self, examples: Sequence[Example]) -> list[str]:
        """Ask for each example; an invalid response is the empty text, and is counted.

        Raises:
            UserError: the endpoint refuses the request as such, or would not answer; or no reply at all had an answer
                in it.
        """
        size = max(WINDOW, 2 * self.concurrency)  # not all images in memory at once
        return [
            text for start in range(0, len(examples), size) for text in self._window(examples[start : start + size])
        ]

    def _window(self, examples: Sequence[Example]) -> list[str]:
        bodies = [self.request(example) for example in examples]
        keys = [key_of({"url": self.client.url, **body}) for body in bodies]
        answers: dict[str, dict[str, Any] | None] = {key: self.cache.get(key) for key in keys}
        kept = {key for key, answer in answers.items() if answer is not None}
        fresh = {key: body for key, body in zip(keys, bodies, strict=True) if key not in kept}
        if fresh:
            answers |= self._ask(fresh)
        texts = []
        for key in keys:
            text, wrong = text_of(answers[key] or {})
            self.bill.answered(wrong, key in kept)
            texts.append(text)
        if len(fresh) > 1 and not any(answers[key] for key in fresh):
            raise UserError(
                f"endpoint {self.url}: {len(fresh)} replies without an answer in them; check url and model"
            )
        return texts

    def nll(self, examples: Sequence[Example]) -> None:
        """An endpoint has no likelihood of a given text."""
        return

    def close(self) -> None:
        """Give back the connections, and say what it came to."""
        self.client.close()
        if self.bill.answers:
            self.say(self.bill.line(self.name))

    def request(self, example: Example) -> dict[str, Any]:
        """Return the body of the chat completion for an example.

        Raises:
            UserError: an image cannot be read, or a text is missing.
        """
        if self.prompt is None:
            asked = f"{instruction(example)} {ONLY.get(example.task, 'Answer with the translation only.')}"
        else:
            asked = filled(self.prompt, example)
        if shows_source(example.task):
            if example.source is None:
                raise UserError(f"a {example.task} example needs a source text, got none")
            asked = f"{asked}\n\n{example.source}"
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": data_url(self._shown(image, len(example.images)))}}
            for image in example.images
        ]
        content.append({"type": "text", "text": asked})
        return {"model": self.model, "messages": [{"role": "user", "content": content}], **self.options}

    def _shown(self, source: ImageSource, images: int) -> Image.Image:
        """Return an image as it is sent."""
        image = open_image(source)
        return image if self.budget is None else self.budget.scaled(image, images)

    def _ask(self, bodies: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any] | None]:
        """Send requests, several at a time; each answer is kept as soon as it is there."""
        self.client.stopping.clear()
        result: dict[str, dict[str, Any] | None] = {}

        def ask(key: str, body: Mapping[str, Any]) -> None:
            guess = _guess(body)
            try:
                answer = self.client.complete(body, guess)
            except GarbageError:
                result[key] = None
                return
            except BaseException:
                self.client.stopping.set()  # at once: the next request would not fare better, and might be paid for
                raise
            self.client.pace.settle(guess, sum(tokens_of(answer).values()))
            self.cache.put(key, body, answer)
            result[key] = answer

        pool = ThreadPoolExecutor(max(1, min(self.concurrency, len(bodies))), thread_name_prefix="endpoint")
        try:
            futures = [pool.submit(ask, key, body) for key, body in bodies.items()]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = [error for error in (future.exception() for future in done) if error is not None]
            if failed:
                raise next((error for error in failed if not isinstance(error, StoppedError)), failed[0])
        finally:  # what is under way is paid for: it is waited for and kept, what only waits is let go
            self.client.stopping.set()
            pool.shutdown(wait=True, cancel_futures=True)
        return result


def data_url(image: Image.Image) -> str:
    """Return an image as it is seen, as PNG in a data URL: no metadata of the user's file is sent."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _guess(body: Mapping[str, Any]) -> int:
    """Return about how many tokens a request will take, its answer included."""
    content = body["messages"][0]["content"]
    text = sum(len(part["text"]) for part in content if part["type"] == "text") // 3
    images = sum(part["type"] == "image_url" for part in content)
    most = body.get("max_tokens") or body.get("max_completion_tokens") or 100
    return int(text + IMAGE_TOKENS * images + most)

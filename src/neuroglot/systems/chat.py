"""One chat completion over HTTP: rate limit, retries, usage, and one clear line when it is given up."""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import re
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from neuroglot.errors import UserError

# ---- Rate limit -----------------------------------------------------------------------------------------------------


class RateLimit:
    """Says how long to wait before the next request.

    Requests are spaced, not let through in bursts, so that no minute, wherever it begins, holds more than is allowed.

    Args:
        requests: a minute; 0 for any number.
        tokens: a minute; 0 for any number.
        clock: seconds.
    """

    def __init__(self, requests: float = 0, tokens: float = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.requests, self.tokens, self.clock = requests, tokens, clock
        self._free = {"requests": clock(), "tokens": clock()}
        self._paused = clock()
        self._lock = threading.Lock()

    def reserve(self, tokens: int) -> float:
        """Take the next free place for a request of about so many tokens; returns the seconds until then."""
        with self._lock:
            now = self.clock()
            at = max(now, *self._free.values())
            self._free["requests"] = at + (60 / self.requests if self.requests else 0)
            self._free["tokens"] = at + (60 * tokens / self.tokens if self.tokens else 0)
            return at - now

    def settle(self, guessed: int, took: int) -> None:
        """Correct a guess when the reply says how many tokens it was."""
        if self.tokens and took:
            with self._lock:
                self._free["tokens"] += 60 * (took - guessed) / self.tokens

    def pause(self, seconds: float) -> None:
        """Let nobody send for a while: the server said so."""
        with self._lock:
            self._paused = max(self._paused, self.clock() + seconds)
            self._free["requests"] = max(self._free["requests"], self._paused)

    def paused(self) -> bool:
        """Whether nobody may send now, whoever has a place: it was given before."""
        return self.clock() < self._paused


# ---- Usage ----------------------------------------------------------------------------------------------------------

REFUSAL = re.compile(
    r"^\W*(i['’]?m sorry|i am sorry|sorry,|i can(['’]t|not)|i['’]?m (unable|not able)|i am (unable|not able)|"
    r"unfortunately,? i|as an ai)\b",
    re.IGNORECASE,
)
"""How a refusal in words begins; a translation hardly ever does."""

KINDS = {
    "refused": "refused",
    "empty": "empty",
    "cut": "cut at max_tokens",
    "garbage": "no answer to be found in the reply",
}
"""What may be wrong with an answer, as it is said."""


MOST_TOKENS = 10**8
"""Of one reply; a server that says more does not know."""


@dataclass(frozen=True)
class Price:
    """Money for a million tokens of input and of output, and what it is counted in."""

    input: float = 0.0
    output: float = 0.0
    currency: str = "USD"

    def of(self, tokens: Mapping[str, int]) -> float:
        """Return what tokens cost."""
        return (self.input * tokens["input"] + self.output * tokens["output"]) / 1e6


def tokens_of(answer: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens that a reply says it took; 0 where it does not say."""
    usage = answer.get("usage") or {}
    names = {"input": "prompt_tokens", "output": "completion_tokens"}
    result = {side: usage.get(name) if isinstance(usage, Mapping) else None for side, name in names.items()}
    return {side: count if type(count) is int and 0 < count <= MOST_TOKENS else 0 for side, count in result.items()}


def text_of(answer: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return what a reply says, and what is wrong with it: a key of `KINDS`, or None.

    A refusal in words is still what the model said, and is scored as such; one by a filter is an empty answer. Half a
    surrogate pair, which JSON can hold and no file, becomes a replacement character.
    """
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        content, refusal, ended = message.get("content"), message.get("refusal"), choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return "", "garbage"
    if isinstance(content, list):  # some servers answer in parts
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        content = "".join(part for part in parts if isinstance(part, str))
    if content is not None and not isinstance(content, str):
        return "", "garbage"
    text = (content or "").encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()
    if refusal or ended == "content_filter" or REFUSAL.match(text):
        return text, "refused"
    if not text:
        return "", "cut" if ended == "length" else "empty"
    return text, "cut" if ended == "length" else None


class Usage:
    """Counts, by several threads at once.

    Args:
        price: of tokens.
    """

    def __init__(self, price: Price | None) -> None:
        self.price = price
        self.tokens: Counter[str] = Counter()
        self.answers = self.kept = self.attempts = 0
        self.wrong: Counter[str] = Counter()
        self._lock = threading.Lock()

    def attempt(self) -> None:
        """Count a request sent."""
        with self._lock:
            self.attempts += 1

    def paid(self, answer: Mapping[str, Any]) -> None:
        """Count the tokens of a reply that came over the line."""
        with self._lock:
            self.tokens.update(tokens_of(answer))

    def answered(self, wrong: str | None, kept: bool) -> None:
        """Count an answer, and whether it was kept from before."""
        with self._lock:
            self.answers += 1
            self.kept += kept
            if wrong is not None:
                self.wrong[wrong] += 1

    @property
    def money(self) -> float | None:
        """What the requests of this run cost; None without a price."""
        return None if self.price is None else self.price.of({side: self.tokens[side] for side in ("input", "output")})

    def line(self, name: str) -> str:
        """Return it all as one line."""
        parts = [f"{self.answers} answers ({self.kept} kept from before)", f"{self.attempts} requests sent"]
        parts.append(f"{self.tokens['input']:,} + {self.tokens['output']:,} tokens")
        if self.price is not None:
            parts.append(f"{self.money:.4f} {self.price.currency}")
        parts += [f"{self.wrong[kind]} {said}" for kind, said in KINDS.items() if self.wrong[kind]]
        return f"{name}: {', '.join(parts)}"


# ---- Requests -------------------------------------------------------------------------------------------------------
# Notable: the server's faults (5xx, 429, no connection, no answer in time, an invalid response) are waited for,
# longer each time and by chance, or as long as its Retry-After says; the user's (a wrong key, no such model) end the
# run at once. The key is in one header and in no message. httpx2's own time limits are of each read, so a server that
# trickles evades them: an attempt runs in an event loop that cancels it, wherever it is, when its time is over.

AGAIN = (408, 409, 425, 429)
"""Statuses besides 5xx after which a request is sent again."""
REFUSED = ("content_filter", "content_policy_violation", "responsible_ai_policy_violation")
"""Error codes that refuse a request for what it holds."""
LARGEST = 16 * 2**20
"""Bytes of a reply, unpacked."""
CLOSING = 1.0
"""Seconds that closing connections may take."""


@dataclass(frozen=True)
class Patience:
    """How long and how often to wait.

    Attributes:
        attempts: at one request, the first included.
        timeout: seconds for one attempt, from looking up the server's name to the last byte.
        first: seconds before the second attempt, doubled each time; up to as much again is added by chance.
        longest: seconds between two attempts; a server that asks for more ends the run.
    """

    attempts: int = 6
    timeout: float = 120.0
    first: float = 1.0
    longest: float = 120.0


class _AgainError(Exception):
    """Worth another attempt, after `wait` seconds if the server said so."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class GarbageError(Exception):
    """A reply without an answer; raised to the caller if the last attempt had none either."""

    wait: float | None = None


class StoppedError(Exception):
    """Somebody else gave up, or Ctrl-C."""


class Client:
    """Sends chat completions; may be used by several threads.

    Args:
        url: the base, such as `https://api.openai.com/v1`.
        key: the bearer token; None to send none.
        pace: shared by all threads.
        bill: counts attempts and tokens.
        patience: with the server.

    Raises:
        UserError: httpx2 or tenacity is not installed.
    """

    def __init__(self, url: str, key: str | None, pace: RateLimit, bill: Usage, patience: Patience) -> None:
        try:
            import httpx2
            import tenacity
        except ImportError as error:
            raise UserError(f'an endpoint needs {error.name}; pip install "neuroglot[endpoint]"') from None
        self.url, self._key, self.pace, self.bill, self.patience = url.rstrip("/"), key, pace, bill, patience
        self.stopping = threading.Event()
        self._http, self._tenacity = httpx2, tenacity
        headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip, deflate"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx2.AsyncClient(headers=headers, timeout=patience.timeout, follow_redirects=False)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()

    def close(self) -> None:
        """Give back the connections."""
        if self._loop is not None:
            with suppress(TimeoutError):  # a server that does not let go
                self._run(self._client.aclose, CLOSING)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None

    def _run(self, job: Callable[[], Coroutine[Any, Any, Any]], seconds: float) -> Any:
        """Run a coroutine to its end in the loop of this client, or raise TimeoutError when the time is over."""
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="endpoint loop", daemon=True).start()

        async def limited() -> Any:
            async with asyncio.timeout(seconds):
                return await job()

        return asyncio.run_coroutine_threadsafe(limited(), self._loop).result()

    def complete(self, body: Mapping[str, Any], tokens: int) -> dict[str, Any]:
        """Return the reply to a chat completion, a JSON object with an answer or a refusal in it.

        Args:
            body: what is sent.
            tokens: about how many it will take, for the pace.

        Raises:
            UserError: the request is wrong, or the server would not answer; nothing else is worth sending.
            GarbageError: every reply was none.
            StoppedError: `stopping` was set meanwhile.
        """
        kit = self._tenacity
        chance = kit.wait_exponential_jitter(
            initial=self.patience.first, max=self.patience.longest, jitter=self.patience.first
        )

        def wait(state: Any) -> float:
            # a server that asks for no time at all has not mended anything by then
            return max(float(chance(state)), state.outcome.exception().wait or 0.0)

        attempts = kit.Retrying(
            stop=kit.stop_after_attempt(self.patience.attempts),
            wait=wait,
            retry=kit.retry_if_exception_type((_AgainError, GarbageError)),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            reply: dict[str, Any] = attempts(self._attempt, body, tokens)
        except _AgainError as error:
            raise UserError(
                f"endpoint {self.url} gave no answer in {self.patience.attempts} attempts; the last: {error}; what "
                "was answered is cached: run the same command again to resume"
            ) from None
        return reply

    def _attempt(self, body: Mapping[str, Any], tokens: int) -> dict[str, Any]:
        self._sleep(self.pace.reserve(tokens))
        while self.pace.paused():  # since then: the place is of no use, and all at once after the pause is no pace
            self._sleep(self.pace.reserve(tokens))
        self.bill.attempt()
        status, headers, content = self._post(body)
        if status in AGAIN or status >= 500:
            raise _AgainError(f"status {status}{self._reason(content)}", self._asked_to_wait(status, headers))
        reply = parsed(content)
        if status >= 400:
            if self._error_code(reply) in REFUSED:
                return {"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}
            hint = {401: "; check the key", 403: "; check the key", 404: "; check url and model"}.get(status, "")
            raise UserError(f"endpoint {self.url} refuses with status {status}{self._reason(content)}{hint}")
        if status >= 300:
            raise UserError(f"endpoint {self.url} redirects with status {status}; give the address that it points to")
        if not isinstance(reply, dict):
            raise GarbageError(f"the reply is not a JSON object: {content[:80]!r}")
        self.bill.paid(reply)
        if text_of(reply)[1] == "garbage":
            raise GarbageError(f"the reply has no choices with a message: {content[:80]!r}")
        return reply

    def _post(self, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Send once; a reply that trickles in counts as none when the time is over."""
        try:
            answer: tuple[int, Mapping[str, str], bytes] = self._run(lambda: self._sent(body), self.patience.timeout)
        except (TimeoutError, self._http.TimeoutException):
            raise _AgainError(f"no whole answer within {self.patience.timeout:g} seconds") from None
        except (self._http.UnsupportedProtocol, self._http.InvalidURL):
            raise UserError(f"endpoint {self.url} is no address; expected one that begins with http") from None
        except GarbageError:
            raise
        except Exception as error:  # whatever the layers below make of a broken connection
            raise _AgainError(self._said(str(error)) or type(error).__name__) from None
        return answer

    async def _sent(self, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        # As ASCII, so that any text can be sent, half a surrogate pair too.
        async with self._client.stream(
            "POST", f"{self.url}/chat/completions", content=json.dumps(body, allow_nan=False)
        ) as response:
            packed = response.headers.get("content-encoding", "identity").strip().lower()
            if packed not in ("identity", "", "gzip", "x-gzip", "deflate"):
                raise GarbageError(f"the reply is packed as {packed[:40]!r}, which was not asked for")
            unpacker = zlib.decompressobj(wbits=47) if packed not in ("identity", "") else None  # 47: either format
            content = bytearray()
            async for chunk in response.aiter_raw():
                content += chunk if unpacker is None else unpacker.decompress(chunk, LARGEST + 1 - len(content))
                if len(content) > LARGEST:
                    raise GarbageError(f"the reply is larger than {LARGEST:,} bytes")
        return response.status_code, response.headers, bytes(content)

    def _asked_to_wait(self, status: int, headers: Mapping[str, str]) -> float | None:
        """Return the seconds of a Retry-After header, and keep every thread from sending meanwhile."""
        seconds = retry_after(headers.get("retry-after", ""), time.time())
        if seconds is None:
            return None
        if seconds > self.patience.longest:
            raise UserError(
                f"endpoint {self.url} answered with status {status} and asks to wait {seconds:.0f} seconds; run the "
                "same command again then, or raise longest_wait; what was answered is cached"
            )
        self.pace.pause(seconds)
        return seconds

    def _sleep(self, seconds: float) -> None:
        if self.stopping.wait(max(0.0, seconds)):
            raise StoppedError

    def _reason(self, content: bytes) -> str:
        """Return what the body of an error says, short and without the key."""
        tree = parsed(content)
        error = tree.get("error", tree) if isinstance(tree, dict) else None
        text = error.get("message") if isinstance(error, dict) else error
        if not isinstance(text, str):
            text = content[:1000].decode("utf-8", "replace")
        said = self._said(text)
        return f": {said}" if said else ""

    def _said(self, text: str) -> str:
        hidden = text.replace(self._key, "***") if self._key else text
        return " ".join(hidden.split())[:200]

    @staticmethod
    def _error_code(reply: Any) -> Any:
        error = reply.get("error") if isinstance(reply, dict) else None
        return error.get("code") if isinstance(error, dict) else None


def parsed(content: bytes) -> Any:
    """Return the value of a JSON text, NaN and infinity as null; None if it is no JSON, or nested too deeply."""

    def finite(text: str) -> float | None:
        return float(text) if math.isfinite(float(text)) else None

    try:
        return json.loads(content, parse_constant=lambda name: None, parse_float=finite)
    except (ValueError, RecursionError):
        return None


def retry_after(value: str, now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for: a number, or a date; None if it is neither.

    Examples:
        >>> retry_after("2.5", 0), retry_after("Thu, 01 Jan 1970 00:00:30 GMT", 10), retry_after("soon", 0)
        (2.5, 20.0, None)
    """
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
        except Exception:  # of what is no date at all it raises more than it says
            return None
    return max(0.0, seconds) if seconds == seconds else None

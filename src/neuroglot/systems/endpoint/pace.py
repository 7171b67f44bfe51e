"""Not faster than allowed: requests and tokens a minute, spread evenly, for all threads together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pace:
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

"""The endpoint against a server that fails, stalls and talks nonsense: what is sent, how often, what is kept."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("httpx2")
pytest.importorskip("tenacity")

sys.path.append(str(Path(__file__).parent))
from endpoint_stub import raw_serving, reply, said, serving

from neuroglot.data.example import Example
from neuroglot.errors import UserError
from neuroglot.systems import System
from neuroglot.systems.chat import Patience, Price, RateLimit
from neuroglot.systems.endpoint import Endpoint

KEY = "sk-very-secret"
QUICK = Patience(attempts=4, timeout=5, first=0.01, longest=5)


@pytest.fixture
def stub():
    with serving() as server:
        yield server


@pytest.fixture
def endpoint(stub, tmp_path, monkeypatch):
    """Return a function that makes an endpoint with a cache of its own, and closes it at the end."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    made = []

    def make(**options):
        given = {"key": KEY, "patience": QUICK, "cache": tmp_path / "answers", **options}
        made.append(Endpoint("gpt", given.pop("url", stub.url), "stub", **given))
        return made[-1]

    yield make
    for one in made:
        one.client.close()


def text(source: str) -> Example:
    return Example((), source, "?", "en", "de", "text_translation")


def sign(colour: str, **changes) -> Example:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "PNG")
    return replace(
        Example((buffer.getvalue(),), "secret source", "secret target", "en", "de", "image_translation"), **changes
    )


def test_what_is_sent_is_a_chat_completion_with_the_image_as_seen(stub, endpoint):
    system = endpoint(options={"temperature": 0, "max_tokens": 50})
    assert isinstance(system, System)
    assert system.translate([sign("red")]) == [said(stub.requests[0][2]).upper()]
    (path, headers, body), = stub.requests  # fmt: skip
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("stub", 0, 50)
    image, question = body["messages"][0]["content"]
    assert question == {
        "type": "text",
        "text": "Translate the text in the image to German. Answer with the translation only.",
    }
    kind, _, data = image["image_url"]["url"].partition(",")
    assert (image["type"], kind) == ("image_url", "data:image/png;base64")
    assert Image.open(io.BytesIO(base64.b64decode(data))).getpixel((3, 3)) == (255, 0, 0)
    assert "secret" not in json.dumps(body), "neither the known source nor the reference is shown"
    assert system.nll([sign("red")]) is None


def test_a_prompt_of_the_users_and_a_text_that_is_shown(stub, endpoint):
    endpoint(prompt="{source} to {target}!").translate(
        [replace(sign("red"), task="multimodal_translation", source="bank")]
    )
    assert stub.requests[0][2]["messages"][0]["content"][1]["text"] == "English to German!\n\nbank"


def test_without_a_key_none_is_sent(stub, endpoint):
    endpoint(key=None).translate([text("a")])
    assert "Authorization" not in stub.requests[0][1]


def test_answers_come_in_order_and_several_at_a_time(stub, endpoint):
    stub.slow = 0.05
    texts = [f"word {number}" for number in range(12)]
    assert endpoint(concurrency=3).translate([text(t) for t in texts]) == [t.upper() for t in texts]
    assert stub.most == 3
    assert len(stub.requests) == 12


def test_the_same_request_is_sent_once_and_never_again(stub, endpoint, tmp_path):
    texts = [text("a"), text("b"), text("a")]
    assert endpoint().translate(texts) == ["A", "B", "A"]
    assert len(stub.requests) == 2
    again = endpoint()
    assert again.translate(texts) == ["A", "B", "A"]
    assert len(stub.requests) == 2, "another run finds them"
    assert (again.bill.answers, again.bill.kept, again.bill.attempts) == (3, 3, 0)
    endpoint(options={"temperature": 1}).translate([text("a")])
    assert len(stub.requests) == 3, "another question is another request"
    kept = "".join(path.read_text() for path in (tmp_path / "answers").rglob("*.json"))
    assert KEY not in kept
    assert (
        len(list((tmp_path / "answers").rglob("*"))) - len({p.parent for p in (tmp_path / "answers").rglob("*.json")})
        == 3
    )


def test_images_are_kept_as_hashes_and_a_damaged_answer_is_asked_again(stub, endpoint, tmp_path):
    endpoint().translate([sign("red")])
    (file,) = (tmp_path / "answers").rglob("*.json")
    kept = json.loads(file.read_text())
    assert kept["request"]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,sha256:")
    file.write_text('{"answer": {"choi')
    endpoint().translate([sign("red")])
    assert len(stub.requests) == 2
    assert json.loads(file.read_text()) == kept


@pytest.mark.parametrize(
    "fault",
    [
        (500, {}, "internal"),
        (503, {}, '{"error": {"message": "overloaded"}}'),
        (429, {"Retry-After": "0.01"}, "{}"),
        (408, {}, ""),
        (200, {}, "<html>not json</html>"),
        (200, {}, "[1, 2]"),
        (200, {}, '{"object": "chat.completion"}'),
        (200, {}, '{"choices": []}'),
        (200, {}, '{"choices": [{"message": null}]}'),
        (200, {}, '{"choices": [{"message": {"content": 7}}]}'),
        (200, {}, "[" * 100_000),
        (200, {}, '{"choices": ' * 20_000),
        (500, {}, "[" * 100_000),
        (200, {}, '{"usage": ' + "9" * 5000 + "}"),
        (200, {"Content-Encoding": "br"}, "x"),
        (200, {"Content-Encoding": "gzip"}, "no gzip"),
        (429, {"Retry-After": "Thu, 99 Jan 99999999999 00:00:30 GMT"}, ""),
    ],
)
def test_a_fault_of_the_server_is_waited_for_and_asked_again(stub, endpoint, fault):
    stub.plan = [fault, fault]
    system = endpoint()
    assert system.translate([text("a")]) == ["A"]
    assert len(stub.requests) == 3
    assert system.bill.attempts == 3
    assert not system.bill.wrong


def test_a_stall_is_a_fault_too(stub, endpoint):
    stub.plan = [30.0]
    assert endpoint(patience=replace(QUICK, timeout=0.3)).translate([text("a")]) == ["A"]
    assert len(stub.requests) == 2


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def trickled(first: bytes, piece: bytes):
    def parts():
        yield first
        for _ in range(400):  # far longer than the test takes
            time.sleep(0.05)
            yield piece

    return parts


def unpacked_to_much():
    packer = zlib.compressobj(wbits=31)
    yield HEAD + b"Content-Encoding: gzip\r\n\r\n"
    for _ in range(20):
        yield packer.compress(bytes(2**20))
    yield packer.flush()


@pytest.mark.parametrize(("parts", "why"), [
    (trickled(b"HTTP/1.1 200 OK\r\n", b"X-More: 1\r\n"), "no whole answer within 0.3 seconds"),
    (trickled(HEAD + b"\r\n", b" "), "no whole answer within 0.3 seconds"),
    (trickled(b"", b"H"), "no whole answer within 0.3 seconds|Protocol"),
    (lambda: [b"no HTTP at all\r\n\r\n"], "gave no answer in 2 attempts"),
    (lambda: [HEAD + b"Content-Length: 99\r\n\r\n{}"], "gave no answer in 2 attempts"),
    (lambda: [b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"], "redirects"),
])  # fmt: skip
def test_no_server_holds_a_run_longer_than_its_deadline(endpoint, parts, why):
    with raw_serving(parts) as (url, _left):
        system = endpoint(url=url, patience=replace(QUICK, attempts=2, timeout=0.3))
        with pytest.raises(UserError, match=why) as raised:
            system.translate([text("a")])
        assert "\n" not in str(raised.value)
        system.client.close()


@pytest.mark.parametrize("parts", [
    unpacked_to_much,
    lambda: [HEAD + b"\r\n", *[b" " * 2**20] * 20],
    lambda: [HEAD + b"Content-Length: 3\r\n\r\n\xff\xfe\xfd"],
])  # fmt: skip
def test_a_reply_that_is_too_large_or_no_text_is_none(endpoint, parts):
    with raw_serving(parts) as (url, _):
        system = endpoint(url=url, patience=replace(QUICK, attempts=1))
        assert system.translate([text("a")]) == [""]
        assert system.bill.wrong == {"garbage": 1}


def test_the_deadline_holds_while_a_name_is_looked_up(endpoint, monkeypatch):
    slow = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: slow.wait(30) and [])
    with pytest.raises(UserError, match="no whole answer within 0.2 seconds"):
        endpoint(url="http://slow.example/v1", patience=replace(QUICK, attempts=1, timeout=0.2)).translate([text("a")])
    slow.set()


def test_half_a_surrogate_pair_is_no_reason_to_lose_an_answer(stub, endpoint, tmp_path):
    stub.answer = lambda body: {**reply("Haus \ud800"), "usage": {"prompt_tokens": 10**30, "completion_tokens": True}}
    for requests in (1, 1):
        system = endpoint(price=Price(1.0, 1.0))
        assert system.translate([text("house \udfff")]) == ["Haus \ufffd"]
        assert len(stub.requests) == requests
        assert system.bill.money == 0
    stub.plan = [(200, {}, json.dumps(reply("ok")).replace('"usage"', '"n": NaN, "m": 1e999, "usage"'))]
    assert endpoint().translate([text("b")]) == ["ok"]
    for file in (tmp_path / "answers").rglob("*.json"):
        json.loads(file.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_no_connection_is_a_fault_too_and_the_run_says_what_is_kept(endpoint):
    with pytest.raises(UserError, match=r"gave no answer in 4 attempts; the last: .*what was answered is cached"):
        endpoint(url="http://127.0.0.1:9/v1").translate([text("a")])


def test_a_server_that_only_fails_is_given_up_after_so_many_attempts(stub, endpoint):
    stub.plan = [(500, {}, '{"error": {"message": "no GPU for sk-very-secret"}}')] * 99
    with pytest.raises(UserError, match=r"4 attempts; the last: status 500: no GPU for \*\*\*;"):
        endpoint(concurrency=1).translate([text("a"), text("b"), text("c")])
    assert len(stub.requests) == 4, "nobody goes on when one gave up"


@pytest.mark.parametrize("asked", [0, 3])
def test_a_retry_after_is_honoured_and_never_less_than_the_growing_wait(stub, endpoint, asked):
    stub.plan = [(429, {"Retry-After": str(asked)}, "{}")] * 3
    system = endpoint(patience=Patience(attempts=4, timeout=5, first=1.0, longest=60))
    clock, waited = Clock(), []

    def sleep(seconds):
        waited.append(seconds)
        clock.now += seconds  # the test does not wait

    system.client.pace, system.client._sleep = RateLimit(clock=clock), sleep
    assert system.translate([text("a")]) == ["A"]
    backoff = [seconds for seconds in waited if seconds > 0.5]
    least = [max(asked, wait) for wait in (1, 2, 4)]
    assert len(backoff) == 3
    assert all(low <= seconds <= low + 1 for seconds, low in zip(backoff, least, strict=True))


def test_who_had_a_place_before_a_pause_waits_too(stub, endpoint):
    """The second request has its place 0.2 seconds after the first, which is told to wait for 0.6."""
    stub.plan, answered = [(429, {"Retry-After": "0.6"}, "{}")], []

    def answer(body):
        answered.append(time.monotonic() - began)
        return reply(said(body).upper())

    stub.answer = answer
    began = time.monotonic()
    assert endpoint(requests_per_minute=300, concurrency=2).translate([text("a"), text("b")]) == ["A", "B"]
    assert min(answered) >= 0.6
    assert max(answered) - min(answered) >= 0.15, "and nobody goes on together with another"


def test_waits_grow_and_differ_by_chance(stub, endpoint):
    waited = []
    stub.plan = [(500, {}, "")] * 3
    system = endpoint(patience=Patience(attempts=4, timeout=5, first=1.0, longest=60))
    system.client._sleep = waited.append
    assert system.translate([text("a")]) == ["A"]
    backoff = [seconds for seconds in waited if seconds > 0.5]
    assert len(backoff) == 3
    assert all(least <= seconds <= least + 1 for seconds, least in zip(backoff, (1, 2, 4), strict=True))
    assert len({seconds % 1 for seconds in backoff}) == 3


def test_a_server_that_wants_to_be_left_alone_for_long_ends_the_run(stub, endpoint):
    stub.plan = [(429, {"Retry-After": "3600"}, "{}")]
    with pytest.raises(UserError, match=r"status 429 and asks to wait 3600 seconds; run the same command again then"):
        endpoint().translate([text("a")])
    assert len(stub.requests) == 1


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "check the key"), (403, "check the key"), (404, "check url and model"), (400, "")]
)
def test_the_users_mistake_ends_the_run_at_once_and_never_shows_the_key(stub, endpoint, status, hint):
    stub.plan = [(status, {}, json.dumps({"error": {"message": f"bad key {KEY}\nor model"}}))]
    with pytest.raises(UserError, match=rf"refuses with status {status}: bad key \*\*\* or model.*{hint}") as refused:
        endpoint(concurrency=1).translate([text("a"), text("b")])
    assert KEY not in str(refused.value)
    assert len(stub.requests) == 1


def test_a_redirect_is_not_followed_with_the_key(stub, endpoint):
    stub.plan = [(307, {"Location": stub.url + "/elsewhere"}, "")]
    with pytest.raises(UserError, match="redirects with status 307"):
        endpoint().translate([text("a")])
    assert len(stub.requests) == 1


def test_answers_that_are_none_are_counted_and_said(stub, endpoint, tmp_path):
    answers = {
        "filtered": reply(None, "content_filter"),
        "refused": reply("I'm sorry, but I can't read this."),
        "declined": reply(None, refusal="no"),
        "silent": reply("  "),
        "long": reply("und so weiter", "length"),
        "thinking": reply("", "length"),
        "parts": reply([{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]),
        "fine": reply(" gut\n"),
    }
    stub.answer = lambda body: answers[said(body)]
    lines = []
    system = endpoint(say=lines.append, price=Price(2.0, 10.0, "EUR"))
    texts = system.translate([text(name) for name in answers])
    assert texts == ["", "I'm sorry, but I can't read this.", "", "", "und so weiter", "", "in parts", "gut"]
    system.close()
    (line,) = lines
    assert line == (
        "gpt: 8 answers (0 kept from before), 8 requests sent, 800 + 80 tokens, 0.0024 EUR, 3 refused, 1 empty, "
        "2 cut at max_tokens"
    )
    again = endpoint(say=lines.append, price=Price(2.0, 10.0, "EUR"))
    assert again.translate([text(name) for name in answers]) == texts
    again.close()
    assert "8 kept from before), 0 requests sent, 0 + 0 tokens, 0.0000 EUR, 3 refused" in lines[1], "paid for once"


def test_a_request_that_a_filter_refuses_is_an_answer(stub, endpoint):
    refusal = (400, {}, json.dumps({"error": {"code": "content_filter", "message": "policy"}}))
    stub.plan = [refusal]
    system = endpoint(concurrency=1)
    assert system.translate([text("a"), text("b")]) == ["", "B"]
    assert system.bill.wrong == {"refused": 1}
    assert endpoint().translate([text("a")]) == [""]
    assert len(stub.requests) == 2


def test_garbage_to_the_last_is_an_empty_answer_that_is_asked_again_by_the_next_run(stub, endpoint):
    garbage = (200, {}, "garbage")
    stub.plan = [garbage] * QUICK.attempts
    system = endpoint(concurrency=1)
    assert system.translate([text("a"), text("b")]) == ["", "B"]
    assert system.bill.wrong == {"garbage": 1}
    assert "1 no answer to be found in the reply" in system.bill.line("gpt")
    assert endpoint().translate([text("a")]) == ["A"]


def test_nothing_but_garbage_is_the_wrong_address(stub, endpoint):
    stub.plan = [(200, {}, "<html>welcome</html>")] * 99
    with pytest.raises(UserError, match="2 replies without an answer in them; check url and model"):
        endpoint(concurrency=1).translate([text("a"), text("b")])


def test_one_failure_keeps_what_was_answered(stub, endpoint):
    stub.plan = [None, None, (401, {}, "{}")]
    with pytest.raises(UserError, match="status 401"):
        endpoint(concurrency=1).translate([text(t) for t in "abcd"])
    assert endpoint(concurrency=1).translate([text(t) for t in "abcd"]) == list("ABCD")
    assert [said(body) for _, _, body in stub.requests] == ["a", "b", "c", "c", "d"], "one at a time, in order"


@pytest.mark.slow
def test_a_killed_run_repeats_no_call_that_was_answered(stub, tmp_path):
    """The process is killed outright while a request is under way; the next one asks what is left."""
    stub.plan = [None, None, None, 60.0]
    code = textwrap.dedent(
        f"""
        from pathlib import Path
        from neuroglot.data.example import Example
        from neuroglot.systems.endpoint import Endpoint
        system = Endpoint("gpt", {stub.url!r}, "stub", concurrency=1, cache=Path({str(tmp_path / "answers")!r}))
        print(system.translate([Example((), t, "?", "en", "de", "text_translation") for t in "abcdef"]))
        """
    )
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, text=True)
    try:
        while len(stub.requests) < 4:
            assert process.poll() is None
            stub.open.wait(0.02)
    finally:
        process.kill()
        process.wait()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, text=True, check=True)
    assert done.stdout.strip() == "['A', 'B', 'C', 'D', 'E', 'F']"
    assert [said(body) for _, _, body in stub.requests] == [*"abcd", *"def"]


# ---- pace ----------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def sent(pace: RateLimit, clock: Clock, tokens: list[int]) -> list[float]:
    """Return when each request is sent, if each waits as it is told."""
    return [clock.now + pace.reserve(count) for count in tokens]


def test_requests_are_spaced_so_that_no_minute_holds_too_many():
    clock = Clock()
    assert sent(RateLimit(30, clock=clock), clock, [1] * 4) == [0, 2, 4, 6]


def test_tokens_are_spaced_by_what_each_request_takes():
    clock = Clock()
    assert sent(RateLimit(tokens=600, clock=clock), clock, [100, 300, 1, 1]) == [0, 10, 40, 40.1]


def test_the_stricter_limit_counts_and_a_guess_is_corrected():
    clock = Clock()
    pace = RateLimit(60, 600, clock=clock)
    assert sent(pace, clock, [100]) == [0]
    pace.settle(100, 50)
    assert sent(pace, clock, [1, 1]) == [5, 6], "five seconds for fifty tokens, then one a second"


def test_time_that_nobody_used_is_not_saved_up():
    clock = Clock()
    pace = RateLimit(60, clock=clock)
    sent(pace, clock, [1])
    clock.now = 100.0
    assert sent(pace, clock, [1, 1, 1]) == [100, 101, 102]


def test_a_pause_holds_everybody():
    clock = Clock()
    pace = RateLimit(clock=clock)
    pace.pause(7)
    assert sent(pace, clock, [1, 1]) == [7, 7]


def test_the_endpoint_keeps_the_pace(stub, endpoint):
    waited = []
    system = endpoint(requests_per_minute=60, concurrency=1)
    system.client._sleep = waited.append
    system.translate([text(t) for t in "abc"])
    assert [round(seconds) for seconds in waited] == [0, 1, 2]

"""`/v1` as its users meet it, over a real server: the official client, plain requests, and what Open WebUI sends."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()
openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")

from heedful.errors import EngineError
from heedful.server.generation import _ready
from heedful.testing.engine import ScriptedEngine
from server_kit import Site, csrf, make_site, running

SAID = "That sounds hard. What kept you awake? I am here"
HELLO = [{"role": "user", "content": "I slept badly."}]


class Letters:
    """Vectors of letter counts: an embedder without a model."""

    name = "letters"

    def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        return [[float(text.count(letter)) for letter in "abc"] for text in texts], sum(map(len, texts))


class Live:
    """A site behind a real server, and clients for it."""

    def __init__(self, site: Site, url: str) -> None:
        self.site, self.url = site, url
        self.key = site.token("clinician", "generate")
        self.headers = {"Authorization": f"Bearer {self.key}"}

    def post(self, body: dict[str, Any], path: str = "/v1/chat/completions", **more: Any) -> Any:
        return httpx.post(f"{self.url}{path}", json=body, headers=self.headers, timeout=20, trust_env=False, **more)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    site = make_site(
        tmp_path_factory.mktemp("site"),
        engine=ScriptedEngine([SAID], streams=8),
        embedder=Letters(),
        requests_per_minute=100_000,
        generations_per_minute=100_000,
    )
    with running(site.app, header_seconds=1.0) as url:
        yield Live(site, url)
    site.store.close()


@pytest.fixture
def client(live: Live) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=live.key, max_retries=0) as made:
        yield made


# ---------------------------------------------------------------------- the official client


def test_the_official_client_gets_a_reply(client: Any) -> None:
    done = client.chat.completions.create(model="scripted", messages=HELLO, temperature=0.5, max_tokens=50, seed=1)
    assert done.choices[0].message.content == SAID
    assert done.choices[0].finish_reason == "stop"
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
    assert done.usage.prompt_tokens == 3
    assert set(done.model_extra) == {"x_heedful"}


def test_the_official_client_gets_a_stream(client: Any) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    events = list(client.chat.completions.create(model="scripted", messages=HELLO, **options))
    words = [e.choices[0].delta.content for e in events if e.choices and e.choices[0].delta.content]
    assert words == ["That sounds hard.", " What kept you awake?", " I am here"]  # whole sentences
    assert [e.choices[0].finish_reason for e in events if e.choices][-1] == "stop"
    assert events[-1].usage.completion_tokens > 0
    assert len({e.id for e in events}) == 1


def test_the_official_client_lists_models_and_makes_vectors(client: Any) -> None:
    assert [m.id for m in client.models.list()] == ["scripted", "letters"]
    assert client.models.retrieve("scripted").owned_by == "heedful"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")
    made = client.embeddings.create(model="letters", input=["abc", "aab"])
    assert [d.embedding for d in made.data] == [[1, 1, 1], [2, 1, 0]]
    assert made.usage.prompt_tokens == 6


def test_vectors_come_as_numbers_or_packed(live: Live) -> None:
    plain = live.post({"model": "letters", "input": "cab"}, "/v1/embeddings").json()
    assert plain["data"][0]["embedding"] == [1, 1, 1]
    packed = live.post({"input": "cab", "encoding_format": "base64"}, "/v1/embeddings").json()
    assert struct.unpack("<3f", base64.b64decode(packed["data"][0]["embedding"])) == (1, 1, 1)


def test_errors_come_as_the_classes_of_the_client(live: Live, client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="no such model"):
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.chat.completions.create(model="scripted", messages=HELLO, n=3)
    assert caught.value.param == "n"
    with (
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="hfd_generate_wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


# ---------------------------------------------------------------------- other clients


def test_what_open_webui_sends_is_understood(live: Live) -> None:
    """Shapes as Open WebUI 0.6 sends them to an OpenAI connection: fields of its own, a list of parts as content."""
    listed = httpx.get(f"{live.url}/v1/models", headers=live.headers, trust_env=False).json()
    assert listed["object"] == "list"
    assert {"id", "object", "created", "owned_by"} <= set(listed["data"][0])
    body = {
        "stream": True,
        "model": "scripted",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "I slept "}, {"type": "text", "text": "badly."}]},
        ],
        "params": {},
        "features": {"image_generation": False, "web_search": False},
        "session_id": "abc",
        "chat_id": "def",
        "background_tasks": {"title_generation": True},
        "stream_options": {"include_usage": True},
        "metadata": {"variables": {"{{USER_NAME}}": "Clara"}},
    }
    answer = live.post(body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    lines = [line for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in events if e["choices"]) == SAID
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    seen = live.site.engine.seen[-1]
    assert [(m.role, m.content) for m in seen.messages] == [("system", "Be brief."), ("user", "I slept badly.")]


def test_settings_reach_the_engine(live: Live) -> None:
    settings = {"max_tokens": 9, "temperature": 0, "top_p": 0.5, "seed": -1, "stop": "END"}
    live.post({"messages": [{"role": "developer", "content": "Hi."}, *HELLO], **settings})
    request = live.site.engine.seen[-1]
    options = request.options
    assert (options.max_tokens, options.temperature, options.top_p, options.stop) == (9, 0, 0.5, ("END",))
    assert 0 <= options.seed < 2**32
    assert request.messages[0].role == "system"
    assert request.caller == live.site.ids["clinician"]
    live.post({"messages": HELLO, "max_tokens": 9, "max_completion_tokens": 7, "stop": None, "stream": None})
    assert live.site.engine.seen[-1].options.max_tokens == 7


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": " \n"}],
        [{"role": "tool", "content": "x"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}],
    ],
)
def test_messages_that_cannot_be_answered_are_refused(live: Live, messages: list[Any]) -> None:
    assert live.post({"messages": messages}).status_code == 422


STRANGE = ["👋" * 100, "مرحبا لم أنم جيدا", "a\x00b\x1b[31m", "x" * 50_000, "\u202eabc", "\ud800"]


@pytest.mark.parametrize("text", STRANGE)
def test_strange_texts_get_an_answer(live: Live, text: str) -> None:
    data = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
    headers = {**live.headers, "Content-Type": "application/json"}
    answer = httpx.post(f"{live.url}/v1/chat/completions", content=data, headers=headers, trust_env=False)
    assert answer.status_code in (200, 400, 422)
    if text != "\ud800":
        assert answer.status_code == 200
        assert live.site.engine.seen[-1].messages[0].content == text


# ---------------------------------------------------------------------- the guard


def test_the_guard_answers_in_place_of_the_model(live: Live) -> None:
    before = len(live.site.engine.seen)
    answer = live.post({"messages": [{"role": "user", "content": "DANGER"}]}).json()
    assert answer["choices"][0]["message"]["content"] == "A person answers this."
    assert answer["choices"][0]["finish_reason"] == "content_filter"
    assert answer["x_heedful"] == {"guard": {"level": 5}}
    assert len(live.site.engine.seen) == before  # the model was not asked
    streamed = live.post({"stream": True, "messages": [{"role": "user", "content": "DANGER"}]}).text
    assert "A person answers this." in streamed
    assert streamed.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
def test_no_word_leaves_before_the_guard_saw_its_sentence(tmp_path: Path, stream: bool) -> None:
    engine = ScriptedEngine(["This is fine. This is FORBIDDEN and goes on. And on. " + "More. " * 500], pace=0.001)
    site = make_site(tmp_path, engine=engine)
    with running(site.app) as url:
        body = {"messages": HELLO, "stream": stream}
        text = httpx.post(f"{url}/v1/chat/completions", json=body, headers=site.bearer(), trust_env=False).text
    assert "FORBIDDEN" not in text
    assert "This was held back." in text
    assert "content_filter" in text
    assert ("This is fine." in text) is stream
    if stream:
        assert engine.state().running == 0  # the rest was not written
    site.store.close()


def test_where_sentences_end() -> None:
    assert _ready("One. Two", 0) == len("One.")
    assert _ready("It costs 3.", 0) == 0  # it may go on: 3.50
    assert _ready('He said "stop." Then', 0) == len('He said "stop."')
    assert _ready("我睡不着。你呢", 0) == len("我睡不着。")
    assert _ready("One. Two. ", 5) == len("One. Two.")


# ---------------------------------------------------------------------- slow, full and dead models


def test_a_slow_model_leaves_everything_else_quick(tmp_path: Path) -> None:
    site = make_site(tmp_path, engine=ScriptedEngine(delay=1.5, streams=4))
    with running(site.app) as url, httpx.Client(base_url=url, trust_env=False, timeout=20) as client:
        key = site.bearer()
        slow = [
            threading.Thread(
                target=lambda: httpx.post(
                    f"{url}/v1/chat/completions", json={"messages": HELLO}, headers=key, timeout=20, trust_env=False
                )
            )
            for _ in range(4)
        ]
        for thread in slow:
            thread.start()
        time.sleep(0.3)
        begun = time.monotonic()
        for _ in range(5):
            assert client.get("/health").status_code == 200
            assert client.get("/v1/models", headers=key).status_code == 200
        assert time.monotonic() - begun < 1.5
        for thread in slow:
            thread.join(20)
    site.store.close()


def test_a_flood_of_passwords_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    """Stretching a password takes long on purpose; it waits outside of the threads that look callers up."""
    site = make_site(tmp_path, requests_per_minute=100_000)
    site.accounts.passwords.verify = lambda *_: time.sleep(0.1) or False
    with running(site.app) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        key, form = site.bearer(), {"name": "anna", "password": "x", "csrf": csrf(client.get("/sign-in").text)}
        cookies = dict(client.cookies)

        def knock(n: int) -> None:
            data = {**form, "name": f"nobody{n}"}
            httpx.post(f"{url}/sign-in", data=data, cookies=cookies, timeout=30, trust_env=False)

        flood = [threading.Thread(target=knock, args=(n,)) for n in range(60)]
        for thread in flood:
            thread.start()
        time.sleep(0.3)
        begun = time.monotonic()
        assert client.get("/v1/models", headers=key).status_code == 200
        waited = time.monotonic() - begun
        assert any(thread.is_alive() for thread in flood)
        for thread in flood:
            thread.join(30)
    assert waited < 0.7
    site.store.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue_says_when_to_come_back(tmp_path: Path, stream: bool) -> None:
    failures = {0: EngineError("Too many requests wait.", code="full", retry_after=7)}
    site = make_site(tmp_path, engine=ScriptedEngine(failures=failures))
    with running(site.app) as url:
        body = {"messages": HELLO, "stream": stream}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=site.bearer(), trust_env=False)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "7"
    assert answer.json()["error"]["code"] == "engine_full"
    site.store.close()


def test_too_many_replies_a_minute_are_refused(tmp_path: Path) -> None:
    site = make_site(tmp_path, generations_per_minute=4)
    with site.client() as client:
        key = site.bearer()
        found = [client.post("/v1/chat/completions", json={"messages": HELLO}, headers=key) for _ in range(2)]
    assert [a.status_code for a in found] == [200, 429]
    assert found[1].json()["error"]["type"] == "rate_limit_error"
    site.store.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_stops_the_model(tmp_path: Path, stream: bool) -> None:
    engine = ScriptedEngine(["word. " * 3000], pace=0.01)
    site = make_site(tmp_path, engine=engine)
    with running(site.app) as url:
        options = {"json": {"messages": HELLO, "stream": stream}, "headers": site.bearer(), "trust_env": False}
        if stream:
            with httpx.stream("POST", f"{url}/v1/chat/completions", **options) as answer:
                next(answer.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}/v1/chat/completions", timeout=0.5, **options)
        end = time.monotonic() + 5
        while engine.state().running:
            assert time.monotonic() < end, "the model writes on for nobody"
            time.sleep(0.02)
    assert len(engine.seen) == 1
    site.store.close()


def test_an_error_in_mid_stream_is_an_event_and_no_done(tmp_path: Path) -> None:
    class Breaking(ScriptedEngine):
        async def generate(self, request: Any) -> Any:
            from heedful.server.engine.base import Piece

            yield Piece(text="One sentence. And then")
            raise EngineError("The model's process ended.", code="lost", retry_after=1)

    site = make_site(tmp_path, engine=Breaking())
    with site.client() as client:
        text = client.post("/v1/chat/completions", json={"messages": HELLO, "stream": True}, headers=site.bearer()).text
    assert "One sentence." in text
    assert '"code": "engine_lost"' in text
    assert "[DONE]" not in text
    site.store.close()


# ---------------------------------------------------------------------- slow clients


def test_headers_that_never_end_are_not_waited_for(live: Live) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    for sent in (b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: "):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(sent)
            begun = time.monotonic()
            assert connection.recv(1000) == b""
            assert 0.5 < time.monotonic() - begun < 5


def test_a_body_that_never_ends_is_not_waited_for(tmp_path: Path) -> None:
    site = make_site(tmp_path, body_seconds=0.5)
    with running(site.app) as url:
        host, port = url.removeprefix("http://").split(":")
        key = site.bearer()["Authorization"]
        head = (
            f"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\nAuthorization: {key}\r\n\r\nx"
        )
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(head.encode())
            assert connection.recv(4000).startswith(b"HTTP/1.1 408 ")
    site.store.close()


def test_an_open_connection_may_be_used_again_and_no_server_is_named(live: Live) -> None:
    with httpx.Client(base_url=live.url, trust_env=False) as client:
        for _ in range(3):
            answer = client.get("/health")
            assert answer.status_code == 200
            assert "server" not in answer.headers
            time.sleep(0.4)  # longer together than the headers may take

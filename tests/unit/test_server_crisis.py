"""Danger on `/v1`: help comes first, in the language of the message, whatever the model does. Nothing is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()
openai = pytest.importorskip("openai")

from heedful.errors import EngineError, StoreError
from heedful.server.crisis_guard import CrisisGuard
from heedful.server.guard import Verdict
from heedful.testing.engine import ScriptedEngine
from server_kit import Site, make_site, running

URGENT, SIGN = "Tonight I am going to kill myself, zebra.", "I want to die, zebra."
REPLY = "That sounds hard. What happened today?"
PATH = "/v1/chat/completions"


class Dead(ScriptedEngine):
    """A model whose process is gone."""

    def submit(self, request: Any) -> Any:
        raise EngineError("The model's process ended.", code="lost", retry_after=1)

    async def generate(self, request: Any) -> Any:
        raise EngineError("The model's process ended.", code="lost", retry_after=1)
        yield

    async def complete(self, request: Any) -> Any:
        raise EngineError("The model's process ended.", code="lost", retry_after=1)


class Halfway(ScriptedEngine):
    """A model that dies after its first sentence."""

    async def generate(self, request: Any) -> Any:
        from heedful.server.engine.base import Piece

        yield Piece(text="One sentence. And then")
        raise EngineError("The model's process ended.", code="lost", retry_after=1)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    made: list[Site] = []

    def one(engine: Any = None, **settings: Any) -> Site:
        site = make_site(tmp_path, engine=engine or ScriptedEngine([REPLY]), guard=CrisisGuard(), **settings)
        made.append(site)
        return site

    yield one
    for site in made:
        site.store.close()


def ask(site: Site, text: str, **more: Any) -> Any:
    with site.client() as client:
        body = {"messages": [{"role": "user", "content": text}], **more}
        return client.post(PATH, json=body, headers=site.bearer())


def words(answer: Any) -> str:
    """What somebody reads, streamed or not."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return str(answer.json()["choices"][0]["message"]["content"])
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return "".join(c["delta"].get("content", "") for line in lines[:-1] for c in json.loads(line)["choices"])


def entries(site: Site) -> list[Any]:
    with site.store.read() as unit:
        return [entry for entry in unit.audit.all() if entry.action == "api.crisis"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("engine", [ScriptedEngine, Dead])
def test_danger_is_answered_by_lines_and_no_model(make: Any, engine: Any, stream: bool) -> None:
    site = make(engine([REPLY]))
    answer = ask(site, URGENT, stream=stream)
    said = words(answer)
    assert answer.status_code == 200
    assert said.startswith("Please talk to somebody now")
    assert "988" in said  # the lines of the configured country, not "a line in your country"
    assert "911" in said
    assert REPLY not in said
    assert not site.engine.seen


@pytest.mark.parametrize("stream", [False, True])
def test_a_sign_gets_lines_first_and_then_the_model(make: Any, stream: bool) -> None:
    said = words(ask(make(), SIGN, stream=stream))
    assert said.startswith("People you can talk to now")
    assert "988" in said
    assert said.endswith(REPLY)


@pytest.mark.parametrize("stream", [False, True])
def test_a_sign_is_answered_though_the_model_is_dead(make: Any, stream: bool) -> None:
    answer = ask(make(Dead()), SIGN, stream=stream)
    assert answer.status_code == 200
    assert "988" in words(answer)
    assert "thoughts of suicide" in words(answer)  # it is asked plainly, by a fixed text
    assert '"model": "lost"' in answer.text.replace('"model":"lost"', '"model": "lost"')


def test_a_model_that_dies_behind_the_lines_leaves_a_whole_stream(make: Any) -> None:
    said = words(ask(make(Halfway()), SIGN, stream=True))
    assert said.startswith("People you can talk to now")
    assert said.endswith("One sentence.")


def test_a_reply_that_the_gate_holds_back_leaves_the_lines(make: Any) -> None:
    said = words(ask(make(ScriptedEngine(["Think of your children!"])), SIGN))
    assert "988" in said
    assert "children" not in said


@pytest.mark.parametrize("text", [URGENT, SIGN])
def test_neither_a_limit_nor_a_wrong_model_takes_help_away(make: Any, text: str) -> None:
    site = make(generations_per_minute=1)
    with site.client() as client:
        for body in ({}, {}, {}, {"model": "gpt-4o"}, {"model": "gpt-4o", "stream": True}):
            sent = {"messages": [{"role": "user", "content": text}], **body}
            answer = client.post(PATH, json=sent, headers=site.bearer())
            assert answer.status_code == 200
            assert "988" in words(answer)
        plain = {"messages": [{"role": "user", "content": "I slept badly."}]}
        assert [client.post(PATH, json=plain, headers=site.bearer()).status_code for _ in range(2)][-1] == 429
        assert client.post(PATH, json={**plain, "model": "gpt-4o"}, headers=site.bearer()).status_code == 404


def test_the_audit_has_a_line_without_words(make: Any) -> None:
    site = make()
    ask(site, URGENT)
    ask(site, SIGN)
    ask(site, "I slept badly.")
    first, second = entries(site)
    assert (first.actor, first.object) == (site.ids["clinician"], f"user:{site.ids['clinician']}")
    assert (first.facts["tier"], first.facts["rung"], first.facts["answer"]) == ("immediate", "emergency", "fixed")
    assert (second.facts["tier"], second.facts["answer"]) == ("thoughts", "fixed-first")
    assert any(rule.startswith("en/plan@") for rule in first.facts["rules"])
    assert "zebra" not in json.dumps([first.facts, second.facts])


def test_a_database_that_is_gone_holds_no_help_up(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make()
    headers = site.bearer()

    def gone(*_: Any) -> Any:
        raise StoreError("The database cannot do this now.")

    with site.client() as client:
        client.get("/health")
        monkeypatch.setattr(site.store, "run", gone)
        body = {"messages": [{"role": "user", "content": URGENT}]}
        answer = client.post(PATH, json=body, headers=headers)
        monkeypatch.undo()
    assert answer.status_code == 200
    assert "988" in words(answer)


def test_the_official_client_reads_both(make: Any) -> None:
    site = make()
    with (
        running(site.app) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=site.token("clinician", "generate"), max_retries=0) as client,
    ):
        talk = [{"role": "user", "content": URGENT}]
        done = client.chat.completions.create(model="heedful", messages=talk)
        assert done.choices[0].message.role == "assistant"
        assert done.choices[0].finish_reason == "content_filter"
        assert done.model_extra["x_heedful"]["guard"]["rung"] == "emergency"
        assert done.usage.total_tokens == 0
        talk[0]["content"] = SIGN
        events = list(client.chat.completions.create(model="heedful", messages=talk, stream=True))
        assert [e.choices[0].finish_reason for e in events if e.choices][-1] == "stop"
        pieces = [e.choices[0].delta.content for e in events if e.choices and e.choices[0].delta.content]
        assert pieces[0].startswith("People you can talk to now")  # help is there before the model has begun
        assert "".join(pieces).endswith(REPLY)


WRONG: list[dict[str, Any]] = [{"n": 2}, {"temperature": 3}, {"stop": [""] * 20}, {"max_tokens": 0}, {"stream": "?"}]


@pytest.mark.parametrize("text", [URGENT, SIGN])
@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: next(iter(wrong)))
def test_a_request_that_is_not_understood_is_no_reason_to_refuse_help(make: Any, wrong: Any, text: str) -> None:
    site = make()
    answer = ask(site, text, **wrong)
    assert answer.status_code == 200
    assert "988" in words(answer)
    assert not site.engine.seen
    assert [entry.actor for entry in entries(site)] == [site.ids["clinician"]]
    assert ask(site, "I slept badly.", **wrong).status_code == 422


def test_wrong_parameters_of_a_stream_are_answered_by_a_stream(make: Any) -> None:
    answer = ask(make(), URGENT, n=2, stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "988" in words(answer)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": URGENT}, {"role": "tool", "content": "14 degrees"}],
        [{"role": "user", "content": [{"type": "text", "text": URGENT}, {"type": "image_url", "image_url": {}}]}],
        [{"role": "user", "content": URGENT + " \ud800"}],
        [{"role": "patient", "content": URGENT}],
        [{"role": ["x"], "content": URGENT}, 7, {"content": 7}, {"content": [7, {"text": 7}]}],
    ],
)
def test_parts_and_roles_that_are_not_known_hide_no_danger(make: Any, messages: list[Any]) -> None:
    site = make()
    with site.client() as client:
        head = {**site.bearer(), "Content-Type": "application/json"}
        answer = client.post(PATH, content=json.dumps({"messages": messages}), headers=head)
    assert answer.status_code == 200
    assert "988" in words(answer)


@pytest.mark.parametrize("body", [b"{", b"[]", b"7", b'{"messages": 7}', b'{"messages": [7, null]}'])
def test_what_has_no_messages_is_refused_as_ever(make: Any, body: bytes) -> None:
    site = make()
    with site.client() as client:
        head = {**site.bearer(), "Content-Type": "application/json"}
        assert client.post(PATH, content=body, headers=head).status_code in (400, 422)


def test_more_tokens_than_there_may_be_are_as_many_as_there_may_be(make: Any) -> None:
    site = make()
    assert ask(site, "I slept badly.", max_tokens=8192).status_code == 200
    assert site.engine.seen[-1].options.max_tokens == 4096


class Broken:
    """A guard of somebody else that raises, before or after."""

    def __init__(self, *, at: str) -> None:
        self.at = at

    def before(self, messages: Any) -> Verdict:
        return self._looked("before")

    def after(self, text: str) -> Verdict:
        return self._looked("after")

    def _looked(self, where: str) -> Verdict:
        if where == self.at:
            raise RuntimeError("zebra")
        return Verdict()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("at", ["before", "after"])
def test_a_guard_that_raises_takes_no_lines_away(tmp_path: Path, at: str, stream: bool) -> None:
    site = make_site(tmp_path, engine=ScriptedEngine([REPLY]), guard=Broken(at=at))
    answer = ask(site, SIGN, stream=stream)
    assert answer.status_code == 200
    assert "988" in words(answer)
    assert REPLY not in words(answer), "nobody of the other guard looked at it"
    assert "zebra" not in answer.text
    site.store.close()

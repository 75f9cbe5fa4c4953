"""Planners add sources to turns; the record keeps them, and nothing looks ahead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from heedful import agents
from heedful.errors import ConfigError, DataError, NotFoundError
from heedful.types import Conversation, Turn


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Notes how many turns it has seen: a planner whose notes show at once if it looked ahead."""

    word: str = "turns"

    @property
    def fingerprint(self) -> str:
        return f"counts#{self.word}"

    def plan(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        def noted(i: int, turn: Turn) -> Turn:
            note = {"name": f"count.{self.word}", "text": str(i + 1), "id": f"t{i}"}
            return replace(turn, sources=(*turn.sources, note)) if turn.role == "user" else turn

        return [replace(c, turns=tuple(noted(i, t) for i, t in enumerate(c.turns))) for c in conversations]


TALK = Conversation(
    id="a",
    turns=(
        Turn(role="user", text="One."),
        Turn(role="assistant", text="Two."),
        Turn(role="user", text="Three."),
        Turn(role="assistant", text="Four."),
        Turn(role="assistant", text="Five."),
    ),
)


def test_sources_are_those_of_the_last_turn_of_the_seeker() -> None:
    planned = agents.make([f"{__name__}:Counts"]).plan([TALK])[0]
    assert [s["text"] for s in planned.before(1).sources()] == ["1"]
    assert [s["text"] for s in planned.before(3).sources()] == ["3"]
    assert [s["text"] for s in planned.before(4).sources()] == ["3"]
    assert planned.before(0).sources() == ()
    assert planned.sources("count") == planned.sources("count.turns") == planned.sources()
    assert planned.sources("count.t") == ()


def test_an_old_lookup_is_not_taken_for_a_new_one() -> None:
    """Where the last turn of the seeker has nothing, nothing was found; what was found before is stale."""
    planned = agents.make([f"{__name__}:Counts"]).plan([TALK])[0]
    turns = list(planned.turns)
    turns[2] = replace(turns[2], sources=())
    assert replace(planned, turns=tuple(turns)).before(3).sources() == ()


def test_a_chain_adds_up_and_says_what_it_is() -> None:
    chain = agents.make(["none", {"name": f"{__name__}:Counts", "word": "words"}, f"{__name__}:Counts"])
    assert chain.fingerprint == "none > counts#words > counts#turns"
    assert [s["name"] for s in chain.plan([TALK])[0].before(1).sources()] == ["count.words", "count.turns"]
    assert agents.make(None).fingerprint == ""
    assert agents.make(None).plan([TALK]) == [TALK]


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(NotFoundError, match="Unknown planner 'nothin'"):
        agents.make(["nothin"])
    with pytest.raises(ConfigError, match="cannot be made from these options"):
        agents.make([{"name": "none", "size": 3}])
    with pytest.raises(ConfigError, match="needs a 'name'"):
        agents.make([{"size": 3}])


def test_sources_survive_the_file_and_cannot_be_changed() -> None:
    planned = agents.make([f"{__name__}:Counts"]).plan([TALK])[0]
    record = planned.to_dict()
    assert record["messages"][0]["sources"] == [{"name": "count.turns", "text": "1", "id": "t0"}]
    assert "sources" not in record["messages"][1]
    assert Conversation.from_dict(record) == planned
    with pytest.raises(TypeError):
        planned.turns[0].sources[0]["text"] = "2"  # type: ignore[index]
    with pytest.raises(DataError, match=r"'sources' must be a list of objects"):
        Conversation.from_dict({"id": "a", "messages": [{"role": "user", "content": "x", "sources": ["y"]}]})

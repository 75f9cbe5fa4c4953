"""What reads beside the model: knowledge, emotions, the usual strategy, and the second reader of the crisis path.

The engines here are real worker processes with tiny models; only the words make no sense.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()
torch = pytest.importorskip("torch")

import scorer_kit
from belief_kit import VEILED, toy_belief
from clinic_kit import Clinic, make_clinic, say
from knowledge_kit import CASES, write_cases

from heedful.errors import ConfigError, DataError, EngineError, NotFoundError, UserError
from heedful.formats import make
from heedful.knowledge import build
from heedful.server import house, readers
from heedful.server.clinic import make_desk, profile_of
from heedful.server.config import ServeConfig
from heedful.server.engine.host import Limits, WorkerEngine
from heedful.server.engine.readers import course, follows, planner_of
from heedful.server.readers import ReadBelief, SecondReader
from heedful.server.serve import engine_of
from heedful.server.writer import EngineWriter, Permitted
from heedful.testing import conversation, tiny_model
from heedful.testing.engine import ScriptedEngine
from heedful.types import Turn

SLEEPLESS = "I cannot sleep before exams, I am furious today."


# ---------------------------------------------------------------------- what a clinic would have trained


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders as `heedful train` and `heedful knowledge build` leave them, all tiny."""
    folder = tmp_path_factory.mktemp("made")
    data = scorer_kit.write(folder / "talks.jsonl")
    scorer_kit.trained(folder / "emotion", data)
    scorer_kit.trained(folder / "judges", data, roles=["assistant"])
    _next_strategy(folder / "next")
    build(str(write_cases(folder / "cases.jsonl")), out=folder / "cases", encoder=None)
    _planning_run(folder / "planning")
    toy_belief(folder / "belief")
    return folder


def _next_strategy(folder: Path) -> None:
    from heedful.classify import Item, Recipe, fit
    from heedful.taxonomy import get

    items = [Item(text=f"word {n}", place=n, history=("Question",) * (n % 3)) for n in range(40)]
    gold = ["Question" if n % 3 == 0 else "Self-disclosure" for n in range(40)]
    labels = get("esconv_strategy").names
    record = {"target": "next", "roles": ["assistant"], "features": "state", "seed": 1}
    fitted = fit(
        items, gold, label_set="esconv_strategy", labels=labels, recipe=Recipe(features="state"), record=record
    )
    folder.mkdir()
    fitted.model.save(folder)


def _planning_run(folder: Path) -> None:
    causal = tiny_model(seed=4)
    causal.tokenizer.add_special_tokens({"additional_special_tokens": list(make("strategy").markers)})
    torch.manual_seed(0)  # the new rows are drawn
    causal.model.resize_token_embeddings(len(causal.tokenizer), mean_resizing=False)
    causal.model.save_pretrained(str(folder))
    causal.tokenizer.save_pretrained(str(folder))
    (folder / "config.resolved.yaml").write_text("format: {name: strategy}\n", "utf-8")


def until(found: Callable[[], Any], *, seconds: float = 60) -> Any:
    """What `found` gives, as soon as it gives something."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return value


# ---------------------------------------------------------------------- end to end


def test_a_draft_of_a_real_model_stands_beside_all_its_reasons(made: Path, tmp_path: Path) -> None:
    """A message, a run that plans, three processes, one page."""
    settings: dict[str, Any] = {
        "model": str(made / "planning"), "context": 700,
        "emotion": str(made / "emotion"), "strategy": str(made / "next"), "belief": str(made / "belief"),
    }  # fmt: skip
    config = ServeConfig(home_folder=tmp_path, engine="transformers", **settings)
    readers.check(config)
    engine = engine_of(config)
    at = _clinic(tmp_path, engine, settings)
    with at.site.client():  # the app's life: engine, readers and threads start and stop with it
        say(at.begun(), SLEEPLESS, "m-1")
        draft = until(lambda: at.drafts("drafted"))[0]
        until(lambda: at.desk.second.engine.state().word == "ready")
        clinician = at.client("clinician")
        page = clinician.get(f"/inbox/{at.thread().id}").text
        admin = at.client("admin").get("/admin").text
    why = draft.reasons
    assert len(why["strategy"]["distribution"]) == 8
    assert (why["strategy"]["by"], why["strategy"]["rule"]) == ("model", "argmax")
    assert why["plan"] == {"esconv_strategy": why["strategy"]["name"]}
    (mark,) = why["emotion"]
    assert mark["turn"] == next(t.sequence for t in _turns(at) if t.text == SLEEPLESS)
    assert mark["about"] == "anger"
    assert mark["evidence"] in SLEEPLESS
    assert "furious" in mark["evidence"]
    assert 0 < why["uncertainty"] < 1
    assert why["prompt"]["name"] == "strategy/v1"
    assert draft.model.startswith("planning@")
    assert len(draft.model.partition("@")[2]) == 16
    assert "The model chose it before it wrote (argmax)." in page
    assert page.count('class="wide"') >= 8
    assert "<svg" in page
    assert "furious" in page
    assert draft.model in page
    assert "belief-" in admin
    assert "Recall asked for 0.90" in admin


def _clinic(folder: Path, engine: Any, settings: dict[str, Any]) -> Clinic:
    """A clinic whose drafts come from `engine`, and not from a scripted writer."""
    at = make_clinic(folder, engine=engine, **settings)
    at.site.app.state.desk = make_desk(at.site.app.state.server)
    return at


def _turns(at: Clinic) -> Any:
    with at.store.read() as unit:
        return unit.turns.of(at.thread().id)


def test_what_was_looked_up_is_shown_and_given_to_the_model(made: Path, tmp_path: Path) -> None:
    engine = ScriptedEngine(["That sounds tiring."])
    at = _clinic(tmp_path, engine, {"knowledge": str(made / "cases"), "strategy": str(made / "next")})
    with at.site.client():
        say(at.begun(), "I cannot sleep before exams.", "m-1")
        draft = until(lambda: at.drafts("drafted"))[0]
        page = at.client("clinician").get(f"/inbox/{at.thread().id}").text
    source = draft.reasons["sources"][0]
    assert (source["id"], source["vetted_by"], source["date"]) == ("c-1", "A. Nurse", "2026-10-01")
    assert source["score"] > 0
    assert source["index"] == planner_of(made / "cases")._opened.fingerprint  # type: ignore[attr-defined]
    for shown in ("c-1", "A. Nurse", CASES[0]["advice"], source["index"]):
        assert shown in page
    last = engine.seen[-1].messages[-1]
    assert last.role == "user"
    assert last.content.startswith("I cannot sleep before exams.\n\n[Notes from this service")
    assert CASES[0]["advice"] in last.content
    assert "strategy" in draft.reasons
    assert "Read off the conversation by" in page, "a strategy that the model did not choose is not called its own"


# ---------------------------------------------------------------------- the prompt


def sent(writer: EngineWriter, *texts: str, **more: Any) -> Any:
    return writer.request(conversation(*texts), key="thread/turn", **more)


def test_notes_stand_after_the_last_words_so_that_what_is_before_stays_warm() -> None:
    writer = EngineWriter(ScriptedEngine())
    notes = [{"name": "case", "id": "c-1", "text": "Ask about\nthe evening."}, {"name": "case.filtered", "why": "risk"}]
    plain = sent(writer, "I slept badly.", "Why?", "My work.").messages
    told = sent(writer, "I slept badly.", "Why?", "My work.", sources=notes).messages
    assert told[:-1] == plain[:-1]
    assert told[-1].content.startswith("My work.\n\n[Notes")
    assert "- Ask about the evening." in told[-1].content
    assert "filtered" not in told[-1].content


def test_a_run_with_a_format_of_its_own_gets_the_conversation() -> None:
    notes = [{"name": "case", "id": "c-1", "text": "Ask about the evening."}]
    writer = EngineWriter(ScriptedEngine(), fmt=make({"name": "kemi", "knowledge": "support"}))
    request = sent(writer, "I slept badly.", sources=notes)
    assert not request.messages
    assert [dict(s) for s in request.conversation.sources()] == notes
    assert request.reasons == "wanted"


def test_the_prompt_is_read_while_the_readers_read() -> None:
    engine = ScriptedEngine(["I hear you."])
    order: list[str] = []

    class Slow:
        named = frozenset({"knowledge"})

        def read(self, talk: Any) -> Mapping[str, Any]:
            order.append(f"readers, after {len(engine.ahead)} read ahead and {len(engine.seen)} asked")
            return {"sources": [{"name": "case", "id": "c-1", "text": "Ask about the evening."}]}

    engine.start()
    EngineWriter(engine, readers=Slow()).propose(conversation("Hello"), key="a/b")  # type: ignore[arg-type]
    engine.stop()
    assert order == ["readers, after 1 read ahead and 0 asked"]
    (read,), (asked,) = engine.ahead, engine.seen
    assert (read.key, read.reasons) == (asked.key, "unwanted")
    assert asked.messages[-1].content.startswith(read.messages[-1].content), "what was found stands behind the words"


def test_a_reader_that_is_gone_costs_its_reasons_and_not_the_draft() -> None:
    class Gone:
        named = frozenset({"emotion", "knowledge"})

        def read(self, talk: Any) -> Mapping[str, Any]:
            raise EngineError("SECRET", code="late")

    engine = ScriptedEngine(["I hear you."])
    engine.start()
    made_ = EngineWriter(engine, readers=Gone()).propose(conversation("Hello"), key="a/b")  # type: ignore[arg-type]
    engine.stop()
    assert made_.text == "I hear you."
    assert made_.reasons["not_read"] == {"what": ["emotion", "knowledge"], "why": "late"}
    assert "emotion" not in made_.reasons
    assert "SECRET" not in str(made_.reasons)


# ---------------------------------------------------------------------- reading


def test_emotions_are_read_off_the_help_seekers_messages_with_their_place(made: Path) -> None:
    from heedful.server.engine.readers import emotion_scorer

    scorer = emotion_scorer(made / "emotion")
    said = ("furious today", "Tell me more.", "glad again")
    turns = [Turn(role=t.role, text=t.text, extra={"sequence": 5 + n}) for n, t in enumerate(conversation(*said))]
    marks = course(scorer, turns)
    assert [mark["turn"] for mark in marks] == [5, 7]
    assert [mark["about"] for mark in marks] == ["anger", "joy"]
    assert [next(iter(mark["values"])) for mark in marks] == ["anger", "joy"], "the strongest comes first"
    assert "furious" in marks[0]["evidence"]
    assert course(scorer, turns) == marks
    assert not scorer._seen, "what people wrote is not kept"


def test_the_usual_strategy_depends_on_those_before(made: Path) -> None:
    from heedful.server.engine.readers import strategy_scorer

    scorer = strategy_scorer(made / "next")
    found = follows(scorer, conversation("I slept badly."))
    assert sum(found["distribution"].values()) == pytest.approx(1, abs=1e-3)
    asked = conversation("I slept badly.", "Why?", "Work.", labels={1: {"esconv_strategy": "Question"}})
    assert follows(scorer, asked)["distribution"] != found["distribution"]
    assert found["by"].endswith(scorer.fingerprint)


def test_nothing_is_looked_up_where_somebody_speaks_of_danger(made: Path) -> None:
    planner = planner_of(made / "cases")
    (found,) = planner.plan([conversation("I want to die before the exams.")])
    assert [dict(s) for s in found.sources()] == [{"name": "case.filtered", "why": "risk"}]


# ---------------------------------------------------------------------- bad folders: one sentence


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("belief", "nowhere", "holds no belief"),
        ("emotion", "nowhere", "is no folder"),
        ("emotion", "judges", "needs a scorer of emotions in a help-seeker's messages"),
        ("emotion", "next", "needs a scorer of emotions"),
        ("strategy", "emotion", "needs a scorer of the strategy that comes next"),
        ("knowledge", "nowhere", "nowhere"),
        ("knowledge", "emotion", "emotion"),
        ("plan", "argmax", "needs a format whose replies begin with one marker"),
        ("plan", "gold", "Nobody knows the right strategy"),
    ],
)
def test_a_wrong_folder_ends_the_start_with_one_sentence(made: Path, option: str, value: str, said: str) -> None:
    given = value if option == "plan" else str(made / value)
    with pytest.raises(UserError, match=said) as caught:
        readers.check(ServeConfig(**{option: given}))
    assert "\n" not in str(caught.value)


def test_knowledge_that_the_model_could_not_be_told_is_refused(made: Path) -> None:
    with pytest.raises(ConfigError, match="writes none of it into the input"):
        readers.check(ServeConfig(model=str(made / "planning"), knowledge=str(made / "cases")))
    with pytest.raises(ConfigError, match="chooses none"):
        readers.check(ServeConfig(engine="openai", model="http://127.0.0.1:1/v1", plan="argmax"))
    readers.check(ServeConfig(knowledge=str(made / "cases")))


def test_damaged_files_are_noticed(made: Path, tmp_path: Path) -> None:
    import shutil

    broken = shutil.copytree(made / "belief", tmp_path / "broken")
    (broken / "belief.json").write_text("{", "utf-8")
    with pytest.raises(DataError, match="is damaged"):
        readers.check(ServeConfig(belief=str(broken)))
    with pytest.raises(NotFoundError):
        readers.check(ServeConfig(emotion=str(tmp_path)))


def test_with_nothing_named_nothing_starts(tmp_path: Path) -> None:
    at = make_clinic(tmp_path)
    desk = make_desk(at.site.app.state.server)
    assert desk.engines == ()
    assert desk.clinic.belief is None
    assert [worker.name for worker in desk.workers] == ["clocks", "drafts-0", "drafts-1", "notes", "ahead"]


# ---------------------------------------------------------------------- profiles


def test_where_emotions_are_off_nobody_reads_them(made: Path) -> None:
    config = ServeConfig(emotion=str(made / "emotion"))
    assert readers.readers(config, profile_of(["us-il"])) is None
    both = ServeConfig(emotion=str(made / "emotion"), strategy=str(made / "next"))
    found = readers.readers(both, profile_of(["us-il"]))
    assert found is not None
    assert found.named == {"strategy"}
    found = readers.readers(both, profile_of(["strict"]))
    assert found is not None
    assert found.named == {"strategy", "emotion"}


class Fixed:
    def propose(self, talk: Any, *, key: str) -> Any:
        from heedful.review.drafting import Proposal

        marks = [{"turn": 1, "values": {"joy": 0.6}, "evidence": "glad"}, {"turn": 2, "values": {"fear": 0.6}}]
        return Proposal(text="x", model="m", reasons={"emotion": marks, "finish": "stop"})


def test_what_the_profile_does_not_allow_is_not_even_stored() -> None:
    def kept(**options: Any) -> Any:
        return Permitted(Fixed(), **options).propose(conversation("a"), key="k").reasons.get("emotion")

    assert kept(withheld=frozenset({"emotion"})) is None
    assert [m["turn"] for m in kept(withheld=frozenset(), evidence="required")] == [1]
    assert [m["turn"] for m in kept(withheld=frozenset(), evidence="optional")] == [1, 2]


def test_counsel_has_to_say_that_a_belief_may_run(made: Path) -> None:
    config, illinois = ServeConfig(belief=str(made / "belief")), profile_of(["us-il"])
    off = readers.second_reader(config, illinois, house.House())
    assert (off.standing, off.believes()) == ("counsel", None)
    confirmed = house.parse({"risk_belief": {"counsel": "A. Example", "confirmed": date(2026, 11, 20)}}, where="f")
    assert readers.second_reader(config, illinois, confirmed).standing == "runs"
    assert readers.second_reader(config, profile_of(["strict"]), house.House()).standing == "runs"
    assert readers.second_reader(ServeConfig(), illinois, confirmed).standing == "none"


@pytest.mark.parametrize(
    "table",
    [{}, {"counsel": "A"}, {"counsel": " ", "confirmed": "2026-11-20"}, {"counsel": "A", "confirmed": 3}, "yes"],
)
def test_counsels_word_has_a_name_and_a_day(table: Any) -> None:
    with pytest.raises(ConfigError, match=r"\[risk_belief\] has counsel"):
        house.parse({"risk_belief": table}, where="clinic.toml")


def test_the_admin_sees_why_a_belief_does_not_run(made: Path, tmp_path: Path) -> None:
    at = make_clinic(tmp_path, belief=str(made / "belief"), profiles=("us-il",))
    assert at.desk.clinic.belief is None
    assert "the profile asks for counsel&#39;s word" in at.client("admin").get("/admin").text


# ---------------------------------------------------------------------- the second reader, and its faults


@pytest.fixture
def second(tmp_path: Path, made: Path) -> Iterator[Callable[..., Clinic]]:
    """A clinic with a belief in a process of its own: that of the folder, or a broken one."""
    opened: list[Clinic] = []

    def make_one(backend: str = "belief", *, limit: float = 30.0) -> Clinic:
        at = make_clinic(tmp_path, belief=str(made / "belief"))
        limits = Limits(time_limit=limit, wait_limit=60, grace=0.5, first_pause=0.05)
        engine = WorkerEngine(backend, {"model": str(made / "belief")}, model="belief", limits=limits)
        point = at.desk.second.point
        at.desk.second = SecondReader(standing="runs", name="b", point=point, engine=engine, limit=limit)
        at.desk.clinic.belief = ReadBelief(engine, point=point, limit=limit)
        engine.start()
        opened.append(at)
        return at

    yield make_one
    for at in opened:
        at.desk.second.engine.stop()


def reader_of(at: Clinic) -> Any:
    return next(worker for worker in at.desk.workers if worker.name == "belief")


def test_a_belief_in_its_own_process_raises_what_no_rule_knows(second: Callable[..., Clinic]) -> None:
    at = second()
    client = at.begun()
    say(client, VEILED, "m-1")
    assert at.thread().state == "ai_assisted"
    assert reader_of(at).work() is True
    assert at.thread().state == "risk_held"
    say(client, "walk dog tea", "m-2")
    reader_of(at).work()
    assert at.thread().state == "risk_held", "harmless words lower nothing"
    admin = at.client("admin").get("/admin").text
    assert "This year it raised 1; 0 messages" in admin


@pytest.mark.parametrize("backend", ["Slow", "Broken", "Talkative"])
def test_a_belief_that_is_slow_or_broken_delays_and_lowers_nothing(second: Callable[..., Clinic], backend: str) -> None:
    at = second(f"faulty_readers:{backend}", limit=0.3)
    client = at.begun()
    begun = time.monotonic()
    assert say(client, "I slept badly.", "m-1").status_code in (200, 303)
    assert time.monotonic() - begun < 5, "a slow belief would have taken minutes"
    say(client, "I am going to kill myself tonight.", "m-2")
    assert at.thread().state == "risk_held", "rules need no model"
    for _ in range(2):
        assert reader_of(at).work() is False
    assert at.thread().state == "risk_held"
    with at.store.read() as unit:
        waiting = [job for job in unit.jobs.of(at.thread().id) if job.kind == "belief"]
        assert len(waiting) == 2, "they are tried again"
        assert {job.error for job in waiting} <= {"EngineError", "ConfigError", None}
        assert "slept" not in str([(e.action, e.facts) for e in unit.audit.all(after=0, limit=500)])


def test_a_belief_that_is_killed_is_started_again_and_reads_on(second: Callable[..., Clinic]) -> None:
    at = second()
    engine = at.desk.second.engine
    until(lambda: engine.state().word == "ready")
    os.kill(engine.pid, signal.SIGKILL)
    client = at.begun()
    say(client, VEILED, "m-1")
    assert at.thread().state == "ai_assisted"
    reader_of(at).work()
    assert at.thread().state == "risk_held"
    assert engine.state().restarts >= 1


def test_a_belief_that_never_starts_leaves_the_rules(second: Callable[..., Clinic]) -> None:
    at = second("heedful.testing.engine:ScriptedBackend", limit=1.0)  # answers, but knows nothing
    say(at.begun(), "I slept badly.", "m-1")
    assert reader_of(at).work() is False
    assert at.thread().state == "ai_assisted"

"""The store on both back ends: what is kept, and what may be seen of it."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("sqlalchemy", reason="run: pip install 'heedful[serve]'")

from sqlalchemy import select

from heedful.errors import (
    ConfigError,
    ConflictError,
    DataError,
    NotFoundError,
    StoreError,
    TamperError,
    TransitionError,
)
from heedful.privacy import Keys
from heedful.store import Store, Unit, records
from heedful.store.columns import Base
from heedful.store.rows import sealed_columns
from heedful.types import Label, Score, Span, Trace
from store_kit import SECRET, Cast, Clock, cast, make_keys, together


@pytest.fixture
def who(store: Store) -> Cast:
    return cast(store)


def draft(store: Store, who: Cast, text: str = "That sounds hard.") -> records.Draft:
    with store.begin() as unit:
        turn = unit.turns.of(who.thread)[0]
        return unit.drafts.add(
            thread=who.thread, turn=turn.id, text=text, model="tiny-1", reasons={"strategy": ["Question", SECRET]}
        )


# ---------------------------------------------------------------------- what is kept


def test_turns_come_back_in_order_and_as_they_were(store: Store, who: Cast) -> None:
    with store.read() as unit:
        turns = unit.turns.of(who.thread)
        assert [(t.sequence, t.role, t.text) for t in turns] == [
            (1, "user", f"I slept badly. {SECRET}"),
            (2, "assistant", "What kept you awake?"),
        ]
        assert unit.turns.of(who.thread, after=1) == turns[1:]
        assert unit.turns.last(who.thread, 1) == turns[1:]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(max_size=400))
def test_any_text_that_has_a_utf8_form_survives(store: Store, text: str) -> None:
    """Emoji, right-to-left marks, zero bytes, private characters: what was written is what is read."""
    who_thread = _thread_of(store)
    with store.begin() as unit:
        kept = unit.turns.add(thread=who_thread, client_id=f"h{unit.turns.count()}", role="user", text=text)
    with store.read() as unit:
        assert unit.turns.get(kept.id).text == text


def _thread_of(store: Store) -> str:
    with store.read() as unit:
        found = unit.threads.in_state("ai_assisted")
    return found[0].id if found else cast(store).thread


def test_a_long_message_is_kept_whole(store: Store, who: Cast) -> None:
    text = "word " * 10_000
    with store.begin() as unit:
        kept = unit.turns.add(thread=who.thread, client_id="long", role="user", text=text)
    with store.read() as unit:
        assert unit.turns.get(kept.id).text == text


def test_half_an_emoji_is_refused_without_being_quoted(store: Store, who: Cast) -> None:
    with pytest.raises(DataError) as caught, store.begin() as unit:
        unit.turns.add(thread=who.thread, client_id="x", role="user", text=f"{SECRET}\ud83d")
    assert SECRET not in str(caught.value)


def test_a_block_that_raises_keeps_nothing(store: Store, who: Cast) -> None:
    def work(unit: Unit) -> None:
        unit.turns.add(thread=who.thread, client_id="gone", role="user", text="words")
        unit.audit.add("program", "test.done", "test:1")
        unit.counters.add("messages")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        store.run(work)
    with store.read() as unit:
        assert len(unit.turns.of(who.thread)) == 2
        assert unit.audit.of("test:1") == ()
        assert unit.counters.all() == {}


def test_a_reader_sees_one_moment_and_cannot_write(store: Store, who: Cast) -> None:
    with store.read() as reader:
        before = reader.turns.of(who.thread)
        with store.begin() as unit:
            unit.turns.add(thread=who.thread, client_id="meanwhile", role="user", text="words")
        assert reader.turns.of(who.thread) == before
        with pytest.raises(StoreError):
            reader.notes.add(thread=who.thread, kind="x", text="words", by=who.clara)


def test_what_is_not_there_is_said(store: Store, who: Cast) -> None:
    with store.read() as unit:
        assert unit.users.find("nobody") is None
        with pytest.raises(NotFoundError, match="There is no user with this id"):
            unit.users.get("nobody")
    with pytest.raises(NotFoundError, match="no conversation"), store.begin() as unit:
        unit.turns.add(thread="nowhere", client_id="x", role="user", text="words")
    with pytest.raises(NotFoundError, match="refers to something"), store.begin() as unit:
        unit.checkins.add(help_seeker="nobody", instrument="phq9", answers={"1": 0})


def test_every_kind_of_record_comes_back_equal(store: Store, who: Cast, clock: Clock) -> None:
    trace = Trace(
        id="t/1", conversation_id=who.thread, turn=1, reply="Hello.", system="tiny", plan={"strategy": "Question"}
    )
    label = Label(set="mesc_emotion", value="sadness", source="human:7", span=Span(start=0, end=3), evidence="I s")
    call = {"kind": "follow_up", "due_at": clock(), "by": who.clara, "thread": who.thread, "text": "call"}
    line = {"country": "US", "language": "en", "entry": {"phone": "988"}, "by": who.admin}
    notice = {"moment": "start", "wording": "This is a program.", "version": "1", "language": "en", "user": who.anna}
    with store.begin() as unit:
        turn = unit.turns.of(who.thread)[0]
        made = [
            (unit.traces, unit.traces.add(thread=who.thread, trace=trace, turn=turn.id)),
            (unit.labels, unit.labels.add(thread=who.thread, label=label, turn=turn.id, by=who.clara)),
            (unit.scores, unit.scores.add(thread=who.thread, score=Score(name="warmth", value=0.5, source="human"))),
            (unit.notes, unit.notes.add(thread=who.thread, kind="seen", text="She sounds tired.", by=who.clara)),
            (unit.checkins, unit.checkins.add(help_seeker=who.anna, instrument="phq9", answers={"1": 2}, total=2)),
            (unit.exercises, unit.exercises.add(help_seeker=who.anna, kind="values", answers={"a": ["b", 1, None]})),
            (unit.memory, unit.memory.add(help_seeker=who.anna, text="has a dog", turn=turn.id)),
            (unit.resources, unit.resources.put(id="us-988", **line)),
            (unit.notices, unit.notices.add(**notice)),
            (unit.tasks, unit.tasks.add(**call)),
            (
                unit.risk_events,
                unit.risk_events.add(thread=who.thread, level=3, source="rules", action="x", rules=["a@2"]),
            ),
            (unit.jobs, unit.jobs.add(kind="reply", key="reply:1", thread=who.thread, payload={"turn": turn.id})),
        ]
    with store.read() as unit:
        for repository, record in made:
            same = next(r for name in vars(Unit) if type(r := getattr(unit, name)) is type(repository))
            assert same.get(record.id) == record


# ---------------------------------------------------------------------- what may be seen


def test_no_word_of_a_person_lies_open_in_the_database(store: Store, who: Cast, tmp_path: Path) -> None:
    """Every value of every row of every table, and on SQLite the bytes of the file and its journal."""
    draft(store, who, text=f"Draft with {SECRET}")
    with store.begin() as unit:
        unit.threads.move(who.thread, "human_owned", by=who.clara, reason=f"Because {SECRET}")
        unit.threads.raise_risk(who.thread, 2, by="rules:en", state={"asked": SECRET})
        unit.checkins.add(help_seeker=who.anna, instrument="phq9", answers={"note": SECRET}, total=21)
        unit.jobs.add(kind="reply", key="reply:9", thread=who.thread, payload={"text": SECRET})
        unit.tasks.add(kind="follow_up", due_at=unit.now(), by=who.clara, text=SECRET, help_seeker=who.anna)
    with store.read() as unit:
        seen = [value for table in Base.metadata.sorted_tables for row in unit.execute(select(table)) for value in row]
    assert len(seen) > 100
    assert not [v for v in seen if SECRET in (v.decode("latin-1") if isinstance(v, bytes) else str(v))]
    for file in tmp_path.glob("store.db*"):
        data = file.read_bytes()
        assert SECRET.encode() not in data
        assert b"CREATE TABLE" not in data  # the whole file is encrypted, not only the fields


def test_a_sealed_field_does_not_open_in_another_row(store: Store, who: Cast) -> None:
    from heedful.store.models import Turn
    from heedful.store.rows import table_of

    turns = table_of(Turn)
    with store.begin() as unit:
        first, second = unit.turns.of(who.thread)
        other = unit.execute(select(turns.c.text).where(turns.c.id == second.id)).scalar_one()
        unit.execute(turns.update().where(turns.c.id == first.id).values(text=other))
    with pytest.raises(TamperError, match="moved from another place"), store.read() as unit:
        unit.turns.get(first.id)


def test_sealed_fields_never_show(store: Store, who: Cast) -> None:
    kinds = {codec.table.name: codec.record for codec in _codecs(store)}
    for table in Base.metadata.sorted_tables:
        hidden = set(sealed_columns(table)) - {"trace"}
        if hidden:
            shown = {f.name for f in dataclasses.fields(kinds[table.name]) if f.repr}
            assert not hidden & shown, table.name


def _codecs(store: Store) -> list:  # type: ignore[type-arg]
    with store.read() as unit:
        found = (getattr(unit, name) for name in vars(Unit))
        return [repository.codec for repository in found if hasattr(repository, "codec")]


# ---------------------------------------------------------------------- people


def test_names_are_found_however_they_are_typed(store: Store, who: Cast) -> None:
    with store.read() as unit:
        assert unit.users.by_name(" CLARA ").id == who.clara  # type: ignore[union-attr]
        assert unit.users.by_name("Clare") is None


def test_a_name_is_given_once(store: Store, who: Cast) -> None:
    with pytest.raises(ConflictError, match="name is taken"), store.begin() as unit:
        unit.users.add(role="annotator", name="clara", by=who.admin)
    with pytest.raises(ConflictError, match="name is taken"), store.begin() as unit:
        unit.users.change(who.carl, by=who.admin, name="Clara")
    with pytest.raises(DataError, match=r"A role must be one of .* Did you mean 'clinician'"), store.begin() as unit:
        unit.users.add(role="clinican", name="Max", by=who.admin)  # type: ignore[arg-type]


def test_users_change_and_the_audit_says_which_field_not_what(store: Store, who: Cast) -> None:
    with store.begin() as unit:
        unit.users.change(who.carl, by=who.admin, name=f"Carl {SECRET}", totp_secret=SECRET, disabled=True)
    with store.read() as unit:
        assert unit.users.get(who.carl).totp_secret == SECRET
        entry = unit.audit.of(f"user:{who.carl}")[-1]
        assert entry.facts == {"fields": ["disabled", "name", "totp_secret"]}
    with pytest.raises(ConfigError, match="can be changed"), store.begin() as unit:
        unit.users.change(who.carl, by=who.admin, erased_at=None)


def test_a_session_lasts_until_it_expires_or_is_revoked(store: Store, who: Cast, clock: Clock) -> None:
    with store.begin() as unit:
        session = unit.sessions.add(user=who.clara, token_hash="h1", expires_at=clock() + timedelta(hours=1))
        unit.sessions.second_factor(session.id)
        unit.sessions.add(user=who.clara, token_hash="h2", expires_at=clock() + timedelta(days=1))
    with store.read() as unit:
        found = unit.sessions.by_token("h1")
        assert found is not None
        assert found.second_factor_at == clock()
        assert found.valid(clock())
        assert not found.valid(clock() + timedelta(hours=1))
    clock.forward(hours=2)
    with store.begin() as unit:
        assert unit.sessions.purge() == 1
        assert unit.sessions.revoke_all(who.clara, by=who.admin) == 1
        assert not unit.sessions.by_token("h2").valid(clock())  # type: ignore[union-attr]


# ---------------------------------------------------------------------- tasks, consents, counters


def test_a_task_is_taken_once_and_closed_by_a_person(store: Store, who: Cast, clock: Clock) -> None:
    with store.begin() as unit:
        task = unit.tasks.add(kind="takeover", due_at=clock() + timedelta(minutes=15), by="rules:en", thread=who.thread)
        unit.tasks.take(task.id, by=who.clara, version=task.version)
    with pytest.raises(ConflictError) as caught, store.begin() as unit:
        unit.tasks.take(task.id, by=who.carl, version=task.version)
    assert caught.value.winner == who.clara
    with pytest.raises(TransitionError, match="close a task"), store.begin() as unit:
        unit.tasks.done(task.id, by="program", version=2)
    clock.forward(minutes=20)
    with store.begin() as unit:
        unit.tasks.done(task.id, by=who.clara, version=2, outcome="called her")
        assert unit.tasks.open() == ()
        assert unit.audit is not None
    with store.read() as unit:
        assert unit.audit.of(f"task:{task.id}")[-1].facts["seconds_late"] == 300
    with pytest.raises(ConflictError, match="done already"), store.begin() as unit:
        unit.tasks.move(task.id, clock(), by=who.clara, version=3)


def test_consent_is_no_until_it_is_given_and_no_again_when_withdrawn(store: Store, who: Cast) -> None:
    def say(action: str) -> None:
        with store.begin() as unit:
            unit.consents.add(
                user=who.anna, purpose="training", action=action, wording="May we train on this?",  # type: ignore[arg-type]
                version="2", language="en", by=who.anna,
            )  # fmt: skip

    with store.read() as unit:
        assert set(unit.consents.current(who.anna).values()) == {False}
    say("given")
    with store.read() as unit:
        assert [p for p, yes in unit.consents.current(who.anna).items() if yes] == ["training"]
    say("withdrawn")
    with store.read() as unit:
        assert not unit.consents.current(who.anna)["training"]
        assert [(c.position, c.action) for c in unit.consents.of(who.anna)] == [(1, "given"), (2, "withdrawn")]
    with pytest.raises(DataError, match="A purpose must be one of"), store.begin() as unit:
        unit.consents.add(
            user=who.anna, purpose="marketing", action="given", wording="", version="1", language="en", by="x"  # type: ignore[arg-type]
        )  # fmt: skip


def test_counters_add_up_from_all_sides(store: Store, who: Cast) -> None:
    def count() -> None:
        for _ in range(5):
            with store.begin() as unit:
                unit.counters.add("referrals")
                unit.counters.add("disclosures", 2)

    assert together(*[count] * 4) == [None] * 4
    with store.read() as unit:
        assert unit.counters.all(period="2026") == {("referrals", "2026"): 20, ("disclosures", "2026"): 40}


def test_the_last_notice_of_a_moment_tells_when_it_is_due_again(store: Store, who: Cast, clock: Clock) -> None:
    for version in ("1", "2"):
        with store.begin() as unit:
            unit.notices.add(moment="start", wording="x", version=version, language="en", user=who.anna)
        clock.forward(hours=3)
    with store.read() as unit:
        last = unit.notices.last(who.anna, "start")
        assert last is not None
        assert last.version == "2"
        assert unit.notices.last(who.anna, "timer") is None


def test_a_store_opens_again_with_everything_in_it(store: Store, who: Cast, keys: Keys, tmp_path: Path) -> None:
    url = str(store.backend.engine.url)
    if url == "sqlite://":
        url = f"sqlite:///{tmp_path}/store.db"
    again = Store.open(url, keys)
    with again.read() as unit:
        assert len(unit.turns.of(who.thread)) == 2
    assert again.id == store.id
    again.close()


def test_a_store_belongs_to_its_keys(store: Store, who: Cast, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make_keys(tmp_path / "other")
    url = str(store.backend.engine.url)
    if url == "sqlite://":
        url = f"sqlite:///{tmp_path}/store.db"
    with pytest.raises((ConfigError, TamperError), match="belongs to other keys"):
        Store.open(url, other)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://x/y", "Unknown database 'mysql'"),
        ("nonsense", "no address of a database"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
    ],
)
def test_an_address_that_cannot_be_used_is_said(keys: Keys, url: str, message: str) -> None:
    with pytest.raises((ConfigError, NotFoundError), match=message):
        Store.open(url, keys)


def test_a_server_that_is_not_there_is_one_sentence_without_its_password(keys: Keys) -> None:
    with pytest.raises(StoreError) as caught:
        Store.open(f"postgresql://u:{SECRET}@127.0.0.1:1/x", keys)
    assert SECRET not in str(caught.value)
    assert "connection to the database was lost" in str(caught.value)

"""The worker: a slow or dead model holds up nobody. Crashes here are real ones: kill -9 on a real process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.errors import ConfigError, DataError, EngineError
from heedful.server.engine.base import Completion, Message, Options, Piece, Request, Ticket
from heedful.server.engine.frames import LARGEST, Channel, Unpacker, pack
from heedful.server.engine.host import HOPELESS, Limits, WorkerEngine
from heedful.server.engine.queue import FairQueue, Work
from heedful.server.engine.worker import GATHERED, Gathered
from heedful.testing.engine import ScriptedEngine

BACKEND = "heedful.testing.engine:ScriptedBackend"


def ask(text: str = "I slept badly.", **more: Any) -> Request:
    return Request(messages=(Message(role="user", content=text),), **more)


def limits(**more: Any) -> Limits:
    return Limits(**{"first_pause": 0.01, "longest_pause": 0.05, "grace": 3.0, **more})


@contextmanager
def worker(options: dict[str, Any] | None = None, *, ready: bool = True, **more: Any) -> Iterator[WorkerEngine]:
    engine = WorkerEngine(BACKEND, options or {}, model="scripted", limits=limits(**more))
    engine.start()
    try:
        if ready:
            until(lambda: engine.state().word == "ready")
        yield engine
    finally:
        engine.stop()


def until(true: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def error_of(ticket: Ticket) -> EngineError:
    with pytest.raises(EngineError) as caught:
        ticket.result(timeout=20)
    return caught.value


# ---------------------------------------------------------------------- three ways to ask


def test_a_reply_comes_in_pieces_and_whole_from_threads_and_event_loops() -> None:
    with worker() as engine:
        assert engine.run(ask("a b c"), timeout=10).text == "a b c"
        pieces = list(engine.submit(ask("a b c")).pieces(timeout=10))
        assert pieces[0].text == "a"
        assert "".join(p.text for p in pieces) == "a b c"
        done = pieces[-1].completion
        assert done is not None
        assert (done.text, done.finish, done.completion_tokens, done.model) == ("a b c", "stop", 3, "scripted")
        assert done.seconds["total"] >= done.seconds["first"] >= 0

        async def both() -> tuple[str, str]:
            heard = [p.text async for p in engine.generate(ask("d e"))]
            return "".join(heard), (await engine.complete(ask("f g"))).text

        assert asyncio.run(both()) == ("d e", "f g")
        state = engine.state()
        assert (state.waiting, state.running, state.restarts) == (0, 0, 0)


def test_words_are_in_no_repr() -> None:
    request = ask("ZZsecret", options=Options(stop=("ZZsecret",)))
    for thing in (request, Piece(text="ZZsecret"), Completion(text="ZZsecret"), request.messages[0]):
        assert "ZZ" not in repr(thing)


@pytest.mark.parametrize(
    "bad", [{"max_tokens": 0}, {"temperature": 3.0}, {"top_p": 0.0}, {"stop": ("",)}, {"stop": ("x",) * 17}]
)
def test_options_are_checked(bad: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        Options(**bad)


def test_a_request_has_messages_or_a_conversation() -> None:
    with pytest.raises(DataError, match="one of the two"):
        Request()


def test_slow_words_come_one_by_one_and_fast_ones_together() -> None:
    with worker({"pace": 2 * GATHERED}) as engine:
        assert [p.text for p in engine.submit(ask("a b c")).pieces(timeout=10)] == ["a", " b", " c", ""]
    sent: list[str] = []
    now = [0.0]
    pieces = Gathered(sent.append, seconds=0.05, clock=lambda: now[0])
    for at, word in ((0.0, "one"), (0.01, " two"), (0.02, ""), (0.03, " three"), (0.06, " four"), (0.07, " five")):
        now[0] = at
        pieces.add(word)
    assert sent == ["one", " two three four"]
    pieces.flush()
    pieces.flush()
    assert sent == ["one", " two three four", " five"]


# ---------------------------------------------------------------------- read while nobody waits


def test_an_idle_engine_reads_ahead() -> None:
    with worker() as engine:
        engine.run(ask(aim="ahead", key="talk"), timeout=10)
        assert engine.state().running == 0


def test_reading_ahead_gives_way_to_a_reply_elsewhere() -> None:
    with worker({"pace": 0.05}) as engine:
        ahead = engine.submit(ask("word " * 400, aim="ahead", key="one"))
        until(lambda: engine.state().running == 1)
        begun = time.monotonic()
        assert engine.run(ask("quick", key="two"), timeout=10).text == "quick"
        assert time.monotonic() - begun < 3  # the long one would have taken 20 seconds
        assert error_of(ahead).code == "cancelled"


def test_a_prompt_that_is_read_slowly_is_given_up_without_losing_the_process() -> None:
    with worker({"pace": 0.01, "streams": 2}, grace=0.2) as engine:
        ahead = engine.submit(ask("HANG " * 3, aim="ahead", key="one", time_limit=600))
        until(lambda: engine.state().running == 1)
        pid = engine.pid
        assert engine.run(ask("quick", key="two"), timeout=10).text == "quick"
        assert error_of(ahead).code == "cancelled"
        time.sleep(0.6)  # three times the grace that a reply gets
        assert engine.run(ask("again", key="two"), timeout=10).text == "again"
        assert (engine.pid, engine.state().restarts) == (pid, 0)


def test_a_prompt_that_is_read_for_longer_than_its_limit_ends_the_process() -> None:
    with worker({"pace": 0.01}, grace=0.2) as engine:
        ahead = engine.submit(ask("HANG " * 3, aim="ahead", key="one", time_limit=0.5))
        until(lambda: engine.state().running == 1)
        assert engine.run(ask("quick", key="two"), timeout=10).text == "quick"
        assert error_of(ahead).code == "cancelled"
        assert engine.state().restarts == 1


def test_a_reply_waits_for_what_is_read_for_itself() -> None:
    with worker({"pace": 0.02, "streams": 2}) as engine:
        ahead = engine.submit(ask("word " * 20, aim="ahead", key="one"))
        until(lambda: engine.state().running == 1)
        reply = engine.submit(ask("quick", key="one"))
        assert ahead.result(timeout=10).completion_tokens
        assert reply.result(timeout=10).text == "quick"
        # Without a key nobody knows that it is the same conversation: the second stream is free for it.
        slow = engine.submit(ask("word " * 400, aim="ahead"))
        until(lambda: engine.state().running == 1)
        assert engine.run(ask("quick"), timeout=10).text == "quick"
        assert error_of(slow).code == "cancelled"


def test_a_reply_that_waits_for_its_own_reading_holds_up_nobody() -> None:
    ask_of = {
        1: ("A", "ahead", "drafts"),
        2: ("A", "reply", "drafts"),
        3: ("B", "reply", "drafts"),
        4: ("", "reply", "x"),
    }
    works = {
        n: Work(id=n, ticket=Ticket(ask(key=k, aim=a, caller=c), cancel=lambda _: None), submitted=0, wait_until=9e9)
        for n, (k, a, c) in ask_of.items()
    }
    sent: list[int] = []
    engine: Any = WorkerEngine("echo", {}, model="test")
    engine._left_queue = lambda: None
    process: Any = SimpleNamespace(
        running={1: works[1]}, streams=3, channel=SimpleNamespace(send=lambda frame: sent.append(frame["id"]))
    )
    for n in (2, 3, 4):
        engine._queue.put(works[n])
    engine._hand_out(process, 0.0)
    assert (sent, [work.id for work in engine._queue]) == ([3, 4], [2])
    process.running.pop(1)
    engine._hand_out(process, 0.0)
    assert sent == [3, 4, 2]


def test_nothing_is_read_ahead_beside_a_reply() -> None:
    with worker({"pace": 0.05, "words": 10, "streams": 2}) as engine:
        reply = engine.submit(ask(key="one"))
        until(lambda: engine.state().running == 1)
        assert error_of(engine.submit(ask(aim="ahead", key="two"))).code == "cancelled"
        assert reply.result(timeout=10).completion_tokens == 10


# ---------------------------------------------------------------------- slow models


def test_a_slow_model_never_blocks_the_event_loop() -> None:
    with worker({"pace": 0.05, "words": 20}) as engine:

        async def beats() -> float:
            longest, last = 0.0, time.monotonic()
            reply = asyncio.create_task(engine.complete(ask()))
            while not reply.done():
                await asyncio.sleep(0.002)
                now = time.monotonic()
                longest, last = max(longest, now - last), now
            return longest

        assert asyncio.run(beats()) < 0.5  # the reply takes a second


def test_the_queue_is_bounded_and_says_when_to_come_back() -> None:
    with worker({"pace": 0.2, "words": 5}, queue_length=2) as engine:
        tickets = [engine.submit(ask())]
        until(lambda: engine.state().running == 1)
        tickets += [engine.submit(ask()) for _ in range(2)]
        with pytest.raises(EngineError) as caught:
            engine.submit(ask())
        assert caught.value.code == "full"
        assert caught.value.retry_after >= 1
        for ticket in tickets:
            assert ticket.result(timeout=20).completion_tokens == 5
        assert engine.run(ask(), timeout=10).text  # and then there is room again


def test_callers_take_turns() -> None:
    with worker({"pace": 0.01}) as engine:
        order: list[str] = []
        first = engine.submit(ask("x " * 30))
        tickets = [engine.submit(ask(f"busy{n}", caller="busy")) for n in range(4)]
        tickets.append(engine.submit(ask("other", caller="other")))

        def note(ticket: Ticket) -> None:
            order.append(ticket.result(timeout=20).text)

        threads = [threading.Thread(target=note, args=(t,)) for t in tickets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert first.done
        assert order.index("other") <= 1


def test_writing_has_a_time_limit_and_the_worker_lives_on() -> None:
    with worker({"pace": 0.05}, time_limit=0.3) as engine:
        pid = engine.pid
        assert error_of(engine.submit(ask("word " * 100))).code == "late"
        assert engine.run(ask("quick"), timeout=10).text == "quick"
        assert engine.pid == pid
        assert error_of(engine.submit(ask("word " * 100, time_limit=0.1))).code == "late"


def test_waiting_has_a_limit_too() -> None:
    with worker({"pace": 0.05, "words": 20}) as engine:
        engine.submit(ask())
        until(lambda: engine.state().running == 1)
        late = engine.submit(ask(wait_limit=0.1))
        assert error_of(late).code == "late"
        assert engine.state().waiting == 0


# ---------------------------------------------------------------------- nobody wants it any more


def test_a_reply_that_nobody_wants_is_stopped() -> None:
    with worker({"pace": 0.05}) as engine:
        ticket = engine.submit(ask("word " * 400))
        until(lambda: engine.state().running == 1)
        ticket.cancel()
        assert error_of(ticket).code == "cancelled"
        begun = time.monotonic()
        assert engine.run(ask("next"), timeout=10).text == "next"
        assert time.monotonic() - begun < 3  # the long one would have taken 20 seconds


def test_a_waiting_request_that_nobody_wants_leaves_the_queue() -> None:
    with worker({"pace": 0.05, "words": 30}) as engine:
        engine.submit(ask())
        until(lambda: engine.state().running == 1)
        ticket = engine.submit(ask())
        ticket.cancel()
        until(lambda: engine.state().waiting == 0)
        assert engine.state().running == 1


def test_a_client_that_goes_away_stops_its_reply() -> None:
    with worker({"pace": 0.02}) as engine:

        async def two_words() -> None:
            count = 0
            async with aclosing(engine.generate(ask("word " * 500))) as pieces:
                async for _ in pieces:
                    count += 1
                    if count == 2:
                        return

        asyncio.run(two_words())
        until(lambda: engine.state().running == 0)


def test_a_task_that_is_cancelled_stops_its_reply() -> None:
    with worker({"pace": 0.02}) as engine:

        async def give_up() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(engine.complete(ask("word " * 500)), timeout=0.2)

        asyncio.run(give_up())
        until(lambda: engine.state().running == 0)


def test_a_worker_that_does_not_stop_is_killed_and_started_again() -> None:
    with worker({"pace": 0.01}, grace=0.3, time_limit=0.3) as engine:
        pid = engine.pid
        assert error_of(engine.submit(ask("HANG"))).code == "late"
        assert engine.run(ask("fine"), timeout=20).text == "fine"
        assert engine.pid != pid
        assert engine.state().restarts == 1


# ---------------------------------------------------------------------- dead models


def test_killed_in_mid_generation_a_reply_that_nobody_read_is_written_again() -> None:
    with worker({"pace": 0.02, "words": 30}) as engine:
        ticket = engine.submit(ask())
        until(lambda: engine.state().running == 1)
        time.sleep(0.1)
        os.kill(engine.pid, signal.SIGKILL)
        done = ticket.result(timeout=20)
        assert done.text == " ".join(["word"] * 30)  # whole, and nothing twice
        assert engine.state().restarts == 1


def test_killed_in_mid_generation_a_reply_that_was_read_ends_in_a_clear_error() -> None:
    with worker({"pace": 0.02, "words": 30}) as engine:
        pieces = engine.submit(ask()).pieces(timeout=20)
        next(pieces)
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="send it again") as caught:
            list(pieces)
        assert caught.value.code == "lost"
        assert engine.run(ask("next"), timeout=20).completion_tokens == 30


def test_a_request_that_kills_the_worker_is_not_tried_for_ever() -> None:
    with worker({"pace": 0.01}, longest_pause=0.02) as engine:
        poison, others = engine.submit(ask("a b c d KILL e")), [engine.submit(ask(f"n{n}")) for n in range(3)]
        assert error_of(poison).code == "lost"
        assert [ticket.result(timeout=20).text for ticket in others] == ["n0", "n1", "n2"]
        assert engine.state().restarts == 2


def test_an_error_of_the_library_names_its_class_and_not_what_it_said() -> None:
    with worker() as engine:
        err = error_of(engine.submit(ask("RAISE ZZsecret")))
        assert err.code == "failed"
        assert str(err) == "The model's library failed (RuntimeError)."
        assert engine.state().restarts == 0


def test_requests_wait_while_the_model_loads_and_are_refused_when_it_cannot() -> None:
    with worker({"fail": "load"}, ready=False) as engine:
        ticket = engine.submit(ask())
        assert error_of(ticket).code == "down"
        until(lambda: engine.state().word == "down")
        assert engine.state().why == "The model's library failed (OSError)."
        assert engine.state().restarts >= HOPELESS
        with pytest.raises(EngineError, match="cannot be used now"):
            engine.submit(ask())


def test_what_no_second_try_can_mend_is_not_tried_again() -> None:
    engine = WorkerEngine("xllamaccp", {}, model="x", limits=limits())
    engine.start()
    until(lambda: engine.state().word == "down")
    assert "Did you mean 'xllamacpp'" in engine.state().why
    assert engine.state().restarts == 0
    engine.stop()


def test_loading_has_a_limit() -> None:
    with worker({"fail": "hang"}, ready=False, load_limit=0.3) as engine:
        until(lambda: engine.state().word == "down")
        assert engine.state().why == "Loading the model took too long."


def test_stopping_lets_replies_finish_and_refuses_new_ones() -> None:
    engine = WorkerEngine(BACKEND, {"pace": 0.05, "words": 8}, model="scripted", limits=limits())
    engine.start()
    running = engine.submit(ask())
    until(lambda: engine.state().running == 1)
    waiting = engine.submit(ask())
    stopper = threading.Thread(target=engine.stop, kwargs={"drain": 10})
    stopper.start()
    assert running.result(timeout=10).completion_tokens == 8
    assert error_of(waiting).code == "down"
    stopper.join(10)
    assert engine.pid is None
    with pytest.raises(EngineError, match="not running"):
        engine.submit(ask())


def test_stopping_without_patience_ends_the_process() -> None:
    engine = WorkerEngine(BACKEND, {"pace": 1.0, "words": 100}, model="scripted", limits=limits())
    engine.start()
    ticket = engine.submit(ask())
    until(lambda: engine.state().running == 1)
    pid = engine.pid
    engine.stop(drain=0.1)
    assert error_of(ticket).code == "down"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_worker_ends_when_the_server_is_gone() -> None:
    engine = WorkerEngine(BACKEND, {"pace": 0.5, "words": 100}, model="scripted", limits=limits())
    process = engine._spawn()
    process.channel.send({"op": "load", "backend": BACKEND, "options": {"pace": 0.5, "words": 100}})
    assert process.channel.received()[0]["op"] == "ready"
    process.channel.send({"op": "generate", "id": 1, **ask().record()})
    process.channel.close()
    assert process.child.wait(timeout=10) == 0
    engine.stop()


# ---------------------------------------------------------------------- parts


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(), json_values, max_size=3), max_size=5), st.integers(1, 40))
def test_frames_come_out_as_they_went_in_however_they_are_cut(records: list[dict[str, Any]], size: int) -> None:
    data = b"".join(pack(record) for record in records)
    reader, found = Unpacker(), []
    for at in range(0, len(data), size):
        found += reader.feed(data[at : at + size])
    assert found == records


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x02[]", b"\x00\x00\x00\x01{"])
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        list(Unpacker().feed(data))


def test_frames_have_a_largest_size() -> None:
    with pytest.raises(DataError, match="at most"):
        pack({"text": "x" * LARGEST})


def test_a_channel_says_when_the_other_side_is_gone() -> None:
    one, two = socket.socketpair()
    Channel(one).send({"a": "\ud800"})  # a lone surrogate
    other = Channel(two)
    assert other.received() == [{"a": "\ud800"}]
    one.close()
    assert other.received() is None
    other.close()


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_the_queue_is_fair_and_loses_nothing(callers: list[str]) -> None:
    queue = FairQueue()
    for n, caller in enumerate(callers):
        ticket = Ticket(ask(caller=caller), cancel=lambda _: None)
        queue.put(Work(id=n, ticket=ticket, submitted=0, wait_until=1))
    taken = []
    while (work := queue.take()) is not None:
        taken.append(work)
    assert sorted(w.id for w in taken) == list(range(len(callers)))
    for caller in "abc":
        mine = [w.id for w in taken if w.ticket.request.caller == caller]
        assert mine == sorted(mine)
        # The k-th of one caller is served before the k-th plus one of any other.
        for k, id in enumerate(mine):
            at = next(i for i, w in enumerate(taken) if w.id == id)
            for other in set(callers) - {caller}:
                before = sum(1 for w in taken[:at] if w.ticket.request.caller == other)
                assert before <= k + 1


def test_limits_are_checked() -> None:
    with pytest.raises(ConfigError):
        Limits(time_limit=0)


def test_the_scripted_engine_fails_waits_and_refuses_as_told() -> None:
    broken = EngineError("no", code="lost")
    engine = ScriptedEngine(["one", "two"], delay=0.05, failures={1: broken}, queue_length=1, streams=1)
    engine.start()
    assert engine.run(ask()).text == "one"
    assert error_of(engine.submit(ask())) is broken
    assert engine.run(ask()).text == "one"
    first = engine.submit(ask())
    until(lambda: engine.state().running == 1)
    second = engine.submit(ask())
    with pytest.raises(EngineError):
        engine.submit(ask())
    assert (first.result().text, second.result().text) == ("two", "one")
    engine.stop()
    with pytest.raises(EngineError):
        engine.submit(ask())

"""Options of formats: what is refused, what a fingerprint covers, which labels a split must carry; and windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
from format_specs import SPECS

from heedful import taxonomy
from heedful.errors import ConfigError, DataError, NotFoundError
from heedful.formats import FORMATS, Window, make
from heedful.formats.chat import shipped_prompt
from heedful.testing import EMOTION_SET, STRATEGY_SET, conversation, tiny_tokenizer
from heedful.training.data import prepare


def test_fingerprints_tell_all_options_apart() -> None:
    prints = {make(spec).fingerprint for spec in SPECS}
    assert len(prints) == len(SPECS)
    assert make("chat").fingerprint == make({"name": "chat"}).fingerprint
    assert make("chat").fingerprint.startswith("chat/v1#")


def test_fingerprints_hold_shipped_texts_and_label_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"chat", "structured", "strategy", "joined", "kemi"}
    before = {name: make(name).fingerprint for name in FORMATS.names()}
    own = make({"name": "chat", "system": "Be brief."}).fingerprint
    assert make({"name": "chat", "system": shipped_prompt("supporter")}).fingerprint == before["chat"]
    real = taxonomy.get
    monkeypatch.setattr("heedful.formats.chat.shipped_prompt", lambda name: "Be another.")
    monkeypatch.setattr(taxonomy, "get", lambda name: replace(real(name), hash="another"))
    after = {name: make(name).fingerprint for name in FORMATS.names()}
    assert {name for name in before if before[name] != after[name]} == names
    assert make({"name": "chat", "system": "Be brief."}).fingerprint == own


@pytest.mark.parametrize("name", FORMATS.names())
def test_make_refuses_what_a_format_does_not_have(name: str) -> None:
    assert make(name).name == name
    with pytest.raises(ConfigError, match=f"'{name}' has no option 'colour'"):
        make({"name": name, "colour": "red"})
    for option in fields(make(name)):
        wrong = f"{option.name}x"
        with pytest.raises(ConfigError, match=f"Did you mean '{option.name}'"):
            make({"name": name, wrong: 1})


def test_make_names_its_mistakes() -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'chat'"):
        make("chats")
    with pytest.raises(ConfigError, match="'name'"):
        make({"merge_turns": True})
    with pytest.raises(ConfigError, match=r"format\.loader.*'v1', 'v2' or 'shift', but got 'v3'"):
        make({"name": "qa", "loader": "v3"})
    with pytest.raises(NotFoundError, match="Did you mean 'mesc_emotion'"):
        make({"name": "structured", "emotion_set": "mesc_emotions"})


@pytest.mark.parametrize("name", FORMATS.names())
def test_make_refuses_values_of_another_kind(name: str) -> None:
    for option in fields(make(name)):
        number = () if isinstance(option.default, int) and not isinstance(option.default, bool) else (5,)
        for value in (["no"], *number, *(("no", 1) if isinstance(option.default, bool) else ())):
            with pytest.raises(ConfigError, match=rf"format\.{option.name} of '{name}': Input should be .*, but got"):
                make({"name": name, option.name: value})
    with pytest.raises(ConfigError, match="but got a str") as caught:
        make({"name": "qa", "loader": "words of a person " * 9})
    assert "person" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "label", "option"),
    [
        ({"name": "structured"}, None, "use_emotion"),
        ({"name": "structured"}, (2, EMOTION_SET, "fear"), "emit_emotion"),
        ({"name": "structured"}, (3, EMOTION_SET, "fear"), "use_emotion"),
        ({"name": "structured", "use_emotion": False}, (2, EMOTION_SET, "fear"), "emit_emotion"),
        ({"name": "structured", "use_emotion": False, "emit_emotion": False}, None, None),
        ({"name": "strategy"}, None, "predict"),
        ({"name": "strategy", "predict": False}, None, "context_strategies"),
        ({"name": "strategy", "predict": False, "context_strategies": False}, None, None),
        ({"name": "strategy"}, (3, STRATEGY_SET, "Question"), None),
        ({"name": "chat"}, None, None),
    ],
)
def test_a_split_without_the_labels_is_refused(
    spec: dict[str, Any], label: tuple[int, str, str] | None, option: str | None
) -> None:
    marked = {label[0]: {label[1]: label[2]}} if label else {}
    talks = [conversation("a", "b", "c", "d", id="x"), conversation("a", "b", "c", "d", id="y", labels=marked)]
    fmt = make(spec)
    fmt.check([])
    if option is None:
        fmt.check(talks)
        return
    with pytest.raises(DataError, match=rf"with {option} needs labels of .*format\.{option}: false"):
        fmt.check(talks)
    with pytest.raises(DataError, match=f"with {option} needs labels"):
        prepare(talks, fmt, tiny_tokenizer(), max_length=1000)


@pytest.mark.parametrize(
    ("lengths", "start", "limit", "keep", "found"),
    [
        ([9, 8, 7], 0, 9, 0.5, 0),  # fits
        ([9, 8, 3], 0, 8, 0.5, 2),  # cut to half
        ([9, 8, 3], 0, 8, 1.0, 1),  # cut as little as possible
        ([9, 8, 7], 0, 8, 0.5, 1),  # not even the last fits half: cut as little as possible
        ([110, 90, 80, 60], 0, 100, 0.5, 1),
        ([110, 90, 80, 60], 0, 85, 0.5, 2),
        ([9, 8, 7], 1, 8, 0.5, 1),  # stays where it was
        ([9, 8, 7], 0, 6, 0.5, None),
        ([9], 0, 6, 0.5, None),
    ],
)
def test_window(lengths: Sequence[int], start: int, limit: int, keep: float, found: int | None) -> None:
    window = Window(max_length=limit, keep=keep)
    assert window.fit(lambda k: lengths[k], start=start, last=len(lengths) - 1) == found


@pytest.mark.parametrize(("limit", "keep"), [(0, 0.5), (5, 0.0), (5, 1.5)])
def test_a_window_needs_room(limit: int, keep: float) -> None:
    with pytest.raises(DataError, match="max_length >= 1"):
        Window(max_length=limit, keep=keep)

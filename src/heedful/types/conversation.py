"""Conversation and Turn: what was said, by whom, and what is known about it.

Labels are layers. A layer is one label set (`esconv_strategy`, `mesc_emotion`, ...) from one source (`gold`, `rule`,
`model`, `human:<id>`); a turn may carry any number of them, and a turn without an entry is unlabelled, which is not
the same as labelled `none` or `other`.

>>> turn = Turn(role="user", text="I slept badly.", labels=(Label(set="mesc_emotion", value="depression"),))
>>> turn.label("mesc_emotion")
'depression'
>>> turn
Turn(role='user', 3 words, labels=['mesc_emotion'])
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from heedful.errors import DataError, shown
from heedful.types._frozen import freeze, thaw
from heedful.types._read import Fields, check_text
from heedful.types.label import Label, Span, read_label, write_label
from heedful.types.score import Score, read_score, write_score

__all__ = ["ROLES", "Conversation", "Label", "Role", "Span", "Turn"]

Role = Literal["system", "user", "assistant"]
"""`user` is the help-seeker, `assistant` the supporter (the names of the OpenAI message format)."""
ROLES: tuple[Role, ...] = ("system", "user", "assistant")

_MESSAGE = ("role", "content", "speaker_id", "sources")
_TEXTS = ("licence", "split", "situation", "problem_type", "group")
_RECORD = ("id", "source", "lang", *_TEXTS, "known", "survey", "messages", "labels", "scores")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message.

    Equal turns have equal hashes; the hash looks at role and text alone, because `extra` may hold lists and objects.

    Args:
        sources: what a planner looked up for the reply that follows *this* turn, from this turn and those before it:
            objects with `name` (where it comes from, `atomic.xIntent`), `text`, and where known `id` and `score`.
            Formats that want knowledge read it, and the trace of the reply keeps it.
        extra: columns of the source that heedful has no field for. Mappings inside cannot be changed.
    """

    role: Role
    text: str = field(repr=False)
    labels: tuple[Label, ...] = ()
    speaker_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sources: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise DataError(f"A turn's role must be one of {', '.join(ROLES)}, but it is {shown(self.role)}.")
        check_text(self.text, "A turn's text")
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "extra", freeze(self.extra))
        object.__setattr__(self, "sources", tuple(freeze(item) for item in self.sources))
        for label in self.labels:
            _check_span(label.span, self.text, f"A label of set {shown(label.set)}")

    def __hash__(self) -> int:
        return hash((self.role, self.text))

    def __repr__(self) -> str:
        # The text stays out: a repr ends up in logs, tracebacks and notebooks.
        sets = sorted({label.set for label in self.labels})
        return f"Turn(role={self.role!r}, {len(self.text.split())} words, labels={sets})"

    def label(self, set: str, *, source: str | None = None, prefer: Sequence[str] = ("human",)) -> str | None:
        """The value that counts for `set`, or None if there is none.

        Corrections append, so the last label by a person wins; where no person labelled, the first one counts.

        Args:
            set: name of the label set.
            source: look at this source alone (`gold`, `human:7`; a kind such as `human` covers all its people).
            prefer: sources whose last label wins, best first. `()` = always the first label; `("gold",)` = what the
                corpus says, even where somebody corrected it.
        """
        found = [n for n in self.labels if n.set == set and (source is None or n.by(source))]
        for wanted in prefer:
            for label in reversed(found):
                if label.by(wanted):
                    return label.value
        return found[0].value if found else None

    def values(self, set: str, *, source: str | None = None) -> tuple[str, ...]:
        """All values of `set` (and `source`), in order: for sets that allow several (values, distortions)."""
        return tuple(n.value for n in self.labels if n.set == set and (source is None or n.by(source)))

    def with_labels(self, *labels: Label) -> Turn:
        """A copy with `labels` appended; earlier ones are kept, because corrections append."""
        return replace(self, labels=(*self.labels, *labels))


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Turns in time order, with where they came from and what is known about them.

    What belongs where: `situation`, `problem_type` and `known` hold what is known *before the first message* (an
    intake form, an emotion type, a persona), so a model may see them at any turn. `survey`, `labels` and `scores`
    judge the whole talk, its end included, and `extra` holds everything else; no model sees those.

    Mappings inside cannot be changed. Equal conversations have equal hashes; the hash looks at `source` and `id` alone,
    which name a conversation, because mappings have no hash.

    Args:
        id: unique within `source`.
        turns: the messages.
        source: name of the corpus.
        licence: SPDX id or the source's own words.
        split: `train`, `valid`, `test` or None.
        lang: BCP-47 tag.
        situation: the help-seeker's own summary from before the talk, if the corpus has one.
        problem_type: the corpus' problem class.
        known: whatever else is given before the talk begins, by name.
        survey: scores given by people about the whole talk (`None` = asked, not answered).
        labels: layers about the whole conversation.
        scores: judgements of the whole conversation, or of one turn (`Score.turn`).
        group: whatever must not be divided between splits besides the conversation itself (a speaker, a video).
        extra: columns that heedful has no field for.
    """

    id: str
    turns: tuple[Turn, ...] = field(repr=False)
    source: str = "unknown"
    licence: str | None = None
    split: str | None = None
    lang: str = "en"
    situation: str | None = field(default=None, repr=False)
    problem_type: str | None = None
    survey: Mapping[str, float | None] = field(default_factory=dict, repr=False)
    labels: tuple[Label, ...] = ()
    group: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    known: Mapping[str, Any] = field(default_factory=dict, repr=False)
    scores: tuple[Score, ...] = ()

    def __post_init__(self) -> None:
        for name in ("turns", "labels", "scores"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("survey", "extra", "known"):
            object.__setattr__(self, name, freeze(getattr(self, name)))
        for label in self.labels:
            if label.span is not None:
                raise DataError(f"A label of set {shown(label.set)} has a span but no turn; give it to a turn.")
        for score in self.scores:
            self._check_score(score)

    def _check_score(self, score: Score) -> None:
        what = f"The score {shown(score.name)}"
        if score.turn is None:
            if score.spans:
                raise DataError(f"{what} of a conversation has spans; say in 'turn' which turn they are in.")
            return
        if not 0 <= score.turn < len(self.turns):
            raise DataError(f"{what} is about turn {score.turn}, but there are {len(self.turns)} turns.")
        for span in score.spans:
            _check_span(span, self.turns[score.turn].text, what)

    def __hash__(self) -> int:
        return hash((self.source, self.id))

    def __len__(self) -> int:
        return len(self.turns)

    def __iter__(self) -> Iterator[Turn]:
        return iter(self.turns)

    def __repr__(self) -> str:
        return f"Conversation(id={self.id!r}, source={self.source!r}, split={self.split!r}, {len(self.turns)} turns)"

    def before(self, index: int) -> Conversation:
        """The conversation as it stood before turn `index`: what a model may see. The future is not in it.

        Situation, problem type and `known` were there from the start and stay. Survey, conversation-level labels,
        scores and `extra` describe the whole talk or nobody knows when they arose, so they are left out. A judge of
        turn i reads the turn itself as well: `before(i + 1)`.
        """
        return replace(self, turns=self.turns[:index], survey={}, labels=(), scores=(), extra={})

    def targets(self, *, opening: bool = False, role: Role | Literal["any"] = "assistant") -> list[int]:
        """Indices of the turns to learn, write or judge.

        Args:
            opening: count the very first turn of a talk too. It answers nothing, so whoever writes replies leaves it
                out; whoever judges turns takes it.
            role: whose turns: the supporter's, the seeker's (`user`), or either speaker's (`any`: both, never system).

        Raises:
            DataError: no such role.
        """
        if role not in (*ROLES, "any"):
            raise DataError(f"role must be one of {', '.join(ROLES)} or any, but it is {shown(role)}.")
        wanted = ("user", "assistant") if role == "any" else (role,)
        return [i for i, turn in enumerate(self.turns) if turn.role in wanted and (i > 0 or opening)]

    def sources(self, name: str | None = None) -> tuple[Mapping[str, Any], ...]:
        """What was looked up for the reply that follows: sources of the help-seeker's last turn and of those after it.

        Args:
            name: only sources with this name, or with a name below it: `atomic` covers `atomic.xIntent`.
        """
        last = max((i for i, turn in enumerate(self.turns) if turn.role == "user"), default=0)
        found = [source for turn in self.turns[last:] for source in turn.sources]
        return tuple(s for s in found if name is None or f"{s.get('name')}.".startswith(f"{name}."))

    def with_scores(self, *scores: Score) -> Conversation:
        """A copy with `scores` appended."""
        return replace(self, scores=(*self.scores, *scores))

    def merged(self, *, separator: str = " ") -> Conversation:
        """Runs of turns by one role joined into one turn each.

        The joined turn carries the labels of the run's *last* turn, since that is what the reply answers to
        (MESC's 454 test pairs are counted so), with spans moved to where its words stand now; every original turn
        stays in `extra["merged"]`. Scores follow their turn.
        """
        runs: list[list[Turn]] = []
        places: list[tuple[int, int]] = []  # old index -> new index, and where its text begins there
        for turn in self.turns:
            if runs and runs[-1][-1].role == turn.role:
                begin = sum(len(t.text) + len(separator) for t in runs[-1])
                runs[-1].append(turn)
            else:
                begin = 0
                runs.append([turn])
            places.append((len(runs) - 1, begin))
        if len(runs) == len(self.turns):
            return self
        scores = tuple(
            score
            if score.turn is None
            else replace(
                score,
                turn=places[score.turn][0],
                spans=tuple(span.shifted(places[score.turn][1]) for span in score.spans),
            )
            for score in self.scores
        )
        return replace(self, turns=tuple(_joined(run, separator) for run in runs), scores=scores)

    # ------------------------------------------------------------------ JSON (conventions: one object a line)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Conversation:
        """Read the JSON form: `{"id", "messages": [{"role", "content"}], "labels": [{"turn", "set", "value"}], ...}`.

        Columns without a field go to `extra`. Ids and label values may be whole numbers; everything else must have the
        type of its field, and `null` counts as missing.

        Raises:
            DataError: a required field is missing or has the wrong type; the message names field and id.
        """
        fields = Fields.of(record, "A conversation", "an object with 'id' and 'messages'")
        where = "A conversation without id"
        if record.get("id") is not None:
            where = f"Conversation {shown(record['id'])}"
        fields = Fields(record, where)
        messages = record.get("messages")
        if not isinstance(messages, list | tuple):
            raise DataError(f"{where}: 'messages' must be a list of objects with 'role' and 'content'.")
        per_turn: dict[int | None, list[Label]] = {}
        for k, entry in enumerate(fields.items("labels", "objects with 'turn', 'set' and 'value'")):
            at, label = read_label(entry, where=f"{where}, label {k}", n=len(messages))
            if label.span is not None:
                said = _content(messages[at]) if at is not None else None
                _check_span(label.span, said, f"{where}, label {k}")
            per_turn.setdefault(at, []).append(label)
        turns = tuple(
            _read_turn(message, tuple(per_turn.get(i, ())), where=f"{where}, message {i}")
            for i, message in enumerate(messages)
        )
        try:
            return cls(
                id=fields.name("id") or "",
                turns=turns,
                source=fields.text("source") or "unknown",
                lang=fields.text("lang") or "en",
                known=fields.map("known"),
                survey=fields.numbers("survey"),
                labels=tuple(per_turn.get(None, ())),
                scores=tuple(
                    read_score(entry, where=f"{where}, score {k}", turns=len(messages))
                    for k, entry in enumerate(fields.items("scores", "objects with 'name' and 'value'"))
                ),
                extra=fields.rest(_RECORD),
                **{name: fields.text(name) for name in _TEXTS},
            )
        except DataError as err:
            raise DataError(str(err) if str(err).startswith(where) else f"{where}: {err}") from err

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; fields without content are left out, so that a round trip changes nothing.

        Columns of `extra` stand beside the fields, as they came; one that is called like a field goes into an object
        `extra`, so that it replaces nothing. The originals of `merged` turns are not written.
        """
        out: dict[str, Any] = {"id": self.id, "source": self.source}
        for name in _TEXTS:
            if getattr(self, name) is not None:
                out[name] = getattr(self, name)
        out["lang"] = self.lang
        if self.known:
            out["known"] = thaw(self.known)
        if self.survey:
            out["survey"] = dict(self.survey)
        out["messages"] = [_write_turn(turn) for turn in self.turns]
        entries = [write_label(None, label) for label in self.labels]
        entries += [write_label(i, label) for i, turn in enumerate(self.turns) for label in turn.labels]
        if entries:
            out["labels"] = entries
        if self.scores:
            out["scores"] = [write_score(score) for score in self.scores]
        _add_extra(out, self.extra, _RECORD)
        return out


def _check_span(span: Span | None, text: str | None, what: str) -> None:
    if span is None:
        return
    if text is None:
        raise DataError(f"{what} has a span but no turn; say in 'turn' where it is.")
    if span.end > len(text):
        raise DataError(
            f"{what} has a span that ends at {span.end}, but the text has {len(text)} characters. Spans count "
            "characters from 0, and the end is not included."
        )


def _joined(run: Sequence[Turn], separator: str) -> Turn:
    last = run[-1]
    if len(run) == 1:
        return last
    text = separator.join(turn.text for turn in run)
    labels = tuple(
        label if label.span is None else replace(label, span=label.span.shifted(len(text) - len(last.text)))
        for label in last.labels
    )
    return replace(last, text=text, labels=labels, extra={**last.extra, "merged": tuple(run)})


def _content(message: object) -> str:
    """The text of a message; '' where it has none, which reading the message will refuse."""
    text = message.get("content") if isinstance(message, Mapping) else None
    return text if isinstance(text, str) else ""


def _read_turn(message: object, labels: tuple[Label, ...], *, where: str) -> Turn:
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
        raise DataError(f"{where}: expected an object with 'role' and a text in 'content'.")
    fields, role = Fields(message, where), message.get("role")
    if role not in ROLES:
        raise DataError(f"{where}: 'role' must be one of {', '.join(ROLES)}, but it is {shown(role)}.")
    return Turn(
        role=cast(Role, role),
        text=fields.text("content") or "",
        labels=labels,
        speaker_id=fields.name("speaker_id"),
        sources=fields.objects("sources"),
        extra=fields.rest(_MESSAGE),
    )


def _write_turn(turn: Turn) -> dict[str, Any]:
    out: dict[str, Any] = {"role": turn.role, "content": turn.text}
    if turn.speaker_id is not None:
        out["speaker_id"] = turn.speaker_id
    if turn.sources:
        out["sources"] = thaw(turn.sources)
    extra = turn.extra
    if _is_run(extra.get("merged")):
        extra = {key: value for key, value in extra.items() if key != "merged"}
    _add_extra(out, extra, _MESSAGE)
    return out


def _is_run(value: object) -> bool:
    """Whether it is what `merged` puts there, and not a column of a file that happens to have that name."""
    return isinstance(value, tuple) and bool(value) and all(isinstance(item, Turn) for item in value)


def _add_extra(out: dict[str, Any], extra: Mapping[str, Any], fields: Sequence[str]) -> None:
    inside: dict[str, Any] = {}
    for key, value in extra.items():
        (inside if key in fields or key == "extra" else out)[key] = thaw(value)
    if inside:
        out["extra"] = inside

"""Reward, Task and RewardSet: named functions of a trace, with a declared range and a weight.

A reward is a plain function in one of three shapes; the shape is read off its signature:

    def name(trace: Trace, task: Task, *, option=...) -> float | Score | None                   one reply at a time
    def name(traces: Sequence[Trace], tasks: Sequence[Task], *, option=...) -> list[...]        a batch (encoders)
    def name(prompts, completions, **columns) -> list[float]                                    as written for TRL

Each may be `async`. None means unscored, never 0. A reward with weight 0 is a metric: measured and logged, outside the
total. Arithmetic (range, weights, gates) lives in `RewardSet`, so a reward function has none of it.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeVar, get_type_hints

import numpy as np
import numpy.typing as npt
from pydantic import PydanticUserError, TypeAdapter, ValidationError

from heedful.errors import ConfigError, HeedfulError, nearest
from heedful.types import Conversation, Score, Trace, Turn

Floats = npt.NDArray[np.float64]
Shape = Literal["one", "many", "columns"]
Value = float | int | bool | Score | None
T = TypeVar("T")
Ids = Sequence[Sequence[int]]
_OF_TRL = ("prompts", "completions", "completion_ids")
_OF_TRAINER = ("trainer_state", "log_extra", "log_metric")
_OURS = (*_OF_TRL, *_OF_TRAINER, "traces", "tasks", "trace", "task")
FAILED = "no reply: the generation failed"
"""Why a trace that ended in an error is unscored: nothing that a policy wrote is judged there."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What was asked of the model: all that a reward may look at besides the trace.

    Args:
        id: of the reply that is due (`<conversation id>/<turn>`); equal ids mean the same task.
        context: the conversation before the reply, labels included. What follows the reply is not in it.
        reference: the turn that a person wrote there, with its labels; None where nobody did.
        columns: further fields of the data, handed to TRL-shaped functions by name.
    """

    id: str
    context: Conversation = field(repr=False)
    reference: Turn | None = field(default=None, repr=False)
    columns: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def said(self) -> str | None:
        """The help-seeker's last turn before the reply."""
        return next((turn.text for turn in reversed(self.context.turns) if turn.role == "user"), None)

    @property
    def heard(self) -> str:
        """All that was said before the reply, by anybody, joined with blanks."""
        return " ".join(turn.text for turn in self.context.turns)


@dataclass(frozen=True, kw_only=True)
class Reward:
    """A reward function with its declaration.

    Args:
        low, high: the declared range; a value outside is clipped and counted.
        shape: how the function is called, see the module.
        higher_is_better: False for penalties, which get a negative weight.
        stage: rewards with a smaller number run first (BERTScore before similarity: one pass of the encoder for both).
    """

    function: Callable[..., Any] = field(repr=False)
    low: float
    high: float
    shape: Shape
    higher_is_better: bool = True
    stage: int = 1

    @property
    def definition(self) -> str:
        """The first paragraph of the function's docstring."""
        return inspect.cleandoc(self.function.__doc__ or "").split("\n\n")[0].replace("\n", " ")

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the function's keyword-only parameters: what `params` may set."""
        kinds = inspect.signature(self.function).parameters.values()
        return tuple(p.name for p in kinds if p.kind is inspect.Parameter.KEYWORD_ONLY)


def reward(
    *, low: float = 0.0, high: float = 1.0, higher_is_better: bool = True, stage: int = 1
) -> Callable[[Callable[..., Any]], Reward]:
    """Declare a function as a reward with values in [low, high]."""

    def declare(function: Callable[..., Any]) -> Reward:
        return replace(as_reward(function, low=low, high=high, higher_is_better=higher_is_better), stage=stage)

    return declare


def as_reward(
    thing: Any, *, low: float = -math.inf, high: float = math.inf, higher_is_better: bool = True, name: str = ""
) -> Reward:
    """`thing` as a Reward: one already, or a bare function of somebody else's.

    Args:
        low, high: range of a bare function; nothing is clipped where it declares none.

    Raises:
        ConfigError: it is no function, or one with parameters that no shape has.
    """
    if isinstance(thing, Reward):
        return thing
    who = name or getattr(thing, "__name__", "this")
    if not callable(thing):
        raise ConfigError(f"The reward '{who}' must be a function, but it is a {type(thing).__name__}.")
    names = list(inspect.signature(thing).parameters)
    if names[:2] == ["trace", "task"]:
        shape: Shape = "one"
    elif names[:2] == ["traces", "tasks"]:
        shape = "many"
    elif not set(_OF_TRL).isdisjoint(names):
        shape = "columns"
    else:
        raise ConfigError(
            f"The reward '{who}' takes ({', '.join(names)}), but a reward takes (trace, task), (traces, tasks), or "
            "some of (prompts, completions, completion_ids, **columns) as in TRL."
        )
    return Reward(function=thing, low=low, high=high, shape=shape, higher_is_better=higher_is_better)


@dataclass(frozen=True, kw_only=True)
class Component:
    """A reward in use.

    Args:
        name: what logs and tables call it; unique within a set.
        weight: in the total; 0 = measured only.
        params: options of the function.
        gate: smallest value that passes. A reply below it gets `gate_total` as its total, whatever else it does well;
            of several failed gates the first one in the list decides.
        gate_total: at most one below the least sum that the weighted components can have, which is the default: None.
    """

    name: str
    reward: Reward = field(repr=False)
    weight: float = 1.0
    params: Mapping[str, Any] = field(default_factory=dict)
    low: float
    high: float
    gate: float | None = None
    gate_total: float | None = None

    @property
    def scale(self) -> str:
        """The range in words; an end that nobody declared is open."""
        if math.isinf(self.low) and math.isinf(self.high):
            return "no declared range"
        if math.isinf(self.low):
            return f"up to {self.high:g}"
        return f"{self.low:g} and up" if math.isinf(self.high) else f"{self.low:g} to {self.high:g}"

    @property
    def floor(self) -> float:
        """The least that it can add to a sum: weight times the worse end of its range."""
        return min(self.weight * self.low, self.weight * self.high) if self.weight else 0.0

    def __call__(
        self, traces: Sequence[Trace], tasks: Sequence[Task], *, completion_ids: Ids | None = None
    ) -> list[Judged]:
        """One judgement per trace, in order; a sample at which the function raises is unscored.

        Args:
            completion_ids: tokens of each reply, for TRL-shaped functions that ask for them.
        """
        if not traces:
            return []
        call = partial(self.reward.function, **self.params)
        if self.reward.shape == "one":
            if _is_async(self.reward.function):
                return _finished(_gather(call, traces, tasks))
            return [_one(call, trace, task) for trace, task in zip(traces, tasks, strict=True)]
        known = sorted({key for task in tasks for key in task.columns})
        return self._batch(partial(self._asked, call, known), traces, tasks, completion_ids)

    def _asked(
        self,
        call: Callable[..., Any],
        known: Sequence[str],
        traces: Sequence[Trace],
        tasks: Sequence[Task],
        ids: Ids | None,
    ) -> Any:
        many = self.reward.shape == "many"
        found = call(traces, tasks) if many else call(**self._columns(traces, tasks, known, ids))
        found = _finished(_result(found)) if inspect.isawaitable(found) else found
        listed = isinstance(found, Iterable) and not isinstance(found, str | Mapping)
        return list(found) if listed else found

    def _batch(
        self, ask: Callable[..., Any], traces: Sequence[Trace], tasks: Sequence[Task], ids: Ids | None
    ) -> list[Judged]:
        try:
            found = ask(traces, tasks, ids)
        except HeedfulError:
            raise  # something to mend (a missing part, a scorer that is not there), not a bad sample
        except Exception as err:
            if len(traces) == 1:
                return [_raised(err)]
            # One reply must not take the others' scores away: ask for each of them alone.
            return [
                self._batch(ask, [trace], [task], None if ids is None else [ids[n]])[0]
                for n, (trace, task) in enumerate(zip(traces, tasks, strict=True))
            ]
        if not isinstance(found, list) or len(found) != len(traces):
            came = f"{len(found)} values" if isinstance(found, list) else f"a {type(found).__name__}"
            raise ConfigError(
                f"The reward '{self.name}' was asked about {len(traces)} replies and returned {came}; "
                "it must return one value per reply, None for those it cannot score."
            )
        return [_judged(value) for value in found]

    def _columns(
        self, traces: Sequence[Trace], tasks: Sequence[Task], known: Sequence[str], ids: Ids | None
    ) -> dict[str, Any]:
        """Arguments of a TRL-shaped function: lists, one entry per reply; only those that it takes.

        A column of the data goes before `reference`, `traces` and `tasks`, and an option of the configuration before
        it. What TRL itself hands over is never a column.
        """
        columns: dict[str, Any] = {
            "reference": [task.reference.text if task.reference else None for task in tasks],
            "traces": list(traces),
            "tasks": list(tasks),
            **{key: [task.columns.get(key) for task in tasks] for key in known},
            "prompts": [t.prompt if t.prompt is not None else k.heard for t, k in zip(traces, tasks, strict=True)],
            "completions": [trace.reply for trace in traces],
        }
        if ids is not None:
            columns["completion_ids"] = [list(tokens) for tokens in ids]
        given = {**columns, "trainer_state": None, "log_extra": _unheard, "log_metric": _unheard}
        given = {key: value for key, value in given.items() if key not in self.params}
        taken = inspect.signature(self.reward.function).parameters
        absent = [name for name in _required(self.reward.function) if name not in given and name not in self.params]
        if "completion_ids" in absent:
            raise ConfigError(f"The reward '{self.name}' takes the tokens of replies, which only a training run has.")
        if absent:
            raise ConfigError(
                f"The reward '{self.name}' takes '{absent[0]}', which the data do not have; columns here: "
                f"{', '.join(sorted(columns.keys() & given.keys()))}."
            )
        if _takes_all(self.reward.function):
            return given
        return {key: value for key, value in given.items() if key in taken}


def _unheard(*_: Any, **__: Any) -> None:
    """`log_extra` and `log_metric`, with which functions of TRL's write to its trainer's log: here to nothing."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What one reward said of one reply: a value, or why there is none. `explanation` may quote people."""

    value: float | None
    reason: str | None = None
    explanation: str | None = field(default=None, repr=False)
    raised: bool = False


def _one(call: Callable[..., Any], trace: Trace, task: Task) -> Judged:
    try:
        return _judged(call(trace, task))
    except HeedfulError:
        raise
    except Exception as err:
        return _raised(err)


async def _gather(call: Callable[..., Any], traces: Sequence[Trace], tasks: Sequence[Task]) -> list[Judged]:
    found = await asyncio.gather(*(call(t, k) for t, k in zip(traces, tasks, strict=True)), return_exceptions=True)
    for value in found:
        if isinstance(value, HeedfulError) or (isinstance(value, BaseException) and not isinstance(value, Exception)):
            raise value
    return [_raised(value) if isinstance(value, Exception) else _judged(value) for value in found]


def _raised(err: Exception) -> Judged:
    # The kind of error only: its message may quote the reply.
    return Judged(None, f"raised {type(err).__name__}", raised=True)


def _judged(value: Any) -> Judged:
    if value is None:
        return Judged(None, "not applicable")
    if isinstance(value, Score):
        if value.value is None:
            return Judged(None, value.reason, value.explanation)
        if isinstance(value.value, str):
            return Judged(None, "a text, not a number", value.explanation)
        found = _judged(value.value)
        return Judged(found.value, found.reason, value.explanation)
    try:
        # A text is refused even where it spells a number, and a tensor must hold exactly one.
        number = float("x" if isinstance(value, str | bytes) else value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return Judged(None, f"a {type(value).__name__}, not a number")
    return Judged(number) if math.isfinite(number) else Judged(None, "not a finite number")


def _takes_all(function: Callable[..., Any]) -> bool:
    kinds = inspect.signature(function).parameters.values()
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in kinds)


def _required(function: Callable[..., Any]) -> list[str]:
    """Parameters that must be given."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(function).parameters.items()
    return [name for name, p in parameters if p.default is inspect.Parameter.empty and p.kind in named]


def _is_async(function: Any) -> bool:
    # An object counts by its __call__.
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(function.__call__)


async def _result(found: Awaitable[T]) -> T:
    return await found


def _finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, also where a loop runs already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, work).result()


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Values of N replies on K components.

    Args:
        names, weights: of the components, in order.
        values: [N, K] within the declared ranges, NaN = unscored.
        reasons: [N][K] why there is no value, None where there is one.
        total: [N] weighted sum; NaN where a component that counts is unscored, and where nobody could judge a gate. A
            gate that fails sets the total, also where another component is unscored.
        gated: [N] True where a gate failed.
        clipped, raised: [K] how many values lay outside the range; at how many replies the function raised.
    """

    names: tuple[str, ...]
    weights: Floats = field(repr=False)
    values: Floats = field(repr=False)
    reasons: tuple[tuple[str | None, ...], ...] = field(repr=False)
    total: Floats = field(repr=False)
    gated: npt.NDArray[np.bool_] = field(repr=False)
    clipped: npt.NDArray[np.int64]
    raised: npt.NDArray[np.int64]

    def scores(self, at: int) -> tuple[Score, ...]:
        """The judgements of reply `at`, for its trace; the total comes last, as `reward`."""
        found = [_score(name, self.values[at, k], self.reasons[at][k]) for k, name in enumerate(self.names)]
        return (*found, _score("reward", self.total[at], "a component that counts is unscored"))


def _score(name: str, value: float, reason: str | None) -> Score:
    if math.isnan(value):
        return Score(name=name, value=None, source="reward", reason=reason or "not applicable")
    return Score(name=name, value=float(value), source="reward")


@dataclass(frozen=True, kw_only=True)
class RewardSet:
    """Components and how they become one number.

    R = sum_k w_k * r_k, or the total of the first gate that fails, which is no more than the least sum that the ranges
    allow: no other fault is worse. A failed gate has the word also where another component is unscored. Any other reply
    with an unscored component of weight other than 0, or with a gate that nobody could judge, has no total: it is left
    out of the update, since any number in its place would be a guess. A trace that ended in an error has no reply, so
    everything about it is unscored.
    """

    components: tuple[Component, ...]

    def __post_init__(self) -> None:
        names = self.names
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"Two rewards are called '{name}'; give one of them another 'label'.")
        if "reward" in names:
            raise ConfigError("A reward cannot be called 'reward', which is the total; give it another 'label'.")
        for component in self.components:
            if component.gate is not None:
                self._check_gate(component)

    def _check_gate(self, component: Component) -> None:
        name, gate, total = component.name, component.gate, component.gate_total
        if gate is None or not component.low < gate <= component.high:
            raise ConfigError(
                f"The gate of the reward '{name}' must lie above {component.low} and not above {component.high}, the "
                f"ends of its range, or it would never or always fail; it is {gate}."
            )
        open_ended = [c.name for c in self.components if not math.isfinite(c.floor)]
        if open_ended:
            raise ConfigError(
                f"The total of a failed gate must be the worst that there is, but the reward '{open_ended[0]}' has no "
                "end to its range; give it a 'range'."
            )
        if total is not None and not total <= self.floor + 1e-9:
            raise ConfigError(
                f"The 'gate_total' of the reward '{name}' is {total}, but other replies can have as little as "
                f"{self.floor:g}; it must not be above that. Leave it out to get one less."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the components."""
        return tuple(c.name for c in self.components)

    @property
    def weights(self) -> Floats:
        """[K]."""
        return np.array([c.weight for c in self.components], dtype=np.float64)

    @property
    def floor(self) -> float:
        """The least weighted sum that the declared ranges allow."""
        return math.fsum(c.floor for c in self.components)

    def __call__(self, traces: Sequence[Trace], tasks: Sequence[Task], *, completion_ids: Ids | None = None) -> Scored:
        """Judge N replies.

        Args:
            tasks: the task of each trace; a task with G replies stands G times.
            completion_ids: [N] tokens of each reply, end token included, for TRL-shaped functions that ask for them.
        """
        n, k = len(traces), len(self.components)
        values = np.full((n, k), np.nan)
        reasons: list[list[str | None]] = [[None] * k for _ in range(n)]
        clipped, raised = np.zeros(k, dtype=np.int64), np.zeros(k, dtype=np.int64)
        there = [row for row in range(n) if traces[row].finish != "error"]
        replies, due = [traces[row] for row in there], [tasks[row] for row in there]
        ids = None if completion_ids is None else [completion_ids[row] for row in there]
        for row in set(range(n)) - set(there):
            reasons[row] = [FAILED] * k
        for column, component in sorted(enumerate(self.components), key=lambda item: item[1].reward.stage):
            for row, judged in zip(there, component(replies, due, completion_ids=ids), strict=True):
                raised[column] += judged.raised
                if judged.value is None:
                    reasons[row][column] = judged.reason
                    continue
                inside = min(max(judged.value, component.low), component.high)
                clipped[column] += not math.isclose(inside, judged.value, abs_tol=1e-6)
                values[row, column] = inside
        total, gated = self._totals(values)
        return Scored(
            names=self.names, weights=self.weights, values=values, reasons=tuple(map(tuple, reasons)), total=total,
            gated=gated, clipped=clipped, raised=raised,
        )  # fmt: skip

    def _totals(self, values: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """([N] totals, [N] True where a gate failed) of values [N, K]."""
        counts = self.weights != 0
        total = values[:, counts] @ self.weights[counts]
        gated = np.zeros(len(values), dtype=np.bool_)
        for column in reversed(range(len(self.components))):  # backwards, so that the first gate has the last word
            component = self.components[column]
            if component.gate is not None:
                worst = self.floor - 1 if component.gate_total is None else component.gate_total
                fails = values[:, column] < component.gate
                total, gated = np.where(fails, worst, total), gated | fails
                total = np.where(np.isnan(values[:, column]), np.nan, total)
        return total, gated


def component(
    name: str,
    found: Any,
    *,
    weight: float = 1.0,
    params: Mapping[str, Any] | None = None,
    low: float | None = None,
    high: float | None = None,
    gate: float | None = None,
    gate_total: float | None = None,
) -> Component:
    """A component from a registered reward or a bare function.

    Raises:
        ConfigError: an option that the function does not have, one that it needs and did not get, one of the wrong
            type, or a range upside down.
    """
    made = as_reward(found, name=name)
    given = dict(params or {})
    # What a TRL-shaped function takes may be a column of the data, which is not known here.
    columns = made.shape == "columns"
    open_ended = columns and _takes_all(made.function)
    taken = (set(inspect.signature(made.function).parameters) if columns else set(made.options)) - set(_OURS)
    needed = [] if columns else [option for option in _required(made.function) if option not in {*given, *_OURS}]
    if needed:
        raise ConfigError(f"The reward '{name}' needs the option '{needed[0]}'; set it under params.")
    for key in given:
        if key in _OURS or (key not in taken and not open_ended):
            raise ConfigError(
                f"The reward '{name}' has no option '{key}'.{nearest(key, sorted(taken))} It has: "
                f"{', '.join(sorted(taken)) or 'none'}."
            )
    given = _typed(name, made.function, given)
    low, high = made.low if low is None else low, made.high if high is None else high
    if not low < high:
        raise ConfigError(f"The range of the reward '{name}' must go from low to high, but it is {low} to {high}.")
    return Component(
        name=name, reward=made, weight=weight, params=given, low=low, high=high, gate=gate, gate_total=gate_total
    )


def _typed(name: str, function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the function's annotations want them, so that a slip is found before a model is loaded."""
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return dict(given)  # annotations that only a type checker can read
    found = dict(given)
    for key in hints.keys() & given.keys():
        try:
            found[key] = TypeAdapter(hints[key]).validate_python(given[key])
        except ValidationError as err:
            first = err.errors(include_url=False)[0]["msg"]
            raise ConfigError(f"The reward '{name}': option '{key}': {first}, but it is {given[key]!r}.") from err
        except PydanticUserError:
            continue  # a type of somebody else's, of which pydantic knows nothing
    return found

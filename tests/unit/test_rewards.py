"""Reward sets: shapes of functions, what goes wrong in one sample, ranges, gates, configuration."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from rewards_kit import lonely, loud, short, task, trace

from heedful.errors import ConfigError, NotFoundError
from heedful.scoring.rewards import REWARDS, RewardSet, Scored, component, make, reward
from heedful.scoring.rewards.base import FAILED, Component
from heedful.types import Score

HERE = "rewards_kit"


def judge(specs: Any, *replies: str, **fields: Any) -> Scored:
    return make(specs)([trace(r, **fields) for r in replies], [task("Hello?", reference="I am here.")] * len(replies))


# ---------------------------------------------------------------------------------------------- shapes


def test_a_trl_function_works_unchanged() -> None:
    rewards = make([{"name": f"{HERE}:trl_letters", "weight": 2.0}])
    tasks = [task("Say a.", answer="a"), task("Say b.", answer="b")]
    found = rewards([trace("a cat", prompt="<s>Say a."), trace("a cat")], tasks)
    assert rewards.names == ("trl_letters",)
    np.testing.assert_array_equal(found.values[:, 0], [1.0, 0.0])
    np.testing.assert_array_equal(found.total, [2.0, 0.0])


def test_what_a_trl_function_gets() -> None:
    got: dict[str, Any] = {}

    def noted(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        got.update(columns, prompts=prompts, completions=completions)
        return [0.0] * len(prompts)

    traces = [trace("One.", prompt="<exact>"), trace("Two.")]
    tasks = [task("Hello?", "Hi.", "Bad.", reference="I hear.", mood="low"), task("Hm.")]
    made = component("noted", noted, params={"extra": 3})
    made(traces, tasks)
    assert got["prompts"] == ["<exact>", "Hm."]
    assert got["completions"] == ["One.", "Two."]
    assert got["reference"] == ["I hear.", None]
    assert got["mood"] == ["low", None]
    assert got["extra"] == 3
    assert got["traces"] == traces
    # A column of the data goes before ours, an option before a column.
    component("noted", noted)([trace("x")], [task("Hello?", reference="I hear.", mood="low", answer="b")])
    assert (got["answer"], got["mood"]) == (["b"], ["low"])
    component("noted", noted, params={"mood": "high"})([trace("x")], [task("Hello?", mood="low")])
    assert got["mood"] == "high"


def test_a_column_that_the_data_do_not_have_is_named() -> None:
    rewards = make([f"{HERE}:trl_letters"])
    with pytest.raises(ConfigError, match="takes 'answer', which the data do not have; columns here: colour, compl"):
        rewards([trace("a")], [task("Say a.", colour="red")])
    # Where only some have it, the others get None and are unscored, and the rest of the batch is not.
    found = rewards([trace("a"), trace("a")], [task("Say a.", answer="a"), task("Say b.")])
    assert found.values[0, 0] == 1.0
    assert math.isnan(found.values[1, 0])
    assert found.raised.tolist() == [1]


def lengths(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    """As TRL's own rewards of length: it takes neither prompts nor texts."""
    if any(ids == [0] for ids in completion_ids):
        raise ValueError("words of a client")
    return [float(len(ids)) for ids in completion_ids]


def test_rewards_of_trl_itself() -> None:
    trl = pytest.importorskip("trl.rewards")
    overlong = trl.get_soft_overlong_punishment(100, 20)
    repeated = trl.get_repetition_penalty_reward(ngram_size=2)
    rewards = RewardSet(components=(component("overlong", overlong), component("repeated", repeated)))
    tokens = [(1,) * 90, tuple(range(80)), tuple(range(101)), (1, 2, 1, 2, 1)]
    traces = [trace("Well.", finish="error" if n == 2 else "stop") for n in range(4)]
    found = rewards(traces, [task("Hello?")] * 4, completion_ids=tokens)
    # 90 tokens are half way through the last 20; 88 of 89 pairs of the first and 2 of 4 of the last were there before.
    np.testing.assert_allclose(found.values[:, 0], [-0.5, 0.0, np.nan, 0.0])
    np.testing.assert_allclose(found.values[:, 1], [-88 / 89, 0.0, np.nan, -0.5])
    assert found.raised.tolist() == [0, 0]


def test_a_trl_reward_that_expects_messages_needs_a_line() -> None:
    thinks = pytest.importorskip("trl.rewards").think_format_reward
    replies = [trace("<think>Why?</think>Why is that?"), trace("Why is that?")]
    assert [j.raised for j in component("thinks", thinks)(replies, [task("Hello?")] * 2)] == [True, True]

    def adapted(completions: list[str], **kwargs: Any) -> Any:
        return thinks([[{"role": "assistant", "content": text}] for text in completions], **kwargs)

    assert [j.value for j in component("thinks", adapted)(replies, [task("Hello?")] * 2)] == [1.0, 0.0]


def test_tokens_of_replies() -> None:
    made = component("lengths", lengths, low=0, high=9)
    judged = made([trace("a"), trace("b"), trace("c")], [task("Hello?")] * 3, completion_ids=[(1, 2), (0,), (3,)])
    assert [j.value for j in judged] == [2.0, None, 1.0]
    assert judged[1].reason == "raised ValueError"
    with pytest.raises(ConfigError, match="'lengths' takes the tokens of replies, which only a training run has"):
        made([trace("a")], [task("Hello?")])
    with pytest.raises(ConfigError, match="no option 'completion_ids'"):
        component("lengths", lengths, params={"completion_ids": [[1]]})


def test_what_the_trainer_of_trl_would_give() -> None:
    got: dict[str, Any] = {}

    def telling(prompts: list[str], trainer_state: Any, log_extra: Any, log_metric: Any, **columns: Any) -> list[float]:
        log_extra("note", ["a word"])
        log_metric("accuracy", 0.5)
        got.update(columns, state=trainer_state)
        return [0.5] * len(prompts)

    judged = component("telling", telling)([trace("a")], [task("Hello?", log_extra="a column", mood="low")])
    assert [j.value for j in judged] == [0.5]
    assert got["state"] is None
    assert got["mood"] == ["low"]
    assert "completion_ids" not in got


@pytest.mark.parametrize("in_a_notebook", [False, True])
def test_async_functions(in_a_notebook: bool) -> None:
    def run() -> Scored:
        return judge([f"{HERE}:trl_later", f"{HERE}:one_later"], "four", "bad", "")

    async def cell() -> Scored:
        return run()

    found = asyncio.run(cell()) if in_a_notebook else run()
    np.testing.assert_allclose(found.values[:, 0], [0.04, 0.03, np.nan])
    np.testing.assert_allclose(found.values[:, 1], [0.25, np.nan, 0.25])
    assert found.raised.tolist() == [0, 1]
    assert found.reasons[1][1] == "raised ValueError"
    assert "client" not in repr(found)


def test_an_async_object_and_an_async_batch() -> None:
    class Later:
        async def __call__(self, trace: Any, task: Any) -> float:
            return 0.5

    async def batch(traces: Any, tasks: Any) -> list[float]:
        return [0.75] * len(traces)

    for thing, value in ((Later(), 0.5), (batch, 0.75)):
        judged = component("later", thing)([trace("a")], [task("Hello?")])
        assert [j.value for j in judged] == [value]


# ---------------------------------------------------------------------------------------------- single samples


def test_one_reply_cannot_take_the_scores_of_a_batch() -> None:
    found = judge([{"name": f"{HERE}:fragile", "range": [-1, 1]}], "four", "bad", "sevensx")
    np.testing.assert_allclose(found.values[:, 0], [1.0, np.nan, 0.25])
    assert found.raised.tolist() == [1]
    assert found.reasons[1][0] == "raised ZeroDivisionError"
    np.testing.assert_array_equal(np.isnan(found.total), [False, True, False])


def test_values_outside_the_range_are_clipped_and_counted() -> None:
    found = judge([{"name": f"{HERE}:loud", "range": [0, 4], "weight": 0.5}], "four", "fifth", "a")
    assert found.values[:, 0].tolist() == [4.0, 4.0, 1.0]
    assert found.clipped.tolist() == [1]
    assert found.total.tolist() == [2.0, 2.0, 0.5]


def test_a_function_without_a_range_is_not_clipped() -> None:
    """A constant made of clipped values would be a reward that teaches nothing, and nobody would see why."""
    found = judge([{"name": f"{HERE}:thirteen"}], "one", "one two")
    assert found.values[:, 0].tolist() == [13.0, 26.0]
    assert found.clipped.tolist() == [0]
    (made,) = make([{"name": f"{HERE}:thirteen"}]).components
    (ranged,) = make([{"name": f"{HERE}:thirteen", "range": [0, 30]}]).components
    assert (made.scale, ranged.scale) == ("no declared range", "0 to 30")
    with pytest.raises(ConfigError, match="has no end to its range; give it a 'range'"):
        make([{"name": f"{HERE}:thirteen"}, {"name": "risk_gate", "weight": 0, "gate": 1}])


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("none", "not applicable"),
        ("text", "a str, not a number"),
        ("nan", "not a finite number"),
        ("huge", "a int, not a number"),
    ],
)
def test_what_is_no_number_is_unscored_with_a_reason(how: str, reason: str) -> None:
    found = judge([{"name": f"{HERE}:scored", "params": {"how": how}}], "a")
    assert math.isnan(found.values[0, 0])
    assert math.isnan(found.total[0])
    assert found.reasons[0][0] == reason
    first, total = found.scores(0)
    assert (first.value, first.reason) == (None, reason)
    assert (total.name, total.value) == ("reward", None)


def test_scores_of_a_reply() -> None:
    found = judge([{"name": f"{HERE}:scored", "params": {"how": "true"}, "label": "yes", "weight": 0.5}], "a")
    assert [(s.name, s.value, s.source) for s in found.scores(0)] == [("yes", 1.0, "reward"), ("reward", 0.5, "reward")]


def test_a_score_brings_its_reason_and_explanation() -> None:
    @reward()
    def careful(trace: Any, task: Any) -> Score:
        value = None if "?" in trace.reply else 1.0
        return Score(name="careful", value=value, reason="a question", explanation="quotes a person")

    judged = component("careful", careful)([trace("Hm?"), trace("Hm.")], [task("Hello?")] * 2)
    assert [(j.value, j.reason) for j in judged] == [(None, "a question"), (1.0, None)]
    assert "quotes" not in repr(judged)


def test_a_failed_generation_is_no_reply() -> None:
    rewards = make(["question", "length"])
    found = rewards([trace("", finish="error"), trace("Why?")], [task("Hello?")] * 2)
    assert found.reasons[0] == (FAILED, FAILED)
    assert math.isnan(found.total[0])
    assert found.values[1].tolist() == [1.0, 1.0]


def test_no_traces_at_all() -> None:
    found = make(list(OWN))([], [])
    assert found.values.shape == (0, len(OWN))
    assert found.total.shape == (0,)


@pytest.mark.parametrize(("name", "came"), [(short, "1 values"), (lonely, "a float")])
def test_one_value_per_reply_or_a_sentence(name: Any, came: str) -> None:
    with pytest.raises(ConfigError, match=f"asked about 2 replies and returned {came}; it must return one value per"):
        component("off", name)([trace("a"), trace("b")], [task("Hello?")] * 2)


def test_a_missing_part_stops_the_run_and_is_no_bad_sample() -> None:
    def broken(traces: Any, tasks: Any) -> list[float]:
        raise NotFoundError("There is no scorer 'x'.")

    with pytest.raises(NotFoundError, match="no scorer"):
        component("broken", broken)([trace("a"), trace("b")], [task("Hello?")] * 2)


# ---------------------------------------------------------------------------------------------- totals and gates


def gates(*specs: tuple[str, float, float | None]) -> RewardSet:
    def value_of(field: str) -> Any:
        return lambda trace, task: trace.info[field]

    return RewardSet(
        components=(
            component("base", value_of("base"), low=0, high=1, weight=3.0),
            *(component(n, value_of(n), low=0, high=1, weight=0.0, gate=g, gate_total=t) for n, g, t in specs),
        )
    )


def test_the_first_failed_gate_sets_the_total() -> None:
    rewards = gates(("safe", 1.0, -2.0), ("kind", 0.5, -1.0))
    rows = [(1, 1, 1), (1, 0, 1), (1, 1, 0.4), (1, 0, 0), (1, 1, 0.5)]
    traces = [trace("a", info={"base": b, "safe": s, "kind": k}) for b, s, k in rows]
    found = rewards(traces, [task("Hello?")] * len(rows))
    assert found.total.tolist() == [3.0, -2.0, -1.0, -2.0, 3.0]
    assert found.gated.tolist() == [False, True, True, True, False]


def test_a_gate_that_nobody_could_judge_leaves_no_total() -> None:
    rewards = gates(("safe", 1.0, -2.0), ("kind", 0.5, -1.0))
    rows = [(1, None, 1), (1, None, 0), (1, 0, None), (None, 0, 1), (None, 1, 1)]
    traces = [trace("a", info={"base": b, "safe": s, "kind": k}) for b, s, k in rows]
    found = rewards(traces, [task("Hello?")] * len(rows))
    np.testing.assert_array_equal(found.total, [np.nan, np.nan, -2.0, -2.0, np.nan])


def test_a_failed_gate_is_the_worst_outcome() -> None:
    """One less than the least sum: of 0.5 * [0, 1], -0.25 * [0, 4] and what has no weight."""
    specs: list[Any] = [
        {"name": "question", "weight": 0.5},
        {"name": f"{HERE}:loud", "weight": -0.25, "range": [0, 4]},
        {"name": "repetition", "weight": 0},
        {"name": "risk_gate", "weight": 0, "gate": 1},
    ]
    found = judge(specs, "Die.", "Much longer.")
    assert found.gated.tolist() == [True, False]
    assert found.total.tolist() == [-2.0, -1.0]
    assert make(specs).floor == -1.0
    # As low as the least sum may be asked for, no more.
    given = [*specs[:3], {**specs[3], "gate_total": -1.0}]
    assert judge(given, "Die.").total.tolist() == [-1.0]
    with pytest.raises(
        ConfigError, match=r"'gate_total' of the reward 'risk_gate' is -0.9, but other .* as little as -1;"
    ):
        make([*specs[:3], {**specs[3], "gate_total": -0.9}])
    # A gate with a weight is a part of the sum, too.
    assert judge([{"name": "risk_gate", "weight": -2, "gate": 1}], "Die.").total.tolist() == [-3.0]


def test_a_failed_gate_overrides_an_unscored_component() -> None:
    specs: list[Any] = [{"name": "rouge1"}, {"name": "risk_gate", "weight": 0, "gate": 1}]
    found = make(specs)([trace("Die."), trace("Hm.")], [task("Hello?")] * 2)
    np.testing.assert_array_equal(found.total, [-1.0, np.nan])


@pytest.mark.parametrize("gate", [float("nan"), 0.0, -0.5, 1.5, float("inf")])
def test_a_gate_that_never_or_always_fails_is_refused(gate: float) -> None:
    with pytest.raises(ConfigError, match=r"gate of the reward 'question' must lie above 0.0 and not above 1.0"):
        RewardSet(components=(component("question", REWARDS.get("question"), gate=gate),))


def test_no_worst_outcome_without_ends() -> None:
    endless = component("loud", loud, low=0, high=math.inf, weight=-1)
    gate = component("risk_gate", REWARDS.get("risk_gate"), weight=0, gate=1)
    with pytest.raises(ConfigError, match="the reward 'loud' has no end to its range; give it a 'range'"):
        RewardSet(components=(endless, gate))
    assert RewardSet(components=(endless,)).floor == -math.inf


def test_weight_zero_is_measured_outside_the_total() -> None:
    unscored = {"name": f"{HERE}:scored", "weight": 0, "params": {"how": "none"}}
    found = judge([{"name": "question", "weight": 0}, unscored, {"name": "length", "weight": -0.2}], "Why?")
    assert found.values[0, 0] == 1.0
    assert found.total[0] == pytest.approx(-0.2)


def test_rewards_with_an_earlier_stage_run_first() -> None:
    order: list[str] = []

    def noting(name: str, stage: int) -> Component:
        @reward(stage=stage)
        def function(traces: Any, tasks: Any) -> list[float]:
            order.append(name)
            return [float(stage)] * len(traces)

        return component(name, function)

    found = RewardSet(components=(noting("late", 1), noting("early", 0)))([trace("a")], [task("Hello?")])
    assert order == ["early", "late"]
    assert found.values.tolist() == [[1.0, 0.0]]  # columns stay where they were


# ---------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "similarity", "weight": "high"}, "'weight': Input should be a valid number.*'high'"),
        ({"name": "similarity", "weight": float("nan")}, "weight.*finite number"),
        ({"name": "similarity", "wieght": 1}, "unknown key 'wieght'. Did you mean 'weight'"),
        ({"name": "copy", "params": {"ovr": "user"}}, "no option 'ovr'. Did you mean 'over'. It has: over"),
        ({"name": "copy", "params": {"over": "everything"}}, "option 'over': Input should be 'context', 'client' or"),
        ({"name": "length", "params": {"min_tokens": "three"}}, "option 'min_tokens': Input should be a valid integer"),
        ({"name": "question", "range": [1, 0]}, "must go from low to high, but it is 1.0 to 0.0"),
        ({"name": f"{HERE}:scored"}, "needs the option 'how'; set it under params"),
        ({"name": f"{HERE}:task"}, "takes .said, reference, labels, columns., but a reward takes"),
        ({"name": f"{HERE}:WORDS"}, "must be a function, but it is a list"),
    ],
)
def test_bad_settings_are_one_sentence(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make([spec])


def test_unknown_rewards_name_the_nearest() -> None:
    with pytest.raises(NotFoundError, match=r"Unknown reward 'similarty'\. Did you mean 'similarity'"):
        make(["similarty"])
    with pytest.raises(NotFoundError, match="which the module 'rewards_kit' does not have"):
        make([f"{HERE}:nothing"])


def test_names_stand_once() -> None:
    with pytest.raises(ConfigError, match="Two rewards are called 'question'; give one of them another 'label'"):
        make(["question", {"name": "question", "params": {"where": "end"}}])
    with pytest.raises(ConfigError, match="cannot be called 'reward'"):
        make([{"name": "question", "label": "reward"}])
    assert make(["question", {"name": "question", "label": "asks", "params": {"where": "end"}}]).names[1] == "asks"


def test_options_get_the_type_that_they_want() -> None:
    made = component("loud", loud, params={"volume": "3"}, low=0, high=100)
    assert made.params == {"volume": 3}
    assert made([trace("ab")], [task("Hello?")])[0].value == 6.0


OWN = (
    "copy", "repetition", "bleu1", "rouge1", "rouge2", "rougeL", "meteor_exact_stem", "length", "length_between",
    "question", "risk_gate",
)  # fmt: skip
"""Registered rewards that need no encoder and no WordNet."""


def test_every_reward_has_a_definition_and_a_range() -> None:
    for name in REWARDS.names():
        found = REWARDS.get(name)
        assert found.low < found.high
        assert found.definition.endswith("."), name
        assert len(found.definition) < 260, name


def test_looking_up_rewards_loads_no_torch() -> None:
    code = (
        "import sys; from heedful.scoring.rewards import REWARDS; [REWARDS.get(n) for n in sys.argv[1].split()];"
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    )
    names = [*OWN, "meteor", "similarity", "relevance", "bertscore", "reader_released", "reader_paper"]
    subprocess.run([sys.executable, "-c", code, " ".join(names)], check=True)

"""PPO and REINFORCE++ by hand; GRPO and RLOO against TRL itself, on the same batch, losses and gradients to 1e-5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from rl_kit import experience, prompts, rollouts, scored, sharpen

from heedful.formats import make as make_format
from heedful.models.causal import CausalModel
from heedful.models.decoding import Decoding, Written
from heedful.models.engine import TransformersEngine
from heedful.scoring.rewards import RewardSet, Task, component
from heedful.testing import tiny_model
from heedful.training.rl.algorithms import GRPO, PPO, RLOO, Flat, ReinforcePlusPlus
from heedful.training.rl.collect import Collector
from heedful.training.rl.config import GRPOConfig, RLConfig, RLOOConfig
from heedful.training.rl.experience import Prompt
from heedful.training.rl.improve import Improver, Round
from heedful.training.rl.losses import Counts
from heedful.training.rl.processes import Processes
from heedful.types import Trace

NAN = float("nan")

# ------------------------------------------------------------------ by hand


def test_ppo_gives_the_reward_at_the_end_and_the_kl_on_the_way() -> None:
    seen = experience(
        [2.0, -1.0], [3, 2], old=[-1.0, -2.0, -0.5, -1.0, -3.0], reference=[-1.5, -1.0, -0.5, -1.0, -1.0],
        values=[0.5, 0.4, 0.3, 0.2, 0.1],
    )  # fmt: skip
    # -0.1 * (old - reference), and at the last token of each reply its reward.
    rewards = np.array([-0.05, 0.1, 2.0, 0.0, -1.0 + 0.2])
    found = PPO(gamma=1.0, lam=0.95, whiten="none").targets(seen, kl_coef=0.1)
    a2 = 2.0 - 0.3
    a1 = 0.1 + 0.3 - 0.4 + 0.95 * a2
    a0 = -0.05 + 0.4 - 0.5 + 0.95 * a1
    b1 = -0.8 - 0.1
    b0 = 0.1 - 0.2 + 0.95 * b1
    assert found.advantages == pytest.approx([a0, a1, a2, b0, b1])
    assert found.returns == pytest.approx([a0 + 0.5, a1 + 0.4, a2 + 0.3, b0 + 0.2, b1 + 0.1])
    assert rewards.sum() == pytest.approx(2.0 - 1.0 - 0.1 * float(seen.kl.sum()))
    whole = PPO(gamma=1.0, lam=0.95, whiten="batch").targets(seen, kl_coef=0.1).advantages
    raw = found.advantages
    assert whole == pytest.approx((raw - raw.mean()) / raw.std(), abs=1e-6)
    each = PPO(gamma=1.0, lam=0.95, whiten="reply").targets(seen, kl_coef=0.1).advantages
    assert each[:3] == pytest.approx((raw[:3] - raw[:3].mean()) / raw[:3].std(), abs=1e-6)
    assert each[3:] == pytest.approx([-1, 1], abs=1e-5)


@pytest.mark.parametrize("whiten", ["batch", "reply", "none"])
def test_ppo_leaves_unscored_replies_out(whiten: Any) -> None:
    numbers: dict[str, Any] = {"old": [-1.0] * 5, "reference": [-2.0] * 5, "values": [0.3] * 5}
    seen = experience([2.0, NAN], [3, 2], **numbers)
    alone = experience([2.0], [3], **{k: v[:3] for k, v in numbers.items()})
    found = PPO(whiten=whiten).targets(seen, kl_coef=0.1)
    expected = PPO(whiten=whiten).targets(alone, kl_coef=0.1)
    assert found.advantages[:3] == pytest.approx(expected.advantages)
    assert found.returns is not None
    assert expected.returns is not None
    assert found.returns[:3] == pytest.approx(expected.returns)
    assert found.advantages[3:].tolist() == [0, 0]
    assert np.isfinite(found.returns).all()


def test_ppo_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="needs values"):
        PPO().targets(experience([1.0], [2]), kl_coef=0.1)


def test_reinforce_plus_plus_by_hand() -> None:
    """A_t = R - beta * (KL still to come), whitened over all tokens."""
    seen = experience([2.0, -1.0, NAN], [3, 1, 2], old=[-1, -2, -0.5, -1, -1, -1], reference=[-1.5, -1, -0.5, -3, 0, 0])
    # old - reference: 0.5, -1, 0 | 2 | unscored
    raw = np.array([2 - 0.1 * (0.5 - 1), 2 + 0.1, 2.0, -1 - 0.2])
    expected = (raw - raw.mean()) / raw.std()
    found = ReinforcePlusPlus().targets(seen, kl_coef=0.1)
    assert found.advantages == pytest.approx([*expected, 0, 0], abs=1e-6)
    assert found.returns is None
    discounted = ReinforcePlusPlus(gamma=0.5).targets(seen, kl_coef=0.1).advantages
    raw = np.array([-0.05 + 0.5 * (0.1 + 0.5 * 2), 0.1 + 0.5 * 2, 2.0, -1.2])
    assert discounted == pytest.approx([*((raw - raw.mean()) / raw.std()), 0, 0], abs=1e-6)


def test_reinforce_plus_plus_with_a_group_baseline() -> None:
    seen = experience([2.0, 4.0, NAN, 7.0], [1, 1, 1, 1], group=[0, 0, 0, 1])
    raw = np.array([-1.0, 1.0, 0.0])  # from the mean of those that are scored; the last one is alone
    expected = raw / raw.std()
    found = ReinforcePlusPlus(baseline="group").targets(seen, kl_coef=0.0).advantages
    assert found == pytest.approx([expected[0], expected[1], 0, expected[2]], abs=1e-6)


def test_rloo_takes_the_kl_of_the_whole_reply_off_its_reward() -> None:
    seen = experience([1.0, 3.0], [2, 1], group=[0, 0], old=[-1, -1, -1], reference=[-2, -3, -1])
    # 1 - 0.1 * 3 = 0.7 against 3
    assert RLOO().targets(seen, kl_coef=0.1).advantages == pytest.approx([-2.3, -2.3, 2.3])


def test_grpo_gives_all_tokens_of_a_reply_one_advantage() -> None:
    seen = experience([0.0, 1.0, 5.0, 5.0], [2, 1, 1, 1], group=[0, 0, 1, 1])
    one = 0.5 / (np.sqrt(0.5) + 1e-4)
    assert GRPO().targets(seen, kl_coef=0.0).advantages == pytest.approx([-one, -one, one, 0, 0])


def test_a_failed_gate_has_the_last_word_in_gdpo_too() -> None:
    judged = scored([1.0, 0.0, -3.0], columns={"only": [1.0, 0.0, 0.9]})
    judged.gated[2] = True
    seen = experience([1.0, 0.0, -3.0], [1, 1, 1], group=[0, 0, 0], judged=judged)
    found = GRPO(aggregation="normalize_then_sum").targets(seen, kl_coef=0.0).advantages
    assert found[0] > found[1] > found[2]


def flat(**more: Any) -> Flat:
    values: dict[str, Any] = {
        "new": torch.tensor([-1.0, -1.0, -2.0], requires_grad=True),
        "old": torch.tensor([-1.5, -1.0, -2.0]),
        "reference": None,
        "advantages": torch.tensor([2.0, 2.0, -1.0]),
        "drift": None,
        "owner": torch.tensor([0, 0, 1]),
        "lengths": torch.tensor([2, 1]),
    }
    return Flat(**{**values, **more})


COUNTS = Counts(replies=2, tokens=3, longest=8)


@pytest.mark.parametrize("algorithm", [PPO(), ReinforcePlusPlus()])
def test_token_losses_by_hand(algorithm: Any) -> None:
    """Ratios e^0.5, 1 and 1; the first is cut at 1.2, where it also counts as held."""
    found = algorithm.loss(flat(), COUNTS, kl_coef=0.5)  # the KL is in the reward, not here
    assert found.loss.item() == pytest.approx((-1.2 * 2 - 2 + 1) / 3)
    assert (found.held, found.of) == (1, 3)


def test_rloo_clips_the_ratio_of_the_whole_reply() -> None:
    found = RLOO().loss(flat(), COUNTS, kl_coef=0.5)
    assert found.loss.item() == pytest.approx((-1.2 * 2 + 1) / 2)
    assert (found.held, found.of) == (1, 2)


@pytest.mark.parametrize("algorithm", [PPO(), ReinforcePlusPlus(), GRPO(loss_type="bnpo")])
def test_another_sampler_is_corrected_for_up_to_the_cap(algorithm: Any) -> None:
    """drift = log pi_old - log pi_sampler; weights e^-0.5, 1 and, cut, 2."""
    drift = torch.tensor([-0.5, 0.0, 3.0])
    found = algorithm.loss(flat(drift=drift), COUNTS, kl_coef=0.0)
    assert found.loss.item() == pytest.approx((np.exp(-0.5) * -1.2 * 2 - 2 + 2.0 * 1) / 3)
    assert algorithm.loss(flat(drift=drift, cap=30.0), COUNTS, kl_coef=0.0).loss.item() == pytest.approx(
        (np.exp(-0.5) * -1.2 * 2 - 2 + np.exp(3.0)) / 3
    )


def test_the_correction_of_rloo_is_of_whole_replies() -> None:
    found = RLOO().loss(flat(drift=torch.tensor([-0.5, 0.2, 3.0])), COUNTS, kl_coef=0.0)
    assert found.loss.item() == pytest.approx((np.exp(-0.3) * -1.2 * 2 + 2.0 * 1) / 2)


def test_the_correction_does_not_touch_the_kl_term() -> None:
    reference = torch.tensor([-1.0, -2.0, -2.0])
    with_kl = GRPO(loss_type="bnpo").loss(
        flat(drift=torch.tensor([1.0, 1.0, 1.0]), reference=reference), COUNTS, kl_coef=0.5
    )
    without = GRPO(loss_type="bnpo").loss(flat(drift=torch.tensor([1.0, 1.0, 1.0])), COUNTS, kl_coef=0.5)
    assert (with_kl.loss - without.loss).item() == pytest.approx(0.5 * np.exp(-1.0) / 3, abs=1e-6)


# ------------------------------------------------------------------ TRL

REWARDS = np.array([[0.1, 5.0], [0.9, 2.0], [0.4, 9.0], [0.4, 1.0], [0.7, 3.0], [0.2, 3.5], [0.0, 4.0], [0.3, 4.5]])
WEIGHTS = (1.0, 0.3)
LONGEST = 10


@dataclass
class Table:
    """The same rewards for both: by the number of the reply."""

    column: int

    def ours(self, traces: Sequence[Trace], tasks: Sequence[Task]) -> list[float]:
        return list(REWARDS[: len(traces), self.column])

    def theirs(self, prompts: Any, completions: Any, **_: Any) -> list[float]:
        return list(REWARDS[: len(completions), self.column])


@dataclass
class Case:
    """One batch: two prompts with four replies each; a policy that is neither what wrote them nor the reference."""

    reference: CausalModel
    start: CausalModel
    policy: CausalModel
    prompts: list[Prompt]
    written: list[list[Written]]


def moved(causal: CausalModel, *, seed: int, by: float) -> CausalModel:
    other = tiny_model()
    sharpen(other)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for mine, theirs in zip(other.model.parameters(), causal.model.parameters(), strict=True):
            mine.copy_(theirs + torch.randn(mine.shape, generator=noise) * by)
    return other


@pytest.fixture(scope="module")
def case() -> Case:
    reference = tiny_model()
    sharpen(reference)
    start = moved(reference, seed=1, by=0.03)
    asked = prompts(start, 2)
    return Case(reference, start, moved(start, seed=2, by=0.02), asked, rollouts(start, asked, n=4))


def ours(case: Case, config: RLConfig) -> tuple[np.ndarray[Any, Any], float, dict[str, Any]]:
    """(advantages of the replies, loss, gradients) by the collector and the improver, two passes of one prompt."""
    causal = moved(case.start, seed=0, by=0.0)
    components = [
        component(name, Table(i).ours, weight=w, low=-100, high=100)
        for i, (name, w) in enumerate(zip("ab", WEIGHTS, strict=True))
    ]
    collector = Collector(
        causal=causal, fmt=make_format("chat"), engine=TransformersEngine(causal),
        rewards=RewardSet(components=tuple(components)), decoding=Decoding(temperature=config.temperature),
        value_head=None, frozen=case.reference.model, recompute=True,
    )  # fmt: skip
    seen = collector.experience(case.prompts, case.written)
    algorithm = config.algorithm()
    targets = algorithm.targets(seen, kl_coef=0.0 if algorithm.kl_in_loss else config.kl_coef)
    with torch.no_grad():
        for mine, theirs in zip(causal.model.parameters(), case.policy.model.parameters(), strict=True):
            mine.copy_(theirs)
    improver = Improver(
        config, causal, algorithm, updates=1, value_head=None, act_head=None, half=False, processes=Processes()
    )
    caught: dict[str, Any] = {}

    def catch(*_: Any) -> None:
        caught.update({n: p.grad.clone() for n, p in causal.model.named_parameters() if p.grad is not None})

    improver.optimizer.register_step_pre_hook(catch)
    work = Round(seen=seen, targets=targets, kl_coef=config.kl_coef, current=False, exact=True)
    improved = improver.improve(work, draw=np.random.default_rng(0))
    assert improved.values["updates"] == 1
    return targets.advantages[seen.last], improved.values["policy_loss"], caught


def theirs(case: Case, trainer: Any) -> tuple[np.ndarray[Any, Any], float, dict[str, Any]]:
    """The same from TRL's own trainer: only its generation is replaced."""
    ids = [list(p.tokens) for p in case.prompts for _ in range(4)]
    replies = [list(w.tokens) for mine in case.written for w in mine]
    texts = ["reply"] * len(replies)
    grpo = type(trainer).__name__ == "GRPOTrainer"
    trainer._generate = lambda _: (ids, replies, None, texts, None, {}, None, []) if grpo else (ids, replies, texts)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    found = trainer._generate_and_score_completions([{"prompt": "asked"} for _ in replies])
    with torch.no_grad():
        for mine, other in zip(trainer.model.parameters(), case.policy.model.parameters(), strict=True):
            mine.copy_(other)
    loss = trainer._compute_loss(trainer.model, found)
    loss.backward()
    grads = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
    return found["advantages"].double().numpy(), float(loss.detach()), grads


def trained_by(kind: str, case: Case, folder: Path, **options: Any) -> Any:
    """A trainer of TRL's on the start, with the reference put beside it."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    start, reference = moved(case.start, seed=0, by=0.0), moved(case.reference, seed=0, by=0.0)
    start.model.save_pretrained(folder / "start")
    start.model.config._name_or_path = start.model.name_or_path = str(folder / "start")
    args = getattr(trl, f"{kind}Config")(
        output_dir=str(folder / "trl"), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[],
        per_device_train_batch_size=8, gradient_accumulation_steps=1, num_generations=4, num_iterations=2,
        max_completion_length=LONGEST, reward_weights=list(WEIGHTS), **options,
    )  # fmt: skip
    trainer = getattr(trl, f"{kind}Trainer")(
        start.model, reward_funcs=[_named(Table(i), i) for i in range(2)], args=args, processing_class=start.tokenizer,
        train_dataset=datasets.Dataset.from_dict({"prompt": ["asked"] * 8}),
    )  # fmt: skip
    if trainer.ref_model is not None:
        trainer.ref_model.load_state_dict(reference.model.state_dict())
    return trainer


def _named(table: Table, number: int) -> Any:
    def function(prompts: Any, completions: Any, **more: Any) -> list[float]:
        return table.theirs(prompts, completions, **more)

    function.__name__ = f"column_{number}"
    return function


def assert_same(found: Any, expected: Any) -> None:
    (ours_a, ours_loss, ours_g), (trl_a, trl_loss, trl_g) = found, expected
    assert ours_a == pytest.approx(trl_a, abs=1e-5)
    assert np.abs(trl_a).max() > 0.1
    assert ours_loss == pytest.approx(trl_loss, abs=1e-5)
    assert set(ours_g) == set(trl_g) != set()
    for name, value in trl_g.items():
        torch.testing.assert_close(
            ours_g[name], value, atol=1e-5 * max(1.0, float(value.abs().max())), rtol=0, msg=name
        )
    assert max(float(g.abs().max()) for g in trl_g.values()) > 1e-2


def config(cls: Any, **more: Any) -> Any:
    values = {
        "rewards": ["length"], "rollout_batch_size": 2, "mini_batch_size": 2, "per_device_train_batch_size": 1,
        "num_generations": 4, "max_new_tokens": LONGEST, "max_grad_norm": 0,
    }  # fmt: skip
    return cls(**values, **more)


GRPO_CASES: list[dict[str, Any]] = [
    *(
        {"loss_type": kind, "beta": beta}
        for kind in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo")
        for beta in (0.0, 0.3)
    ),
    {"scale_rewards": "batch"},
    {"scale_rewards": "none"},
    {"multi_objective_aggregation": "normalize_then_sum"},
    {"loss_type": "dapo", "epsilon_high": 0.28, "epsilon": 0.05},
    {"temperature": 0.7, "beta": 0.3},
]


@pytest.mark.parametrize("options", GRPO_CASES, ids=lambda o: "-".join(map(str, o.values())))
def test_grpo_is_trls(case: Case, tmp_path: Path, options: dict[str, Any]) -> None:
    given: dict[str, Any] = {"loss_type": "grpo", "beta": 0.0, "scale_rewards": "group", "epsilon_high": 0.2, **options}
    if given["loss_type"] == "cispo":
        given["epsilon_high"] = 1.05  # the largest weight itself
    kind, high = given["loss_type"], given["epsilon_high"]
    gdpo = given.get("multi_objective_aggregation", "sum_then_normalize")
    mine = config(
        GRPOConfig, loss_type=kind, kl_coef=given["beta"], epsilon=given.get("epsilon", 0.2), aggregation=gdpo,
        epsilon_high=high,
        scale_rewards=given["scale_rewards"] if gdpo == "sum_then_normalize" else None,
        temperature=given.get("temperature", 1.0),
    )  # fmt: skip
    # Ours is the KL as published (Shao et al. 2024, eq. 4). TRL 1.16 multiplies it by the ratio by default.
    expected = theirs(case, trained_by("GRPO", case, tmp_path, use_bias_correction_kl=False, **given))
    assert_same(ours(case, mine), expected)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_rloo_is_trls(case: Case, tmp_path: Path, beta: float) -> None:
    expected = theirs(case, trained_by("RLOO", case, tmp_path, beta=beta))
    assert_same(ours(case, config(RLOOConfig, kl_coef=beta)), expected)


def test_the_batch_is_worth_comparing(case: Case) -> None:
    """Ratios beyond the clip on both sides, replies of different lengths, a KL to the reference."""
    lengths = {len(w.tokens) for mine in case.written for w in mine}
    assert len(lengths) > 2
    found = ours(case, config(GRPOConfig, kl_coef=0.3))
    other = ours(case, config(GRPOConfig, kl_coef=0.3, epsilon=5.0))
    assert abs(found[1] - other[1]) > 1e-3, "the clip must take hold"
    assert abs(found[1] - ours(case, config(GRPOConfig, kl_coef=0.0))[1]) > 1e-3

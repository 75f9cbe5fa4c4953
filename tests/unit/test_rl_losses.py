"""What is minimised, by hand, and that cutting a mini-batch into passes changes nothing."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from heedful.training.rl.losses import Counts, average, cispo, clipped, k3, per_reply, value_loss


def test_the_clipped_surrogate_by_hand() -> None:
    ratio = torch.tensor([0.5, 0.5, 1.0, 1.1, 1.5, 1.5, 0.8])
    advantage = torch.tensor([1.0, -1.0, 2.0, -1.0, 1.0, -1.0, 0.0])
    values, held = clipped(ratio, advantage, low=0.2, high=0.28)
    # Held where the step would go on in the direction that pays: below 1 - low with A < 0, above 1 + high with A > 0.
    assert values.tolist() == pytest.approx([-0.5, 0.8, -2.0, 1.1, -1.28, 1.5, 0.0])
    assert held.tolist() == [False, True, False, False, True, False, False]


def test_a_clipped_token_has_no_gradient() -> None:
    ratio = torch.tensor([0.5, 0.5, 1.0, 1.5, 1.5], requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0])
    clipped(ratio, advantage, low=0.2, high=0.2)[0].sum().backward()
    assert ratio.grad is not None
    assert ratio.grad.tolist() == [-1.0, 0.0, -1.0, 0.0, 1.0]


def test_cispo_cuts_the_weight_and_keeps_the_gradient() -> None:
    new = torch.tensor([-1.0, -2.0], requires_grad=True)
    ratio = (new - torch.tensor([-1.0, -4.0])).exp()
    values, held = cispo(new, ratio, torch.tensor([3.0, 3.0]), most=5.0)
    assert values.tolist() == pytest.approx([3.0, 5.0 * 3 * 2])
    assert held.tolist() == [False, True]
    values.sum().backward()
    assert new.grad is not None
    assert new.grad.tolist() == pytest.approx([-3.0, -15.0])


def test_k3_by_hand() -> None:
    new, reference = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.0, -2.0, 0.5])
    expected = [0.0, math.exp(-1) + 1 - 1, math.exp(1.5) - 1.5 - 1]
    assert k3(new, reference).tolist() == pytest.approx(expected)
    assert bool((k3(torch.randn(100), torch.randn(100)) >= 0).all())


OWNER, LENGTHS = torch.tensor([0, 0, 0, 1]), torch.tensor([3, 1])
VALUES = torch.tensor([1.0, 2.0, 6.0, 5.0])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("grpo", (9 / 3 + 5) / 2),
        ("bnpo", 14 / 4),
        ("dapo", 14 / 4),
        ("cispo", 14 / 4),
        ("dr_grpo", 14 / (2 * 8)),
    ],
)
def test_averages_by_hand(kind: str, expected: float) -> None:
    counts = Counts(replies=2, tokens=4, longest=8)
    assert float(average(VALUES, kind, OWNER, LENGTHS, counts)) == pytest.approx(expected)  # type: ignore[arg-type]
    # One reply at a time, divided by the counts of both: the same.
    parts = [
        average(VALUES[i == OWNER], kind, torch.zeros(int(LENGTHS[i]), dtype=torch.long), LENGTHS[i : i + 1], counts)  # type: ignore[arg-type]
        for i in range(2)
    ]
    assert float(sum(parts)) == pytest.approx(expected)


def test_sums_per_reply() -> None:
    assert per_reply(VALUES, OWNER, 3).tolist() == [9, 5, 0]


def test_value_loss_by_hand() -> None:
    old, returns = torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([2.0, 2.0, 0.0, 1.05])
    new = torch.tensor([1.1, 1.5, 1.5, 0.0])
    near = [1.1, 1.2, 1.2, 0.8]
    expected = [
        0.5 * max((v - g) ** 2, (c - g) ** 2) for v, c, g in zip(new.tolist(), near, returns.tolist(), strict=True)
    ]
    assert expected == pytest.approx([0.405, 0.32, 1.125, 0.5 * 1.05**2])
    assert value_loss(new, old, returns, clip=0.2).tolist() == pytest.approx(expected)

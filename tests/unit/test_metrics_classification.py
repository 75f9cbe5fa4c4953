"""Label scores against scikit-learn, and the preference bias against the loop that defines it."""

from __future__ import annotations

import random

import numpy as np
import pytest

from heedful.errors import LabelError
from heedful.scoring import Rows, score
from heedful.scoring.metrics.classification import confusion, per_class_recall, preference_bias

LABELS = ("ask", "reflect", "advise", "other", "never")


def rows(n: int = 200) -> Rows:
    draw = random.Random(3)
    gold = draw.choices(LABELS[:4], weights=(4, 1, 3, 2), k=n)
    predicted = [g if draw.random() < 0.5 else draw.choice(LABELS[:3]) for g in gold]
    return Rows.of(gold=gold, predicted=predicted, labels=LABELS, clusters=[i // 10 for i in range(n)])


def test_equal_to_scikit_learn_over_all_labels() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    data = rows()
    table = score(data, metrics=["classification"], bootstrap=0)
    gold, predicted = list(data.gold), list(data.predicted)
    for name, average in (("macro_f1", "macro"), ("weighted_f1", "weighted")):
        expected = metrics.f1_score(gold, predicted, labels=LABELS, average=average, zero_division=0)
        assert table.value(name) == pytest.approx(100 * expected)
    assert table.value("accuracy") == pytest.approx(100 * metrics.accuracy_score(gold, predicted))
    assert table.line("accuracy").per_sample.mean() == pytest.approx(table.value("accuracy"))  # type: ignore[union-attr]
    np.testing.assert_array_equal(confusion(data), metrics.confusion_matrix(gold, predicted, labels=LABELS))
    recall = metrics.recall_score(gold, predicted, labels=LABELS, average=None, zero_division=0)
    assert [per_class_recall(data)[label] or 0.0 for label in LABELS] == pytest.approx(recall)
    assert per_class_recall(data)["never"] is None


def slow_bias(matrix: np.ndarray) -> float:
    k = len(matrix)
    p = np.ones(k)
    for _ in range(20):
        for i in range(k):
            above = sum(matrix[j, i] * p[j] / (p[i] + p[j]) for j in range(k))
            p[i] = above / sum(matrix[i, j] / (p[i] + p[j]) for j in range(k))
        p = p / p.mean()
    return float(p.std())


def test_preference_bias_equals_the_loop() -> None:
    matrices = np.random.default_rng(5).integers(1, 30, size=(4, 6, 6)).astype(float)
    np.testing.assert_allclose(preference_bias(matrices), [slow_bias(m) for m in matrices])


def test_preference_bias_of_a_fair_and_a_one_sided_model() -> None:
    fair = np.full((1, 4, 4), 5.0)
    one_sided = np.ones((1, 4, 4))
    one_sided[:, :, 0] = 50.0
    assert preference_bias(fair)[0] == pytest.approx(0.0, abs=1e-12)
    assert preference_bias(one_sided)[0] > 1.0
    with_absent = np.zeros((1, 5, 5))
    with_absent[:, :4, :4] = one_sided
    assert preference_bias(with_absent)[0] == pytest.approx(preference_bias(one_sided)[0])


def test_unparsed_predictions_are_unscored_and_stray_labels_refused() -> None:
    part = score(Rows.of(gold=["a", "b"], predicted=["a", None]), metrics=["accuracy"], bootstrap=0).line("accuracy")
    assert (part.value, part.n, part.reason) == (100.0, 1, "no predicted label")
    with pytest.raises(LabelError, match=r"not in the label set of 1: b"):
        score(Rows.of(gold=["a"], predicted=["b"], labels=["a"]), metrics=["accuracy"])

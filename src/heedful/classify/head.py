"""Heads: from the numbers of a turn to one logit per label.

- `logistic`: multinomial logistic regression, L-BFGS to convergence, the optimum of
  sum_i w(y_i) * -log p(y_i | x_i) + l2 / 2 * |W|^2 (scikit-learn's `LogisticRegression(C=1/l2)`), so no seed enters.
- `mlp`: one hidden layer of 256 ReLUs with dropout 0.3; AdamW, 12 epochs of batches of 128, rate 1e-3 falling to 0.

Fitting needs torch. A fitted head is plain arrays, and asking it needs numpy alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from heedful.classify.base import Arrays, Block, Floats, Ints, Lesson, Sparse, take, times, width_of
from heedful.errors import MissingExtraError, RunError

HeadKind = Literal["logistic", "mlp"]
HIDDEN, DROPOUT, EPOCHS, BATCH, RATE = 256, 0.3, 12, 128, 1e-3


def fit_head(kind: HeadKind, blocks: Sequence[Block], lesson: Lesson, *, l2: float) -> dict[str, Any]:
    """Arrays of a fitted head.

    Args:
        blocks: the numbers of the N turns, one block per kind of features.
        l2: strength of the penalty on weights (not on biases); of `mlp`, AdamW's weight decay is l2 / N.

    Raises:
        RunError: the loss is not a number.
        MissingExtraError: torch is not installed.
    """
    torch = _torch()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lesson.seed)
        return _logistic(blocks, lesson, l2) if kind == "logistic" else _mlp(blocks, lesson, l2)


def logits(blocks: Sequence[Block], arrays: Arrays) -> Floats:
    """(N, C) of a fitted head."""
    first = sum(
        (times(block, arrays[f"weight.{k}"].astype(np.float64)) for k, block in enumerate(blocks)),
        start=np.zeros((1, 1)),
    )
    found: Floats = first + arrays["bias"].astype(np.float64)
    if "out.weight" in arrays:
        hidden = np.maximum(found, 0.0)
        found = hidden @ arrays["out.weight"].astype(np.float64) + arrays["out.bias"].astype(np.float64)
    return found


def _torch() -> Any:
    try:
        import torch
    except ImportError as err:
        raise MissingExtraError("Fitting a scorer needs torch; run: pip install 'heedful[train]'") from err
    return torch


def _logistic(blocks: Sequence[Block], lesson: Lesson, l2: float) -> dict[str, Any]:
    torch = _torch()
    classes, n = len(lesson.weights), len(lesson.targets)
    pairs = [_matrix(block) for block in blocks]
    weights = [torch.zeros(width_of(block), classes, dtype=torch.float64) for block in blocks]
    bias = torch.zeros(classes, dtype=torch.float64)
    targets = torch.from_numpy(lesson.targets)
    row_weights = torch.from_numpy(lesson.weights)[targets][:, None]
    gold = torch.nn.functional.one_hot(targets, classes).double()
    optimiser = torch.optim.LBFGS(
        [*weights, bias], max_iter=300, history_size=10, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def loss_of() -> Any:
        scores = sum(rows @ w for (rows, _), w in zip(pairs, weights, strict=True)) + bias
        logs = torch.log_softmax(scores, dim=1)
        # A label that never occurs would send its bias to minus infinity; this holds it, and moves nothing else.
        penalty = l2 / 2 * sum((w * w).sum() for w in weights) + 1e-3 / 2 * (bias * bias).sum()
        # The gradient by hand: through a sparse matrix autograd takes several times as long.
        push = row_weights * (logs.exp() - gold)
        for (_, columns), w in zip(pairs, weights, strict=True):
            w.grad = (columns @ push + l2 * w) / n
        bias.grad = (push.sum(dim=0) + 1e-3 * bias) / n
        return (-(row_weights * gold * logs).sum() + penalty) / n

    optimiser.step(loss_of)  # returns the loss that it began with
    loss = float(loss_of())
    _refuse_nan(loss)
    lesson.log({"head_steps": int(optimiser.state[bias if not weights else weights[0]]["n_iter"]), "head_loss": loss})
    return _kept(weights, bias)


def _matrix(block: Block) -> tuple[Any, Any]:
    """The rows of a block (N, width) and their transpose, in double precision, for torch's matrix product."""
    torch = _torch()
    if not isinstance(block, Sparse):
        rows = torch.from_numpy(np.ascontiguousarray(block)).double()
        return rows, rows.T
    sizes = torch.from_numpy(block.start[1:] - block.start[:-1])
    at = torch.stack([torch.repeat_interleave(torch.arange(len(block)), sizes), torch.from_numpy(block.columns)])
    values = torch.from_numpy(block.values).double()
    found = torch.sparse_coo_tensor(at, values, (len(block), block.width), check_invariants=True).coalesce()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that this layout is in beta; its products are tested
        return found.to_sparse_csr(), found.t().coalesce().to_sparse_csr()


def _layer(block: Block) -> Callable[[Any], Any]:
    """weights (width, C) -> block times weights, as a function that torch can differentiate."""
    torch = _torch()
    if not isinstance(block, Sparse):
        rows = torch.from_numpy(np.ascontiguousarray(block))
        return lambda weights: rows @ weights
    columns, start = torch.from_numpy(block.columns), torch.from_numpy(block.start)
    values = torch.from_numpy(block.values)
    return lambda weights: torch.nn.functional.embedding_bag(
        columns, weights, start, per_sample_weights=values, mode="sum", include_last_offset=True
    )


def _mlp(blocks: Sequence[Block], lesson: Lesson, l2: float) -> dict[str, Any]:
    torch = _torch()
    classes, n = len(lesson.weights), len(lesson.targets)
    width = sum(width_of(b) for b in blocks)
    weights = [(torch.randn(width_of(b), HIDDEN) / math.sqrt(width)).requires_grad_() for b in blocks]
    bias = torch.zeros(HIDDEN, requires_grad=True)
    out = torch.nn.Linear(HIDDEN, classes)
    per_class = torch.from_numpy(lesson.weights).float()
    draw, steps = np.random.default_rng(lesson.seed), EPOCHS * math.ceil(n / BATCH)
    optimiser = torch.optim.AdamW([*weights, bias, *out.parameters()], lr=RATE, weight_decay=l2 / n)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    for epoch in range(EPOCHS):
        total = 0.0
        order = draw.permutation(n)
        for begin in range(0, n, BATCH):
            rows: Ints = order[begin : begin + BATCH]
            layers = [_layer(take(block, rows)) for block in blocks]
            hidden = torch.relu(sum(layer(w) for layer, w in zip(layers, weights, strict=True)) + bias)
            scores = out(torch.nn.functional.dropout(hidden, DROPOUT))
            targets = torch.from_numpy(lesson.targets[rows])
            loss = torch.nn.functional.cross_entropy(scores, targets, weight=per_class, reduction="sum") / len(rows)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        _refuse_nan(total)
        lesson.log({"head_epoch": epoch + 1, "head_loss": total / n})
    return {**_kept(weights, bias), **{f"out.{k}": v.astype(np.float32) for k, v in _linear(out).items()}}


def _linear(layer: Any) -> dict[str, Any]:
    return {"weight": layer.weight.detach().numpy().T.copy(), "bias": layer.bias.detach().numpy()}


def _kept(weights: Sequence[Any], bias: Any) -> dict[str, Any]:
    found = {f"weight.{k}": w.detach().numpy().astype(np.float32) for k, w in enumerate(weights)}
    return {**found, "bias": bias.detach().numpy().astype(np.float32)}


def _refuse_nan(loss: float) -> None:
    if not math.isfinite(loss):
        raise RunError("The loss of the head is not a number; nothing was saved. Look at the features, or raise l2.")

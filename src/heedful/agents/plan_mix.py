"""How much each predictor of a plan counts: weights of log-probabilities and one number per label, learnt once.

    log p(s) = own * log p_model(s) + sum_k w_k * log p_k(s) + bias_s + const

A logarithmic opinion pool (Genest and Zidek, Statistical Science 1986), whose biases take back what the members' own
class weights did, or lift rare labels on purpose. `method: mix` fits it on a part that no member was trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heedful.errors import ConfigError, NotFoundError
from heedful.models.plan import Floats

MIX, VERSION = "mix.json", 1


@dataclass(frozen=True, kw_only=True)
class PlanMix:
    """A fitted mix of K labels.

    Args:
        own: weight of the language model itself.
        scorers: fingerprints of the other members; weights: theirs.
        bias: (K,) added to the log-probabilities.
        model: `weights_digest` of the model that it was fitted with.
        dataset, split: what it was fitted on.
    """

    label_set: str
    labels: tuple[str, ...]
    own: float
    scorers: tuple[str, ...]
    weights: tuple[float, ...]
    bias: tuple[float, ...]
    model: str = ""
    dataset: str = ""
    split: str = ""

    def scores(self, found: Floats) -> Floats:
        """What is added to the model's weighted log-probabilities: (scorers, N, K) -> (N, K)."""
        scores: Floats = np.tensordot(np.array(self.weights), found, axes=1) + np.array(self.bias)
        return scores

    def check(
        self, label_set: str, labels: tuple[str, ...], scorers: tuple[str, ...], *, model: str, where: str
    ) -> None:
        """Raises:
        ConfigError: it was fitted for other labels, other scorers or another model.
        """
        if (label_set, labels) != (self.label_set, self.labels):
            raise ConfigError(
                f"The mix in '{where}' is of '{self.label_set}' ({len(self.labels)} labels), but the plan is one of "
                f"'{label_set}' ({len(labels)} labels); fit it again: method: mix."
            )
        if scorers != self.scorers:
            raise ConfigError(
                f"The mix in '{where}' was fitted with other scorers than the ones that lie there now; fit it again."
            )
        if weights_digest(model) != self.model:
            raise ConfigError(
                f"The mix in '{where}' was fitted with another model than '{model}', so its weights mean nothing here; "
                "fit one with method: mix and this model."
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "label_set": self.label_set, "labels": list(self.labels), "own": self.own, "scorers": list(self.scorers),
            "weights": list(self.weights), "bias": list(self.bias), "model": self.model, "dataset": self.dataset,
            "split": self.split,
        }  # fmt: skip


def weights_digest(model: str) -> str:
    """Sixteen hex digits over the weights that lie in a run or folder; a mere name stands for itself.

    Unlike a model's fingerprint it does not depend on the precision that the weights are opened in.
    """
    folder = Path(model).expanduser()
    files = [f for name in ("adapter_model*", "model*.safetensors", "graph.safetensors") for f in folder.glob(name)]
    digest = hashlib.sha256()
    for path in sorted(files):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16] if files else model


def load_mix(folder: str) -> tuple[PlanMix, tuple[str, ...]]:
    """A mix and the folders of its scorers.

    Raises:
        NotFoundError: there is no mix.
        ConfigError: it is broken, or another version's.
    """
    path = Path(folder).expanduser() / MIX
    if not path.is_file():
        raise NotFoundError(f"There is no mix in '{folder}' ({MIX}); make one with method: mix.")
    try:
        found: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
        if found["version"] != VERSION:
            raise ConfigError(f"{path} has version {found['version']}, and this heedful reads version {VERSION}.")
        mix = PlanMix(
            label_set=found["label_set"], labels=tuple(found["labels"]), own=float(found["own"]),
            scorers=tuple(found["scorers"]), weights=tuple(map(float, found["weights"])),
            bias=tuple(map(float, found["bias"])), model=found["model"], dataset=found["dataset"], split=found["split"],
        )  # fmt: skip
        return mix, tuple(found["ask"])
    except (ValueError, TypeError, KeyError) as err:
        raise ConfigError(f"{path} is broken; fit it again with method: mix.") from err

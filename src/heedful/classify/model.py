"""LabelModel: a scorer that `heedful train` (method: scorer) has made, opened from its folder without pickle.

`scorer.json` says what it is; `scorer.npz` holds its numbers; a tuned encoder stands beside them in `encoder/`. The
fingerprint covers all of them and is checked when a scorer is opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from heedful.classify.base import Arrays, Features, FeatureSettings, Floats, Item
from heedful.classify.calibration import softmax
from heedful.classify.features import make, parts_of
from heedful.classify.head import logits as head_logits
from heedful.classify.state import next_item
from heedful.errors import ConfigError, DataError, NotFoundError
from heedful.models.causal import SCORER_FILE
from heedful.types import Conversation, Role

VALUES, NUMBERS = SCORER_FILE, "scorer.npz"
VERSION = 1
_BATCH = 512
_MOST_REMEMBERED = 500_000


@dataclass(kw_only=True)
class LabelModel:
    """Probabilities of the labels of one set for any text.

    Args:
        name: what results are labelled with.
        label_set: name of the label set.
        labels: all C labels of the set, in its order; those that never occurred in training get next to nothing.
        record: what it was trained on and how (`dataset`, `train_split`, `seed`, `features`, `context`, ...).
        temperature: logits are divided by it before they become probabilities; 1 = not calibrated.
        fingerprint: 16 hex digits over everything that decides its answers.
    """

    name: str
    label_set: str
    labels: tuple[str, ...]
    record: Mapping[str, Any]
    settings: FeatureSettings = field(repr=False)
    features: Sequence[tuple[str, Features]] = field(repr=False)
    head: Arrays = field(repr=False)
    temperature: float = 1.0
    fingerprint: str = ""
    _seen: dict[Item, Floats] = field(default_factory=dict, repr=False)

    def logits(
        self,
        texts: Sequence[str],
        contexts: Sequence[Sequence[str]] | None = None,
        *,
        roles: Sequence[Role] | None = None,
    ) -> Floats:
        """Raw scores (N, C), before the temperature; each distinct turn is computed once.

        Args:
            texts: the turns to be judged.
            contexts: texts of the turns before each, oldest first; the last `record["context"]` of them are looked at.
            roles: who speaks, for a scorer with `speaker: true`; supporters if not given.

        Raises:
            ConfigError: lists of unequal length, the scorer needs contexts and got none, or it predicts the next turn.
        """
        if self.predicts_next:
            raise ConfigError(
                f"The scorer {self.name} predicts the label of a reply that is not written yet; it judges no reply. "
                "Train one with target: this."
            )
        return self.logits_of(self._items(texts, contexts, roles))

    @property
    def predicts_next(self) -> bool:
        """Whether it reads a conversation that ends before the turn whose label it names (`target: next`)."""
        return self.record.get("target") == "next"

    def next_probabilities(self, contexts: Sequence[Conversation]) -> Floats:
        """Calibrated probabilities (N, C) of the label of the reply that follows each conversation.

        Raises:
            ConfigError: the scorer judges turns that are there (`target: this`).
        """
        if not self.predicts_next:
            raise ConfigError(f"The scorer {self.name} judges replies and predicts none; train one with target: next.")
        reach = self.settings.context
        items = [next_item(context, self.label_set, reach=reach) for context in contexts]
        return softmax(self.logits_of(items), self.temperature)

    def logits_of(self, items: Sequence[Item]) -> Floats:
        """Raw scores (N, C) of turns in the form that features read."""
        new = list(dict.fromkeys(item for item in items if item not in self._seen))
        if len(self._seen) + len(new) > _MOST_REMEMBERED:
            self._seen.clear()
            new = list(dict.fromkeys(items))
        for begin in range(0, len(new), _BATCH):
            part = new[begin : begin + _BATCH]
            found = head_logits([features.block(part) for _, features in self.features], self.head)
            self._seen.update(zip(part, found, strict=True))
        if not items:
            return np.zeros((0, len(self.labels)))
        return np.stack([self._seen[item] for item in items])

    def probabilities(
        self,
        texts: Sequence[str],
        contexts: Sequence[Sequence[str]] | None = None,
        *,
        roles: Sequence[Role] | None = None,
    ) -> Floats:
        """Calibrated probabilities (N, C); rows sum to 1. Arguments and errors as of `logits`."""
        return softmax(self.logits(texts, contexts, roles=roles), self.temperature)

    def predict(
        self,
        texts: Sequence[str],
        contexts: Sequence[Sequence[str]] | None = None,
        *,
        roles: Sequence[Role] | None = None,
    ) -> list[str]:
        """The most probable label of each turn. Arguments and errors as of `logits`."""
        return [self.labels[k] for k in self.logits(texts, contexts, roles=roles).argmax(axis=1)]

    def forget(self) -> None:
        """Drop the turns that were asked about: where they are people's words, they are not kept in memory."""
        self._seen.clear()

    def save(self, folder: Path) -> None:
        """Write the scorer into `folder` and set its fingerprint. Only the owner may read its numbers."""
        values, kept = save_features(self.features, folder)
        kept |= {f"head.{key}": value for key, value in self.head.items()}
        with open(folder / NUMBERS, "wb", opener=private) as file:
            np.savez(file, allow_pickle=False, **kept)
        described = {
            "version": VERSION,
            "name": self.name,
            "label_set": self.label_set,
            "labels": list(self.labels),
            "temperature": self.temperature,
            "settings": {"context": self.settings.context, "speaker": self.settings.speaker},
            "features": values,
            "record": dict(self.record),
        }
        self.fingerprint = fingerprint_of(folder, described, kept)
        text = json.dumps({**described, "fingerprint": self.fingerprint}, indent=2, ensure_ascii=False)
        (folder / VALUES).write_text(text + "\n", "utf-8")

    def _items(
        self, texts: Sequence[str], contexts: Sequence[Sequence[str]] | None, roles: Sequence[Role] | None
    ) -> list[Item]:
        reach = self.settings.context
        if reach and contexts is None:
            raise ConfigError(
                f"The scorer {self.name} looks at {reach} turns before the one it judges; give contexts, or train one "
                "with context: 0."
            )
        before = contexts if reach and contexts is not None else [()] * len(texts)
        speakers: Sequence[Role] = roles if roles is not None and self.settings.speaker else ["assistant"] * len(texts)
        if not len(texts) == len(before) == len(speakers):
            raise ConfigError(
                f"texts, contexts and roles must be equally long, but they have {len(texts)}, {len(before)} and "
                f"{len(speakers)} entries."
            )
        return [
            Item(text=text, context=tuple(turns[-reach:]) if reach else (), role=role)
            for text, turns, role in zip(texts, before, speakers, strict=True)
        ]


def load(path: str | os.PathLike[str]) -> LabelModel:
    """Open a scorer; one per folder and process, so that its memory of texts is shared.

    Raises:
        NotFoundError: no such folder, or none that holds a scorer.
        DataError: its files are damaged or do not belong together.
        MissingExtraError: its features need libraries that are not installed.
    """
    folder = Path(path).expanduser().resolve()
    if not (folder / VALUES).is_file():
        what = "holds no scorer" if folder.is_dir() else "is no folder"
        raise NotFoundError(
            f"'{path}' {what}; train one with: heedful train method=scorer dataset=... label_set=... output_dir={path}"
        )
    # A scorer that was trained anew into the same folder is another one.
    return _load(folder, (folder / VALUES).stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _load(folder: Path, written: int) -> LabelModel:
    try:
        described = json.loads((folder / VALUES).read_text("utf-8"))
        if described["version"] != VERSION:
            raise DataError(
                f"The scorer {folder} has version {described['version']}, and this heedful reads version {VERSION}; "
                "train it again."
            )
        kept = numbers_of(folder / NUMBERS)
        fingerprint = described.pop("fingerprint")
        settings = FeatureSettings(**described["settings"])
        parts = restore_features(described["features"], kept, folder, settings)
        model = LabelModel(
            name=described["name"],
            label_set=described["label_set"],
            labels=tuple(described["labels"]),
            record=described["record"],
            settings=settings,
            features=parts,
            head=under(kept, "head."),
            temperature=float(described["temperature"]),
            fingerprint=fingerprint,
        )
    except (KeyError, TypeError, ValueError, OSError, zipfile.BadZipFile) as err:
        if isinstance(err, DataError | NotFoundError | ConfigError):
            raise
        raise DataError(f"The scorer {folder} cannot be read ({type(err).__name__}); train it again.") from err
    if fingerprint_of(folder, described, kept) != fingerprint:
        raise DataError(
            f"The files of the scorer {folder} do not belong together: its fingerprint is another one. Copy the whole "
            "folder again, or train it again."
        )
    return model


def same_family(a: LabelModel, b: LabelModel) -> str | None:
    """Why `b` is no independent judge of what `a` rewarded, or None if it is.

    Two scorers are independent when they share neither a kind of features nor the seed. The tuned encoder counts as
    `minilm`: it starts from the same weights. Data may be the same; labels are scarce.
    """
    if a.fingerprint == b.fingerprint:
        return "they are the same scorer"
    both = _kinds(a) & _kinds(b)
    if both:
        return f"both use the features {', '.join(sorted(both))}"
    if a.record.get("seed") == b.record.get("seed"):
        return f"both were trained with seed {a.record.get('seed')}"
    return None


def _kinds(model: LabelModel) -> set[str]:
    return {name.removesuffix("_tuned").removesuffix("_turns") for name in parts_of(str(model.record["features"]))}


def save_features(parts: Sequence[tuple[str, Features]], folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What describes fitted features, and their arrays by names that `restore_features` knows again."""
    values, kept = list[dict[str, Any]](), dict[str, Any]()
    for at, (name, features) in enumerate(parts):
        own, arrays = features.save(folder)
        values.append({"name": name, **own})
        kept.update({f"features.{at}.{key}": value for key, value in arrays.items()})
    return values, kept


def restore_features(
    described: Sequence[Mapping[str, Any]], kept: Mapping[str, Any], folder: Path, settings: FeatureSettings
) -> list[tuple[str, Features]]:
    """Undo `save_features`."""
    parts = make("+".join(values["name"] for values in described), settings)
    for at, ((_, features), values) in enumerate(zip(parts, described, strict=True)):
        features.restore(folder, values, under(kept, f"features.{at}."))
    return parts


def numbers_of(path: Path) -> dict[str, Any]:
    """The arrays of an `.npz` file, read without pickle."""
    with path.open("rb") as packed, np.load(packed, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def under(kept: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in kept.items() if key.startswith(prefix)}


def fingerprint_of(folder: Path, described: Mapping[str, Any], kept: Mapping[str, Any]) -> str:
    """Over labels, settings and every number; not over name and record, which decide nothing."""
    deciding = {key: value for key, value in described.items() if key not in ("name", "record")}
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode("utf-8"))
    for key in sorted(kept):
        digest.update(f"{key} {kept[key].dtype} {kept[key].shape}".encode())
        digest.update(np.ascontiguousarray(kept[key]).tobytes())
    for path in sorted(folder.glob("encoder/*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def private(path: str, flags: int) -> int:
    """Opener of a new file that only its owner may read."""
    return os.open(path, flags, 0o600)

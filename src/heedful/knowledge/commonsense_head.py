"""`atomic-head`: a language model that was tuned on ATOMIC (`head_pairs`) writes the tails itself.

An utterance and a relation's name go in, "I cannot sleep [xReact]"; the tail comes out greedily, at most 12 tokens, cut
at the first full stop (glhg.md, provider b). One run answers all relations. What the screen stops is no answer.

For a corpus, answers are kept on disk under a hash of the run: training, evaluation and studies ask for the same
turns. The file holds hashes of utterances and the tails, and only its owner can read it. A talk leaves no trace there.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from heedful import formats
from heedful.errors import ConfigError, DataError, NotFoundError
from heedful.formats import Format
from heedful.knowledge.commonsense import NONE, Found, Inferred, check_relations
from heedful.knowledge.commonsense_atomic import KEPT, control
from heedful.models.causal import CausalModel, load
from heedful.models.decoding import Decoding
from heedful.models.embedded import cache_dir
from heedful.models.generate import Generated, generate, prompt_only
from heedful.models.talk import unwritable
from heedful.safety import load_screen
from heedful.settings import read_yaml
from heedful.types import Conversation, Turn

MOST_TOKENS = 12
MOST_WORDS = 96
"""Words of an utterance that are read, the last ones; ATOMIC's own events have fewer than twenty."""
CHUNK = 512
_WEIGHTS = ("adapter_model.safetensors", "model.safetensors")
_Key = tuple[str, str]
_Tail = tuple[str, float]


@dataclass(frozen=True, kw_only=True)
class AtomicHead:
    """Tails written by a tuned model. Options:
    run: folder of the run (`heedful train` on `head_pairs`).
    """

    run: str
    _known: dict[_Key, _Tail] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.run, str) or not self.run:
            raise ConfigError("atomic-head needs the folder of a run: run: runs/atomic-head.")

    @cached_property
    def fingerprint(self) -> str:
        """Of the run's weights and settings."""
        folder = self._folder
        digest = hashlib.sha256((folder / "config.resolved.yaml").read_bytes())
        weights = [folder / name for name in _WEIGHTS if (folder / name).is_file()]
        for path in [*weights, *sorted(folder.glob("model-*.safetensors"))]:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return f"atomic-head/v1#{digest.hexdigest()[:16]},{load_screen().hash}"

    def check(self, conversations: Sequence[Conversation]) -> None:
        """It refuses nothing."""

    def infer(self, utterances: Sequence[str], relations: Sequence[str]) -> list[Inferred]:
        """As `Commonsense.infer`; `score` is the mean probability of the tokens of a tail.

        Raises:
            NotFoundError: the run is not there.
            ConfigError: it is none of heedful.
        """
        relations = check_relations(relations)
        wanted = list(dict.fromkeys((utterance, relation) for utterance in utterances for relation in relations))
        kept = _Tails(self.fingerprint) if len(set(utterances)) >= KEPT else None
        if kept is not None:
            self._known.update(kept.read(wanted))
        missing = [key for key in wanted if key not in self._known]
        for begin in range(0, len(missing), CHUNK):
            made = self._written(missing[begin : begin + CHUNK])
            self._known.update(made)
            if kept is not None:
                kept.add(made)
        screen = load_screen()

        def found(key: _Key) -> Found | None:
            text, score = self._known[key]
            return None if text in ("", NONE) or screen.why(text) else Found(text=text, score=score)

        answers = [{relation: found((utterance, relation)) for relation in relations} for utterance in utterances]
        return [{r: a for r, a in answer.items() if a is not None} for answer in answers]

    @property
    def _folder(self) -> Path:
        folder = Path(self.run).expanduser()
        if not (folder / "config.resolved.yaml").is_file():
            what = "is no run of heedful" if folder.is_dir() else "is no folder"
            raise NotFoundError(
                f"atomic-head: '{self.run}' {what}; tune one with `heedful train` on the pairs of "
                "heedful.knowledge.commonsense_atomic.head_pairs."
            )
        return folder

    def _written(self, keys: Sequence[_Key]) -> dict[_Key, _Tail]:
        causal, fmt, limit = _loaded(str(self._folder.resolve()), self.fingerprint)
        # The prompts of an utterance begin alike, so they are read as one tree.
        talks = {utterance: str(i) for i, utterance in enumerate(dict.fromkeys(utterance for utterance, _ in keys))}
        samples = [
            prompt_only(str(i), talks[utterance], 1, _prompt(causal, fmt, limit, utterance, relation))
            for i, (utterance, relation) in enumerate(keys)
        ]
        banned = unwritable(fmt, causal.tokenizer)
        batches = generate(causal, samples, Decoding(max_new_tokens=MOST_TOKENS), banned=banned)
        return {keys[int(made.id)]: _tail(made, causal, fmt) for batch in batches for made in batch}


@lru_cache(maxsize=1)
def _loaded(folder: str, fingerprint: str) -> tuple[CausalModel, Format, int]:
    run = read_yaml(Path(folder) / "config.resolved.yaml")
    if run.get("method", "sft") != "sft":
        raise ConfigError(f"atomic-head needs a run of method: sft, but '{folder}' is one of method: {run['method']}.")
    return load(folder), formats.make(run.get("format") or "chat"), int(run.get("max_length") or 1024)


def _prompt(causal: CausalModel, fmt: Format, limit: int, utterance: str, relation: str) -> tuple[int, ...]:
    words = utterance.split()[-MOST_WORDS:]
    while True:
        turn = Turn(role="user", text=control(" ".join(words), relation))
        try:
            return fmt.inference(
                Conversation(id="head", turns=(turn,)), causal.tokenizer, max_length=limit, new_tokens=MOST_TOKENS
            )
        except DataError:
            if not words:
                raise
            words = words[len(words) // 2 + 1 :]  # a max_length for ATOMIC's short events: the end of it is read


def _tail(made: Generated, causal: CausalModel, fmt: Format) -> _Tail:
    text = fmt.parse(causal.tokenizer.decode(made.written.tokens, skip_special_tokens=False), causal.tokenizer).text
    logs = made.written.logprobs
    sure = sum(math.exp(value) for value in logs) / len(logs) if logs else 0.0
    return " ".join(text.split(".", 1)[0].split()).lower(), round(sure, 4)


class _Tails:
    """Answers on disk, a line each: hash of utterance and relation, tail, score. A torn line counts as not there."""

    def __init__(self, fingerprint: str) -> None:
        name = hashlib.sha256(fingerprint.encode()).hexdigest()[:16]
        self.path = cache_dir() / "commonsense" / f"head-{name}.jsonl"

    def read(self, keys: Sequence[_Key]) -> dict[_Key, _Tail]:
        wanted = {_hash(key): key for key in keys}
        return {wanted[line["key"]]: (line["tail"], line["score"]) for line in self._lines() if line["key"] in wanted}

    def add(self, made: Mapping[_Key, _Tail]) -> None:
        lines = [json.dumps({"key": _hash(key), "tail": t, "score": s}) for key, (t, s) in made.items()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A new line first: what stands before it may have been cut by a full disk.
            with open(self.path, "a", encoding="utf-8", opener=_private) as file:
                file.write("\n" + "\n".join(lines) + "\n")
        except OSError:
            return  # a cache that cannot be written is none

    def _lines(self) -> Iterator[dict[str, Any]]:
        try:
            text = self.path.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return
        for line in filter(None, text.splitlines()):
            try:
                found = json.loads(line)
                yield {"key": str(found["key"]), "tail": str(found["tail"]), "score": float(found["score"])}
            except (ValueError, KeyError, TypeError):
                continue


def _hash(key: _Key) -> str:
    return hashlib.blake2b("\x1f".join(key).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _private(path: str, flags: int) -> int:
    """Opener of a file that only its owner may read."""
    return os.open(path, flags, 0o600)

"""The commonsense strings that KEMI's authors released: a real COMET's answers on ESConv valid and test.

Needs `kemi/esconv_sbert/{valid,test}.jsonl` under `$HEEDFUL_DATA` or `$HEEDFUL_HOME/corpora`. There are none for the
training part, so no model can be trained on them, and a model that learnt from another provider's strings must not be
evaluated on these. They serve to score other providers, and as they stand for a look at what the authors' model read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from heedful.corpora.base import find_file, read_bytes, roots
from heedful.corpora.jsonl import read_objects
from heedful.errors import DataError, NotFoundError
from heedful.knowledge.commonsense import NONE, RELATIONS, Found, Inferred, check_relations
from heedful.safety import load_screen
from heedful.types import Conversation

Part = Literal["valid", "test"]
_PARTS: tuple[Part, ...] = ("valid", "test")
_STRING = re.compile(r"\s*".join(rf"\[{relation}\](.*?)" for relation in RELATIONS), re.DOTALL)
_ROLES = {"usr": "user", "sys": "assistant"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One turn of a seeker in the release.

    Args:
        id: `test/3/5` is turn 5 of dialogue 3 of the test part, both from 0.
        tails: relation -> text as released, "none" included.
    """

    id: str
    utterance: str = field(repr=False)
    tails: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Released:
    """One part: its turns, and the beginnings of its dialogues as hashes."""

    turns: tuple[Said, ...] = field(repr=False)
    beginnings: frozenset[bytes] = field(repr=False)
    hash: str


def released(part: Part) -> Released:
    """What was released for one part of ESConv; read once per process.

    Raises:
        NotFoundError: the file is not there.
        DataError: it is not the released one.
    """
    for root in roots():
        path = find_file(root / "kemi", f"esconv_sbert/{part}.jsonl")
        if path is not None:
            return _read(path, path.stat().st_mtime_ns, part)
    raise NotFoundError(
        f"The file kemi/esconv_sbert/{part}.jsonl (or .gz) is not here; put it under {roots()[-1]}, or set "
        "HEEDFUL_DATA to the folder above 'kemi'."
    )


@lru_cache(maxsize=4)
def _read(path: Path, written: int, part: Part) -> Released:
    turns: list[Said] = []
    beginnings: set[bytes] = set()
    for i, (line, record) in enumerate(read_objects(path)):
        where = f"{path}, line {line}"
        chain = b""
        try:
            for k, turn in enumerate(record["dialog"]):
                chain = _link(chain, _ROLES[turn["speaker"]], turn["text"])
                beginnings.add(chain)
                if turn["speaker"] == "usr":
                    tails = _parsed(turn["knowledge"], where)
                    turns.append(Said(id=f"{part}/{i}/{k}", utterance=turn["text"].strip(), tails=tails))
        except (KeyError, TypeError, AttributeError):
            raise DataError(f"{where}: not a dialogue of KEMI's release; a field is missing. Get it again.") from None
    digest = hashlib.sha256(read_bytes(path)).hexdigest()[:16]
    return Released(turns=tuple(turns), beginnings=frozenset(beginnings), hash=digest)


def _parsed(knowledge: str, where: str) -> dict[str, str]:
    found = _STRING.fullmatch(knowledge.strip())
    if found is None:
        raise DataError(f"{where}: 'knowledge' must be '[xReact] ... [xEffect] ...' in the order {RELATIONS}.")
    return {relation: tail.strip() or NONE for relation, tail in zip(RELATIONS, found.groups(), strict=True)}


def _link(chain: bytes, role: str, text: str) -> bytes:
    return hashlib.blake2b(chain + f"{role}\x1f{text.strip()}".encode(), digest_size=16).digest()


@dataclass(frozen=True, kw_only=True)
class Precomputed:
    """The released strings, for the conversations that they were made for and no others. It has no options."""

    @property
    def fingerprint(self) -> str:
        """Of the files, and of the rules of the screen."""
        return f"precomputed/v1#{'+'.join(released(part).hash for part in _PARTS)},{load_screen().hash}"

    def check(self, conversations: Sequence[Conversation]) -> None:
        """Refuse all but beginnings of the 390 dialogues.

        Raises:
            DataError: another conversation is among them.
        """
        known = frozenset().union(*(released(part).beginnings for part in _PARTS))
        strange = 0
        for conv in conversations:
            chain = b""
            for turn in conv.turns:
                chain = _link(chain, turn.role, turn.text)
            strange += bool(conv.turns) and chain not in known
        if strange:
            raise _unknown(f"{strange:,} of {len(conversations):,} conversations are others")

    def infer(self, utterances: Sequence[str], relations: Sequence[str]) -> list[Inferred]:
        """As `Commonsense.infer`; equal utterances have equal strings in the release.

        Raises:
            DataError: an utterance that is not in it.
        """
        relations, known = check_relations(relations), _by_utterance(tuple(released(part).hash for part in _PARTS))
        strange = sum(utterance.strip() not in known for utterance in utterances)
        if strange:
            raise _unknown(f"{strange:,} of {len(utterances):,} turns are not in it")
        screen = load_screen()
        return [
            {
                relation: Found(text=said.tails[relation], id=said.id)
                for relation in relations
                if said.tails[relation].lower() != NONE and screen.why(said.tails[relation]) is None
            }
            for said in (known[utterance.strip()] for utterance in utterances)
        ]


@lru_cache(maxsize=1)
def _by_utterance(hashes: tuple[str, ...]) -> Mapping[str, Said]:
    found: dict[str, Said] = {}
    for part in _PARTS:
        for said in released(part).turns:
            found.setdefault(said.utterance, said)
    return found


def _unknown(what: str) -> DataError:
    return DataError(
        f"The commonsense provider 'precomputed' knows KEMI's release for ESConv valid and test alone, but {what}; "
        "take atomic-retrieval, atomic-head or none, and the same one for training and evaluation."
    )

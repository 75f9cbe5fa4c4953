"""Score commonsense providers against a real COMET's strings and on held-out ATOMIC events (docs/initiative.md).

    python scripts/score_commonsense.py                                    atomic-retrieval and none, on test
    python scripts/score_commonsense.py --part valid --run runs/atomic-head   the tuned model too
    python scripts/score_commonsense.py --pairs atomic-head.jsonl          write the pairs that atomic-head is tuned on

Prints a table in Markdown: exact match beside the floor, the share of "none" beside the expected one. No turn of a
conversation is printed; the floor's constant is COMET's or ATOMIC's own commonest answer. Needs `kemi` and `atomic`
under HEEDFUL_DATA.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

from heedful import corpora
from heedful.errors import HeedfulError
from heedful.knowledge.commonsense import Commonsense, make
from heedful.knowledge.commonsense_atomic import head_pairs
from heedful.knowledge.commonsense_scores import RelationScore, against_atomic, against_released


def main(words: Sequence[str] | None = None) -> None:
    """Parse, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("valid", "test"), default="test", help="of ESConv")
    parser.add_argument("--split", choices=("tst", "dev", "both"), default="tst", help="of ATOMIC, for retrieval")
    parser.add_argument("--floor", type=float, default=0.5, help="least cosine, for retrieval")
    parser.add_argument("--run", help="folder of a tuned atomic-head")
    parser.add_argument("--most", type=int, help="look at the first so many turns and events only")
    parser.add_argument("--pairs", help="write the training pairs of atomic-head here (.jsonl or .jsonl.gz) and stop")
    options = parser.parse_args(words)
    try:
        if options.pairs:
            print(f"{corpora.write_jsonl(options.pairs, head_pairs()):,} pairs in {options.pairs}")
            return
        providers: dict[str, Commonsense] = {
            "none": make("none"),
            f"atomic-retrieval, {options.split}, {options.floor:g}": make(
                "atomic-retrieval", split=options.split, floor=options.floor
            ),
        }
        if options.run:
            providers["atomic-head"] = make("atomic-head", run=options.run)
        for name, provider in providers.items():
            print(f"\n{name} against COMET's strings on ESConv {options.part}\n")
            table(against_released(provider, options.part, most=options.most))
            if options.split == "tst" or not name.startswith("atomic-retrieval"):
                print(f"\n{name} on held-out events of ATOMIC\n")
                table(against_atomic(provider, most=options.most))
    except HeedfulError as err:
        sys.exit(str(err))


def table(scores: Sequence[RelationScore]) -> None:
    """One row for each relation, in per cent."""
    print("| relation | n | exact | floor | constant | none | expected none | exact where answered |")
    print("|---|---|---|---|---|---|---|---|")
    for s in scores:
        answered = "-" if s.exact_answered is None else f"{100 * s.exact_answered:.1f} (n {s.answered:,})"
        print(
            f"| {s.relation} | {s.n:,} | {100 * s.exact:.1f} | {100 * s.floor:.1f} | {s.constant} | "
            f"{100 * s.none:.1f} | {100 * s.expected_none:.1f} | {answered} |"
        )


if __name__ == "__main__":
    main()

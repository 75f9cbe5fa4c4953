"""heedful's suite against rouge-score, sacrebleu, NLTK and bert-score, called one after the other as they document it.

    python scripts/bench_metrics.py --file $HEEDFUL_DATA/glhg_generations/generation-glhg.json.gz
    python scripts/bench_metrics.py                       # 2,801 invented pairs, where the file is not at hand
    python scripts/bench_metrics.py --no-bert             # what needs no network only

One thread count, the same texts, a fresh process for each side; libraries are imported first, and loading WordNet and
the encoder counts on both sides. Values are compared per metric; a difference above the tolerance ends with exit code
1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import bert_score
import sacrebleu
import torch
from nltk.tokenize import NLTKWordTokenizer
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu
from nltk.translate.meteor_score import meteor_score
from rouge_score import rouge_scorer

from heedful.models.encoder import embedded_path
from heedful.scoring import Rows, score
from heedful.scoring.files import read
from heedful.scoring.text import sentences
from heedful.scoring.wordnet import find

WORDS = (
    "i you we feel felt hear sorry that this must be is was very hard tired sad alone work family friend sleep talk "
    "about it the a and but so when what would help today week try maybe slowly breathing walking because really sounds"
)
Values = dict[str, float]


def invented(n: int) -> Rows:
    """Pairs of random sentences of about the length of ESConv's replies."""
    draw = random.Random(13)
    words = WORDS.split()

    def text() -> str:
        parts = [" ".join(draw.choices(words, k=draw.randint(3, 12))) for _ in range(draw.randint(1, 3))]
        return " ".join(part.capitalize() + draw.choice(".?!") for part in parts)

    return Rows.of([text() for _ in range(n)], [text() for _ in range(n)])


def rouge(hypotheses: list[str], references: list[str]) -> Values:
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    scores = [scorer.score(r, h) for h, r in zip(hypotheses, references, strict=True)]
    return {name: 100 * sum(s[name].fmeasure for s in scores) / len(scores) for name in scorer.rouge_types}


def bleu(hypotheses: list[str], references: list[str]) -> Values:
    return {"sacrebleu": sacrebleu.corpus_bleu(hypotheses, [references]).score}


def nltk(hypotheses: list[str], references: list[str], *, meteor: bool) -> Values:
    tokenizer = NLTKWordTokenizer()

    def tokens(text: str) -> list[str]:
        return [token for sentence in sentences(text.lower()) for token in tokenizer.tokenize(sentence)]

    hyp, ref = [tokens(text) for text in hypotheses], [tokens(text) for text in references]
    weights = [tuple(1 / k for _ in range(k)) for k in (1, 2, 3, 4)]
    smoothing = SmoothingFunction().method3
    bleus = corpus_bleu([[r] for r in ref], hyp, weights=weights, smoothing_function=smoothing)
    values = {f"bleu{k}": 100 * value for k, value in enumerate(bleus, 1)}
    if meteor:
        values["meteor"] = 100 * sum(meteor_score([r], h) for h, r in zip(hyp, ref, strict=True)) / len(hyp)
    return values


def bert(hypotheses: list[str], references: list[str]) -> Values:
    path = str(embedded_path("minilm"))
    _, _, f1 = bert_score.score(hypotheses, references, model_type=path, num_layers=6)
    return {"bertscore": 100 * float(f1.double().mean())}


def timed(run: Callable[[], Values]) -> tuple[Values, float]:
    """What `run` gives, and its seconds."""
    start = time.perf_counter()
    values = run()
    return values, time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description="heedful's suite against four libraries.")
    parser.add_argument("--file", type=Path, help="references and generations; without it, invented pairs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, default=2801)
    parser.add_argument("--no-bert", action="store_true", help="leave BERTScore out on both sides")
    parser.add_argument("--bf16", action="store_true", help="heedful's BERTScore in bfloat16 (values then differ)")
    parser.add_argument("--side", choices=["peers", "heedful"], help=argparse.SUPPRESS)
    parser.add_argument("--metrics", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = read(options.file)[0] if options.file else invented(options.limit)
    rows = rows.take(range(min(options.limit, len(rows))))
    texts = rows.texts("hypothesis"), rows.texts("reference")
    has_wordnet = find() is not None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {options.threads} threads"
    if options.side:
        print(
            json.dumps(peers(texts, options, meteor=has_wordnet) if options.side == "peers" else ours(texts, options))
        )
        return 0
    print(f"{len(rows)} pairs ({options.file or 'invented'}), {device}, WordNet {'here' if has_wordnet else 'ABSENT'}")
    if not has_wordnet:
        print("  METEOR is left out on both sides: run `make words` (needs Debian's wordnet-base)")
    theirs = in_own_process("peers")
    for name, seconds in theirs["seconds"].items():
        print(f"  {name:12} {seconds:8.2f} s")
    metrics = list(theirs["values"])
    mine = in_own_process("heedful", "--metrics", ",".join(metrics))
    total, seconds = sum(theirs["seconds"].values()), mine["seconds"]["heedful"]
    print(f"  one after the other {total:.2f} s, heedful {seconds:.2f} s: {total / seconds:.2f} times as fast")
    if "bert-score" in theirs["seconds"]:
        # Both sides spend this part in the same matrix products, so it hides what the rest is worth.
        others = [name for name in metrics if name != "bertscore"]
        total -= theirs["seconds"]["bert-score"]
        seconds = in_own_process("heedful", "--metrics", ",".join(others))["seconds"]["heedful"]
        print(f"  without BERTScore {total:.2f} s, heedful {seconds:.2f} s: {total / seconds:.2f} times as fast")
    return compared(theirs["values"], mine["values"])


def peers(texts: tuple[list[str], list[str]], options: argparse.Namespace, *, meteor: bool) -> dict[str, Values]:
    """Values and seconds of the libraries, one after the other."""
    steps: dict[str, Callable[[], Values]] = {
        "rouge-score": lambda: rouge(*texts),
        "sacrebleu": lambda: bleu(*texts),
        "NLTK": lambda: nltk(*texts, meteor=meteor),
    }
    if not options.no_bert:
        steps["bert-score"] = lambda: bert(*texts)
    found: dict[str, Values] = {"values": {}, "seconds": {}}
    for name, step in steps.items():
        values, found["seconds"][name] = timed(step)
        found["values"].update(values)
    return found


def ours(texts: tuple[list[str], list[str]], options: argparse.Namespace) -> dict[str, Values]:
    """Values and seconds of heedful's suite, under the names of the libraries' metrics."""
    wanted = options.metrics.split(",")
    names = ["bertscore_bf16" if options.bf16 and name == "bertscore" else name for name in wanted]
    rows = Rows.of(*texts)
    lines, seconds = timed(lambda: {x.name: x.value or 0.0 for x in score(rows, metrics=names, bootstrap=0).lines})
    return {
        "values": {name: lines[mine] for name, mine in zip(wanted, names, strict=True)},
        "seconds": {"heedful": seconds},
    }


def in_own_process(side: str, *more: str) -> dict[str, Values]:
    """One side by itself: no file, vocabulary or thread pool that the other one has warmed."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Values] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def compared(theirs: Values, mine: Values) -> int:
    """Print values side by side; 1 if one of them is not equal."""
    unequal = []
    for name, expected in theirs.items():
        gap = abs(expected - mine[name])
        # Values are x100: 0.01 here is bert-score's 1e-4.
        if gap > (1e-2 if name == "bertscore" else 1e-6):
            unequal.append(name)
        print(f"  {name:14} {expected:12.6f} {mine[name]:12.6f}  difference {gap:.1e}")
    if unequal:
        print(f"Not equal: {', '.join(unequal)}", file=sys.stderr)
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())

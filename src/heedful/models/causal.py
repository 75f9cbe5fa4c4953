"""CausalModel: a language model with its tokenizer, loaded from a name, a folder or a run."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from heedful.errors import ConfigError, MissingExtraError, NotFoundError, nearest
from heedful.models.architecture import Accept, check_config, unfit
from heedful.models.delta import expected_warnings
from heedful.models.embedded import DEFAULT_MODEL, EMBEDDED, embedded_folder
from heedful.registry import Registry

if TYPE_CHECKING:
    import torch

NETWORK_VARIABLE, OFFLINE_VARIABLE = "HEEDFUL_ALLOW_NETWORK", "HF_HUB_OFFLINE"

PARTS = Registry("part of a model", {"graph": "heedful.models.graph:load_graph"})
"""What a run's folder may hold beside a language model; a table, since its module needs torch."""
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
REWARD_FILE, SCORER_FILE, SELECTOR_FILE = "reward.json", "scorer.json", "selector.json"
"""What a reward model's folder and a scorer's say of themselves."""


@dataclass(kw_only=True)
class CausalModel:
    """A causal LM, its tokenizer and where both came from. `model` is a transformers or peft model.

    `graph` is what replies are written from besides the prompt, a `heedful.models.graph.Graph`; None for most models.
    `marks` are the ids of the markers that a format needs, once `add_markers` has seen them. Where a caller of `load`
    accepts it, `model` is an encoder-decoder (`encodes`, see `heedful.models.pairs`).
    """

    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    name: str
    note: str = ""
    graph: Any = field(default=None, repr=False)
    marks: tuple[int, ...] = field(default=(), repr=False)

    @property
    def encodes(self) -> bool:
        """Whether an encoder reads the prompt."""
        return bool(getattr(self.model.config, "is_encoder_decoder", False))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        found: torch.device = next(self.model.parameters()).device
        return found

    @property
    def max_length(self) -> int:
        """Most positions that the model was built for."""
        config = self.model.config
        for key in ("max_position_embeddings", "n_positions"):
            if getattr(config, key, None):
                return int(getattr(config, key))
        return 1 << 20

    @property
    def pad_id(self) -> int:
        """Any valid id: padding is masked by place, never by id, since pad and end are the same token here."""
        for found in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if found is not None:
                return int(found)
        return 0


def use_bf16(precision: str, *, on_cpu: bool) -> bool:
    """Whether mixed precision runs in bf16: where it was asked for, or where the machine computes it in hardware."""
    import torch

    if precision != "auto":
        return precision == "bf16"
    if on_cpu:
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.cuda.is_bf16_supported())


def need_train_extra() -> None:
    """Say how to install torch and transformers, where they are missing."""
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as err:
        raise MissingExtraError(
            f"This needs '{err.name}', which is not installed: pip install torch==2.13.0 'heedful[train]'"
        ) from err


def resolve_path(name: str) -> str:
    """Folder or hub name behind `model_name_or_path`; embedded models are converted on first use.

    Raises:
        NotFoundError: a path that does not exist.
    """
    if name in EMBEDDED:
        return str(embedded_folder(EMBEDDED[name]))
    path = Path(name).expanduser()
    # A hub name has one slash as well, but its first part is rarely a folder that is here.
    here = name.count("/") == 1 and path.parent.is_dir()
    looks_local = name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1 or here
    if path.is_dir():
        return str(path)
    if looks_local or path.is_file():
        raise NotFoundError(
            f"model_name_or_path is '{name}', but there is no such folder; give a folder with a config.json, a run of "
            f"heedful, a Hugging Face name, or '{DEFAULT_MODEL}'."
        )
    return name


def refuse_judges(name: str) -> None:
    """Refuse the folders of reward models, scorers and selectors, which write nothing.

    Raises:
        ConfigError: `name` is one of them.
    """
    folder = Path(name).expanduser()
    if (folder / REWARD_FILE).is_file():
        raise ConfigError(
            f"'{name}' is a reward model, which gives numbers and writes nothing; use it as a reward: "
            f"{{name: reward_model, params: {{model: {name}}}}}."
        )
    if (folder / SCORER_FILE).is_file():
        raise ConfigError(
            f"'{name}' is a scorer, which names labels and writes nothing; use it in a reward: "
            f"{{name: strategy, params: {{scorer: {name}}}}}."
        )
    if (folder / SELECTOR_FILE).is_file():
        raise ConfigError(
            f"'{name}' is a selector, which picks replies that people once gave and writes none; name it as a system "
            "of a study: heedful eval study, heedful eval compare."
        )


def load(
    name: str = DEFAULT_MODEL,
    *,
    dtype: Dtype = "auto",
    device: str | None = None,
    adapter: bool = True,
    accept: Accept = "causal",
) -> CausalModel:
    """Load a model and its tokenizer.

    Args:
        name: an embedded model, a folder (a run with an adapter included) or a Hugging Face name.
        dtype: "auto" is float32 on a CPU and bfloat16 on a GPU.
        device: "cpu", "cuda", ...; the first GPU if there is one.
        adapter: whether to put a run's adapter and graph on; False gives the run's base model with the same vocabulary.
        accept: what the caller can work with; `any` takes encoder-decoders too.

    Raises:
        NotFoundError: no model there, or a hub name without network.
        ConfigError: an architecture that token trees do not fit, or one that the caller does not take.
    """
    need_train_extra()
    refuse_judges(name)
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = dtype if dtype != "auto" else ("float32" if device == "cpu" else "bfloat16")
    path = resolve_path(name)
    delta = Path(path) / "adapter_config.json"
    base = _base_of(delta) if delta.is_file() else path
    origin = name if name in EMBEDDED else base
    note = EMBEDDED[origin].note if origin in EMBEDDED else ""
    own = path if (Path(path) / "tokenizer_config.json").is_file() else resolve_path(base)
    config = _config(resolve_path(base), named=name, accept=accept)
    tokenizer = _tokenizer(own, named=name)
    model = _model(resolve_path(base), config=config, dtype=getattr(torch, kind), named=name)
    size = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > size:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    fresh = set(range(size, len(tokenizer)))
    if delta.is_file() and not adapter and own != resolve_path(base):
        fresh |= _added_ids(tokenizer, base=resolve_path(base))
    # Without the adapter these rows stay: they must be what training started from, not random and not the padding that
    # many a table ends with.
    _start_rows(model, tokenizer, sorted(fresh))
    if delta.is_file() and adapter:
        from peft import PeftModel

        with expected_warnings():
            model = PeftModel.from_pretrained(model, path)
    graph = PARTS.get("graph")(Path(path)).to(device) if adapter and (Path(path) / "graph.json").is_file() else None
    return CausalModel(model=model.to(device).eval(), tokenizer=tokenizer, name=name, note=note, graph=graph)


def _base_of(delta: Path) -> str:
    # A run that started from another run keeps the merged weights beside its adapter, wherever it was moved since.
    for run in (delta.parent, delta.parent.parent.parent):
        if (run / "base" / "config.json").is_file() and (run / "config.resolved.yaml").is_file():
            return str(run / "base")
    base = json.loads(delta.read_text("utf-8")).get("base_model_name_or_path")
    if not base:
        raise NotFoundError(f"{delta} does not name its base model; expected 'base_model_name_or_path'.")
    # peft writes the folder of the base; for an embedded model that is this machine's cache, wherever it is now.
    return next((name for name in EMBEDDED if re.fullmatch(rf"{name}-\d+", Path(base).name)), str(base))


def _added_ids(tokenizer: Any, *, base: str) -> set[int]:
    """Ids that a run's tokenizer has and its base's has not; none where the base came without one."""
    try:
        known = _tokenizer(base, named=base).get_vocab()
    except NotFoundError:
        return set()
    return {at for token, at in tokenizer.get_added_vocab().items() if token not in known}


def _tokenizer(path: str, *, named: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=offline())
    except (OSError, ValueError) as err:  # transformers has both for a tokenizer that is not there
        raise _not_there(named) from err


def check_architecture(name: str, *, writes: bool = True, accept: Accept = "causal") -> None:
    """Refuse a model that token trees do not fit, before its weights are read.

    Args:
        writes: whether it is to write; reward models and scorers do not.
        accept: what the caller can work with.

    Raises:
        NotFoundError: no model there.
        ConfigError: an architecture that this version of transformers does not know, or that trees do not fit.
    """
    if writes:
        refuse_judges(name)
    path = resolve_path(name)
    delta = Path(path) / "adapter_config.json"
    _config(resolve_path(_base_of(delta)) if delta.is_file() else path, named=name, accept=accept)


def _config(path: str, *, named: str, accept: Accept) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise _not_there(named)
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=offline())
    except OSError as err:
        raise _not_there(named) from err
    except (KeyError, ValueError, StrictDataclassError) as err:
        raise ConfigError(
            f"The configuration of the model '{named}' cannot be read: {_sentence(err)}; expected a config.json of an "
            "architecture that the installed transformers knows."
        ) from err
    check_config(config, named=named, accept=accept)
    return config


def _model(path: str, *, config: Any, dtype: Any, named: str) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    try:
        # sdpa takes the four-dimensional masks of merged samples as they are.
        return kind.from_pretrained(
            path, config=config, dtype=dtype, attn_implementation="sdpa", local_files_only=offline()
        )
    except OSError as err:
        raise _not_there(named) from err
    except ValueError as err:
        raise unfit(named, config.model_type, f"transformers says: {_sentence(err)}") from err


def _sentence(err: Exception) -> str:
    """The first sentence of another library's message, which often goes on for a page."""
    text = " ".join(str(err).split())
    return re.split(r"[.:!?] (?=[A-Z])|\.$", text, maxsplit=1)[0][:200]


def _not_there(named: str) -> NotFoundError:
    return NotFoundError(
        f"Cannot load the model '{named}'{offline_hint()}; expected a folder with model and tokenizer, a Hugging Face "
        f"name that is in the cache or reachable, or one of {', '.join(EMBEDDED)}.{nearest(named, EMBEDDED)}"
    )


def offline() -> bool:
    """Whether nothing may be fetched: so it is unless HEEDFUL_ALLOW_NETWORK=1, and always with HF_HUB_OFFLINE=1."""
    return _is_on(OFFLINE_VARIABLE) or not _is_on(NETWORK_VARIABLE)


def offline_hint() -> str:
    """Why a Hugging Face name was looked for on this machine only, in brackets; empty where it was fetched."""
    if _is_on(OFFLINE_VARIABLE):
        return f" (offline: {OFFLINE_VARIABLE} is set)"
    return "" if _is_on(NETWORK_VARIABLE) else f" (offline: set {NETWORK_VARIABLE}=1 to have it fetched)"


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "").upper() in ("1", "TRUE", "YES", "ON")


def add_markers(causal: CausalModel, markers: tuple[str, ...]) -> tuple[int, ...]:
    """Add a format's markers to the vocabulary; returns the ids that are new.

    A new row starts as the mean of the rows of its name's sub-words (esconv.md), so that it means something already.
    """
    tokenizer, model = causal.tokenizer, causal.model
    fresh = [m for m in markers if m not in tokenizer.get_vocab()]
    if fresh:
        tokenizer.add_special_tokens({"additional_special_tokens": fresh}, replace_extra_special_tokens=False)
    causal.marks = tuple(tokenizer.convert_tokens_to_ids(list(markers)))
    if not fresh:
        return ()
    ids = tuple(tokenizer.convert_tokens_to_ids(fresh))
    if max(ids) >= model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    _start_rows(model, tokenizer, ids)
    return ids


def _start_rows(model: Any, tokenizer: Any, ids: Iterable[int]) -> None:
    """Set the rows of `ids` to the mean of the rows of their names' sub-words."""
    import torch

    names = {at: (tokenizer.convert_ids_to_tokens(at) or "").strip("[]<|>") for at in ids}
    pieces = {at: tokenizer(name, add_special_tokens=False).input_ids for at, name in names.items()}
    tables = [model.get_input_embeddings().weight]
    head = model.get_output_embeddings()
    if head is not None and head.weight is not tables[0]:
        tables.append(head.weight)
    with torch.no_grad():
        for table in tables:
            for at, parts in pieces.items():
                if parts:  # a name of brackets alone says nothing about a start
                    table[at] = table[parts].float().mean(0).to(table.dtype)


def fingerprint(causal: CausalModel) -> str:
    """Twelve hex digits over names, shapes and a sample of the weights: which model wrote a reply."""
    import torch

    digest = hashlib.sha256()
    parameters = dict(causal.model.named_parameters())
    if causal.graph is not None:
        parameters |= {f"graph.{name}": value for name, value in causal.graph.named_parameters()}
    with torch.no_grad():
        for name, parameter in sorted(parameters.items()):
            part = parameter.detach().flatten()
            step = max(1, part.numel() // 64)
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
            digest.update(part[::step].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def check_dtype(name: str) -> Dtype:
    """`name` as a dtype that `load` takes."""
    known: tuple[Dtype, ...] = ("auto", "float32", "bfloat16", "float16")
    for dtype in known:
        if name == dtype:
            return dtype
    raise ConfigError(f"dtype must be one of {', '.join(known)}, but it is '{name}'.{nearest(name, known)}")

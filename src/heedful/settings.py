"""Configuration: one YAML file, `key=value` overrides, checked by pydantic before anything heavy is imported.

Order of authority: defaults < file < overrides. Unknown keys are errors that name the nearest valid key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from heedful.errors import ConfigError, NotFoundError, nearest

HOME_VARIABLE = "HEEDFUL_HOME"
DATA_VARIABLE = "HEEDFUL_DATA"

T = TypeVar("T", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Safe YAML with three departures: 1e-4 is a number, as in YAML 1.2; a date is a text; a key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key '{key.value}' stands twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep=deep)


# A resolver is looked up by the first character, and PyYAML shares the lists with its own loader: copy, then change.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class Settings(BaseModel):
    """Base of all configuration records: frozen, and no key that is not declared."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def home() -> Path:
    """The user's folder: `$HEEDFUL_HOME`, else `~/.heedful`."""
    return Path(os.environ.get(HOME_VARIABLE) or Path.home() / ".heedful")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file as a mapping.

    Raises:
        NotFoundError: no such file.
        ConfigError: not YAML, not UTF-8, or no mapping; with line and column where there is one.
    """
    path = Path(path)
    try:
        found = yaml.load(path.read_text("utf-8"), Loader=_Loader)
    except FileNotFoundError as err:
        raise NotFoundError(f"There is no configuration file '{path}'.") from err
    except IsADirectoryError as err:
        raise ConfigError(f"'{path}' is a folder; give the YAML file in it.") from err
    except UnicodeDecodeError as err:
        raise ConfigError(f"{path} is not UTF-8 (byte {err.start}); save it as UTF-8.") from err
    except yaml.YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(
            f"{path}{place}: not valid YAML ({getattr(err, 'problem', None) or 'syntax error'})."
        ) from err
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines, but it holds a {type(found).__name__}.")
    return {str(k): v for k, v in found.items()}


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`values` with `key=value` and `section.key=value` put on top; each value is read as YAML.

    >>> apply_overrides({"a": 1}, ["a=2", "b.c=x"])
    {'a': 2, 'b': {'c': 'x'}}
    """
    out = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for item in overrides:
        key, equals, raw = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"'{item}' is no override; write key=value, for instance seed=7 or format.name=chat.")
        try:
            value = yaml.load(raw, Loader=_Loader)
        except yaml.YAMLError as err:
            raise ConfigError(f"The value in '{key}=...' is not valid YAML; quote it.") from err
        *sections, last = key.strip().split(".")
        at = out
        for section in sections:
            inner = at.get(section)
            # `format: chat` followed by `format.system=...`: the short form becomes a section with a name.
            at[section] = dict(inner) if isinstance(inner, Mapping) else ({"name": inner} if inner else {})
            at = at[section]
        at[last] = value
    return out


def check(kind: type[T], values: Mapping[str, Any], *, where: str = "configuration") -> T:
    """`values` as a checked record.

    Raises:
        ConfigError: one sentence for the first problem; unknown keys name the nearest valid one.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as err:
        raise ConfigError(_sentence(kind, err, where)) from err


ELSEWHERE = {
    "beta": ("kl_coef",),
    "max_completion_length": ("max_new_tokens",),
    "max_seq_length": ("max_length",),
    "max_prompt_length": ("max_length",),
    "reward_funcs": ("rewards",),
    "reward_weights": ("rewards",),
    "batch_size": ("per_device_train_batch_size", "rollout_batch_size"),
    "lr": ("learning_rate",),
    "epochs": ("num_train_epochs",),
    "model": ("model_name_or_path",),
    "model_id": ("model_name_or_path",),
    "r": ("lora_rank",),
    "target_modules": ("lora_target",),
    "lora_target_modules": ("lora_target",),
}
"""What other tools call a key -> what it is called here."""
_MOST_NAMED = 25


def _hint(name: str, known: Sequence[str]) -> str:
    """A name that was meant, and what there is while that can still be read."""
    meant = next((key for key in ELSEWHERE.get(name, ()) if key in known), None)
    said = f" Here it is '{meant}'." if meant else nearest(name, known)
    if len(known) > _MOST_NAMED:
        return f"{said} `heedful config schema` with the method's name lists all {len(known)}."
    return f"{said} Known: {', '.join(sorted(known))}."


def _sentence(kind: type[BaseModel], err: ValidationError, where: str) -> str:
    first = err.errors(include_url=False)[0]
    path = [str(p) for p in first["loc"]]
    key = ".".join(path)
    more = f" ({err.error_count() - 1} more problems)" if err.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = list(_fields_at(kind, path[:-1]))
        return f"{where}: unknown key '{key}'.{_hint(path[-1], known)}{more}"
    got = first.get("input")
    # Checks of our own say what they got themselves.
    ours = first["type"] == "value_error" or not isinstance(got, (str, int, float, bool)) or len(str(got)) >= 60
    shown = "" if ours else f", but got {got!r}"
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{where}: '{key}': {message}{shown}.{more}" if key else f"{where}: {message}.{more}"


def _fields_at(kind: type[BaseModel], path: Sequence[str]) -> list[str]:
    current: Any = kind
    for name in path:
        field = getattr(current, "model_fields", {}).get(name)
        options = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        current = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if current is None:
            return []
    return list(current.model_fields)


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Write a mapping as YAML, keys in their own order, replacing the file in one step."""
    scratch = path.with_name(path.name + ".part")
    scratch.write_text(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True), "utf-8")
    os.replace(scratch, path)

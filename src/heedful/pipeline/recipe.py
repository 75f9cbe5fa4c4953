"""A recipe file and what it becomes: options chosen, references replaced, every stage checked by its method.

output_dir: runs/mine
options: {reward: {default: paper, choices: {paper: [...], released: [...]}}}
shared: {dataset: mesc}
stages:
  sft: {method: sft}
  rl: {method: ppo, model_name_or_path: "${stages.sft}", rewards: "${options.reward}"}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from heedful.errors import ConfigError, UserError, nearest
from heedful.pipeline.kinds import Kind, kind_of
from heedful.pipeline.references import Chosen, References
from heedful.settings import Settings, apply_overrides, check, read_yaml

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_OURS = {
    "output_dir": "a stage's folder is <output_dir>/<stage>",
    "resume_from_checkpoint": "stages resume by themselves",
}
"""Settings that a stage may not have, and why."""


class Option(Settings):
    """What `key=value` on the command line may set. With a mapping of choices, the chosen entry's value is used."""

    default: Any
    help: str = ""
    choices: list[Any] | dict[Any, Any] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _default_is_a_choice(self) -> Option:
        self.choose("default", self.default)
        return self

    def choose(self, name: str, wanted: Any) -> Chosen:
        """The choice that was `wanted`.

        Raises:
            ConfigError: it is none of the choices.
        """
        if self.choices is None:
            return Chosen(label=wanted, value=wanted)
        for choice in self.choices:
            if _same(choice, wanted):
                return Chosen(label=choice, value=self.choices[choice] if isinstance(self.choices, dict) else choice)
        known = [_text(choice) for choice in self.choices]
        raise ConfigError(
            f"'{name}' is one of {', '.join(known)}, but got {_text(wanted)}.{nearest(_text(wanted), known)}"
        )


class Recipe(Settings):
    """The file, before anything is replaced."""

    title: str | None = None
    output_dir: str | None = Field(default=None, description="default: runs/<name of the file>")
    options: dict[str, Option] = Field(default_factory=dict)
    shared: dict[str, Any] = Field(default_factory=dict, description="laid under every stage that has these keys")
    stages: dict[str, dict[str, Any]] = Field(min_length=1)

    @field_validator("options", "stages")
    @classmethod
    def _plain_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not _NAME.fullmatch(name) or name in ("output_dir", "options", "shared", "stages"):
                raise ValueError(f"'{name}' cannot be a name here; use letters, digits, - and _, a letter first")
        return value

    @model_validator(mode="after")
    def _conditions_are_about_options(self) -> Recipe:
        for stage, values in self.stages.items():
            when = values.get("when", {})
            if not isinstance(when, Mapping):
                raise ValueError(f"'when' of the stage '{stage}' must be like {{method: [sft]}}")
            for name, wanted in when.items():
                if name not in self.options:
                    raise ValueError(
                        f"'when' of the stage '{stage}' names the option '{name}', which is not there."
                        f"{nearest(str(name), self.options)}"
                    )
                for value in wanted if isinstance(wanted, list) else [wanted]:
                    self.options[name].choose(name, value)
        return self


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage that is going to run.

    Args:
        config: its settings as its method takes them, folders written out.
        settings: the same as JSON, without its folder, and with `${stages.NAME}` for the folders of others: moving
            `output_dir` does not change them.
        needs: stages that it refers to.
    """

    name: str
    method: str
    kind: Kind = field(repr=False)
    config: Settings = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    needs: tuple[str, ...]
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A recipe with everything decided.

    Args:
        options: name -> what was chosen.
        left_out: stages whose `when` does not hold -> why.
    """

    file: str
    title: str
    folder: Path
    options: Mapping[str, Any]
    steps: tuple[Step, ...]
    left_out: Mapping[str, str]

    def step(self, name: str) -> Step:
        """One stage by name.

        Raises:
            ConfigError: there is none, or it is left out.
        """
        for step in self.steps:
            if step.name == name:
                return step
        if name in self.left_out:
            raise ConfigError(f"The stage '{name}' is left out: {self.left_out[name]}.")
        known = [step.name for step in self.steps]
        raise ConfigError(f"{self.file} has no stage '{name}'.{nearest(name, known)} Stages: {', '.join(known)}.")

    def dependents(self, names: Sequence[str]) -> tuple[str, ...]:
        """`names` and every stage that was made from one of them, in order."""
        found = set(names)
        for step in self.steps:  # a stage refers to earlier ones only
            if found & set(step.needs):
                found.add(step.name)
        return tuple(step.name for step in self.steps if step.name in found)


def is_recipe(values: Mapping[str, Any]) -> bool:
    """Whether a configuration file is one of stages."""
    return "stages" in values


def read(file: str | Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Read and check a whole recipe; nothing runs, no data and no model is loaded.

    Args:
        overrides: `option=value`, `STAGE.key=value` or `stages.STAGE.key=value`, `output_dir=...`, `seed=...`.

    Raises:
        UserError: the first thing that is wrong, in one sentence.
    """
    values = read_yaml(file)
    values.pop("x_heedful", None)  # the record in the resolved recipe of an earlier run
    name = str(file)
    recipe = check(Recipe, values, where=name)
    given = _sort(recipe, overrides, name)
    options = {
        option: spec.choose(option, given.options.get(option, spec.default)) for option, spec in recipe.options.items()
    }
    top = References(where=name, options=options, stages={}, final=True)
    folder = Path(given.output_dir or top.resolve(recipe.output_dir) or Path("runs") / Path(name).stem)
    at = _At(
        file=name,
        recipe=recipe,
        given=given,
        options=options,
        left_out=_left_out(recipe, options),
        shared={**recipe.shared, **({} if given.seed is None else {"seed": given.seed})},
        folder=folder,
    )
    drafts = {stage: _draft(at, stage) for stage in recipe.stages}
    _refuse_idle(at, drafts)
    steps: list[Step] = []
    for stage in recipe.stages:
        if stage not in at.left_out:
            steps.append(_step(at, stage, drafts[stage], steps))
    if not steps:
        raise ConfigError(f"{name}: every stage is left out; {'; '.join(at.left_out.values())}.")
    title = str(top.resolve(recipe.title) or Path(name).stem)
    chosen = {option: found.label for option, found in options.items()}
    return Pipeline(file=name, title=title, folder=folder, options=chosen, steps=tuple(steps), left_out=at.left_out)


# ---------------------------------------------------------------------- overrides


@dataclass(frozen=True, kw_only=True)
class _Given:
    """The words of the command line, sorted."""

    options: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, list[str]] = field(default_factory=dict)
    output_dir: str | None = None
    seed: Any = None


@dataclass(frozen=True, kw_only=True)
class _At:
    """A recipe while it is worked out."""

    file: str
    recipe: Recipe
    given: _Given
    options: Mapping[str, Chosen]
    left_out: Mapping[str, str]
    shared: Mapping[str, Any]
    folder: Path

    def references(self, stage: str, stages: Mapping[str, str], *, final: bool) -> References:
        return References(where=self.where(stage), options=self.options, stages=stages, final=final)

    def where(self, stage: str) -> str:
        return f"{self.file}, stage '{stage}'"


def _sort(recipe: Recipe, overrides: Sequence[str], file: str) -> _Given:
    given = _Given()
    for item in overrides:
        found = apply_overrides({}, [item])  # refuses what is no key=value
        key, _, raw = item.partition("=")
        key = key.strip()
        path = key.removeprefix("stages.").split(".")
        value = found.get(key)
        if key in recipe.options:
            given.options[key] = value
        elif key == "output_dir":
            if not isinstance(value, str) or not value:
                raise ConfigError(f"'output_dir' must name a folder, but got {_text(value)}.")
            given = replace(given, output_dir=value)
        elif key == "seed":
            given = replace(given, seed=value)
        elif len(path) > 1 and path[0] in recipe.stages:
            given.stages.setdefault(path[0], []).append(f"{'.'.join(path[1:])}={raw}")
        else:
            raise _no_such_key(recipe, key, file)
    return given


def _no_such_key(recipe: Recipe, key: str, file: str) -> ConfigError:
    stage, dot, _ = key.removeprefix("stages.").partition(".")
    if dot:
        close = nearest(stage, recipe.stages)
        return ConfigError(f"{file} has no stage '{stage}'.{close} Stages: {', '.join(recipe.stages)}.")
    options = [*recipe.options, "output_dir", *([] if "seed" in recipe.options else ["seed"])]
    return ConfigError(
        f"{file} has no option '{key}'.{nearest(key, options)} Options: {', '.join(options)}; for a setting of one "
        f"stage write STAGE.{key}=VALUE (stages: {', '.join(recipe.stages)})."
    )


def _refuse_idle(at: _At, drafts: Mapping[str, _Draft]) -> None:
    """Refuse what would silently change nothing."""
    for stage, words in at.given.stages.items():
        if stage in at.left_out:
            raise ConfigError(
                f"'{stage}.{words[0]}' would change nothing: the stage is left out, as {at.left_out[stage]}."
            )
    kinds = [draft.kind for draft in drafts.values()] + _other_kinds(at.recipe)
    known = sorted({key for kind in kinds for key in kind.config.model_fields} - set(_OURS))
    for key in at.recipe.shared:
        if key not in known:
            raise ConfigError(f"{at.file}: no stage has the key 'shared.{key}'.{nearest(key, known)}")
    takes = [d for name, d in drafts.items() if name not in at.left_out and "seed" in d.kind.config.model_fields]
    if at.given.seed is not None and all("seed" in d.own for d in takes):
        raise ConfigError(
            f"seed={_text(at.given.seed)} would change nothing: every stage of {at.file} has a seed of its own; write "
            "STAGE.seed=VALUE."
        )


def _other_kinds(recipe: Recipe) -> list[Kind]:
    """What stages can become whose method is an option: another choice may have the shared keys that this one lacks."""
    found: list[Kind] = []
    for values in recipe.stages.values():
        reference = re.fullmatch(r"\$\{options\.(.*)\}", str(values.get("method")))
        option = recipe.options.get(reference[1]) if reference else None
        choices = option.choices if option else None
        named = list(choices.values()) if isinstance(choices, dict) else choices or []
        found += [kind_of(name) for name in named if isinstance(name, str) and "${" not in name]
    return found


# ---------------------------------------------------------------------- stages


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """A stage with what is shared laid under it; references to stages still stand in it."""

    method: str
    kind: Kind
    own: frozenset[str]
    values: dict[str, Any]


def _left_out(recipe: Recipe, options: Mapping[str, Chosen]) -> dict[str, str]:
    out: dict[str, str] = {}
    for stage, values in recipe.stages.items():
        for name, wanted in values.get("when", {}).items():
            accepted = wanted if isinstance(wanted, list) else [wanted]
            label = options[name].label
            if not any(_same(label, value) for value in accepted):
                out[stage] = f"{name} is {_text(label)} and it runs for {', '.join(map(_text, accepted))}"
                break
    return out


def _draft(at: _At, stage: str) -> _Draft:
    raw, words, where = at.recipe.stages[stage], at.given.stages.get(stage, []), at.where(stage)
    marks = {name: f"${{stages.{name}}}" for name in at.recipe.stages}
    references = at.references(stage, marks, final=False)
    own = {key: value for key, value in raw.items() if key != "when"}
    # The method first: it decides which of the shared keys are laid under.
    method = references.resolve(apply_overrides(own, [w for w in words if w.startswith("method=")]).get("method"))
    if not isinstance(method, str):
        raise ConfigError(f"{where}: expected 'method' (sft, scorer, eval, ...), but it is {_text(method)}.")
    try:
        kind = kind_of(method)
    except UserError as err:
        raise ConfigError(f"{where}: {err}") from err
    under = {key: v for key, v in at.shared.items() if key in kind.config.model_fields and key not in own}
    # Options before overrides, so that `rl.decoding.top_p=1` finds the mapping that an option stands for.
    values = references.resolve(apply_overrides(references.resolve({**under, **own}), words))
    for key in ("when", *_OURS):
        if key in values:
            raise ConfigError(f"{where}: '{key}' cannot be set here; {_OURS.get(key, 'change it in the file')}.")
    return _Draft(method=method, kind=kind, own=frozenset(own), values=values)


def _step(at: _At, name: str, draft: _Draft, before: Sequence[Step]) -> Step:
    where = at.where(name)
    references = at.references(name, {stage: str(at.folder / stage) for stage in at.recipe.stages}, final=True)
    kind, marked = draft.kind, dict(draft.values)
    if "method" not in kind.config.model_fields:  # an evaluation is known by its class
        del marked["method"]
    values = references.resolve(marked)
    for other in references.used:
        if other in at.left_out:
            raise ConfigError(f"{where}: it refers to the stage '{other}', which is left out: {at.left_out[other]}.")
        if other not in [step.name for step in before]:
            what = "itself" if other == name else f"the stage '{other}', which comes after it"
            raise ConfigError(f"{where}: it refers to {what}; a stage can only use earlier ones.")
    config = check(kind.config, {**values, "output_dir": str(at.folder / name)}, where=where)
    try:
        kind.names(config)
    except UserError as err:
        raise ConfigError(f"{where}: {err}") from err
    return Step(
        name=name,
        method=draft.method,
        kind=kind,
        config=config,
        settings=check(kind.config, marked, where=where).model_dump(mode="json", exclude=set(_OURS)),
        needs=tuple(references.used),
        folder=at.folder / name,
    )


def _same(one: Any, other: Any) -> bool:
    """Equality without Python's `True == 1`."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)

"""Run a recipe: what is finished stays, what was interrupted goes on, what has changed is refused."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from heedful.errors import ConfigError, UserError
from heedful.models.memory import give_freed_memory_back
from heedful.pipeline.changes import first_change, settings_as_now
from heedful.pipeline.page import Row, write_page
from heedful.pipeline.recipe import Pipeline, Step
from heedful.pipeline.record import Entry, Record, claim, digest, now
from heedful.pipeline.words import headline, report_of, summary_of
from heedful.settings import write_yaml
from heedful.training.checkpoints import newest
from heedful.training.resume import MAY_CHANGE
from heedful.training.shared import is_main, versions

Say = Callable[[str], None]
State = Literal["done", "interrupted", "to do"]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a recipe would do now.

    Args:
        states: stage -> done, interrupted (goes on) or to do; only the selected ones.
        record: what the folder says; stages that are done anew are forgotten in it.
        anew: stages whose folders are deleted first, in order.
    """

    pipeline: Pipeline
    states: Mapping[str, State]
    record: Record
    anew: tuple[str, ...]

    @property
    def due(self) -> tuple[str, ...]:
        """Stages that would run."""
        return tuple(name for name, state in self.states.items() if state != "done")


@dataclass(frozen=True, kw_only=True)
class Done:
    """A recipe that ran to its end.

    Args:
        rows: one per stage of the recipe, in order.
        page: the page that links the stages' reports.
    """

    folder: Path
    rows: tuple[Row, ...]
    page: Path


def look(pipeline: Pipeline, *, only: Sequence[str] = (), until: str | None = None, fresh: Sequence[str] = ()) -> Look:
    """Compare a recipe with what its folder holds; writes nothing.

    Args:
        only: these stages and no others.
        until: this stage and all before it.
        fresh: stages to do anew, with all that depends on them.

    Raises:
        ConfigError: a stage that is not there, a finished stage whose settings have changed, a folder that holds
            something else, or a stage that needs one which is neither finished nor selected.
    """
    selected = _select(pipeline, only, until)
    record = _adopted(Record.read(pipeline.folder), pipeline)
    for name in fresh:
        pipeline.step(name)
    anew = tuple(name for name in pipeline.dependents(fresh) if name in record.entries)
    record = record.without(anew)
    _refuse_other_run(pipeline, record)
    states: dict[str, State] = {}
    for step in pipeline.steps:
        if step.name in selected:
            for name in step.needs:
                if name not in states and _state(pipeline.step(name), record, pipeline, anew) != "done":
                    raise ConfigError(
                        f"The stage '{step.name}' needs '{name}', which is not finished; select it too, or run --until "
                        f"{name} first."
                    )
            states[step.name] = _state(step, record, pipeline, anew)
    gone = [
        (step.name, name)
        for step in pipeline.steps
        if states.get(step.name, "done") != "done"
        for name in step.needs
        if states.get(name, "done") == "done" and summary_of(pipeline.folder / name) is None
    ]
    for user, name in gone:
        raise ConfigError(
            f"The stage '{user}' needs '{name}', which {record.path} calls finished, but {pipeline.folder / name} has "
            f"no summary.json; redo it with --fresh {name}."
        )
    return Look(pipeline=pipeline, states=states, record=record, anew=anew)


def run(
    pipeline: Pipeline,
    *,
    only: Sequence[str] = (),
    until: str | None = None,
    fresh: Sequence[str] = (),
    say: Say = lambda text: None,
    callbacks: tuple[Any, ...] = (),
    command: str = "",
) -> Done:
    """Run the stages that are not finished, in order.

    Args:
        only, until, fresh: as in `look`.
        say: takes one line of progress.
        callbacks: transformers callbacks, handed to every training stage.
        command: what the record calls the command.

    Raises:
        UserError: as in `look`; another process holds the folder; or whatever a stage refuses.
        RunError: a stage cannot go on.
    """
    if not is_main():
        return _follow(look(pipeline, only=only, until=until, fresh=fresh), callbacks)
    with claim(pipeline.folder):
        plan = look(pipeline, only=only, until=until, fresh=fresh)
        _refuse_many_processes(plan, fresh)
        about = {"recipe": pipeline.file, "options": dict(pipeline.options)}
        _clear(plan, about, say)
        record = plan.record
        _write_resolved(plan, command)
        for place, step in enumerate(pipeline.steps, start=1):
            state = plan.states.get(step.name)
            if state is None:
                continue
            title = f"stage {place}/{len(pipeline.steps)} {step.name} ({step.method})"
            if state == "done":
                say(f"{title}: finished before")
                continue
            say(f"{title}{': goes on' if state == 'interrupted' else ''}")
            record = _run_stage(step, state, record, about, say=say, callbacks=callbacks, command=command)
            _page(pipeline, record, command)
        return Done(folder=pipeline.folder, rows=rows(pipeline, record), page=_page(pipeline, record, command))


def _clear(plan: Look, about: Mapping[str, Any], say: Say) -> None:
    """Delete what is done anew, so that a kill at any point leaves stages that are either whole or unfinished."""
    known = Record.read(plan.pipeline.folder)
    for name in plan.anew:
        known = known.with_entry(name, replace(known.entries[name], finished=None))
    known.save(about)
    for name in reversed(plan.anew):  # what was made from a stage goes before it
        say(f"{name}: deleted, to be done anew" if name in plan.states else f"{name}: deleted, as it is outdated")
        folder = plan.pipeline.folder / name
        (folder / "summary.json").unlink(missing_ok=True)
        _delete(folder)
    plan.record.save(about)


def _run_stage(
    step: Step,
    state: State,
    record: Record,
    about: Mapping[str, Any],
    *,
    say: Say,
    callbacks: tuple[Any, ...],
    command: str,
) -> Record:
    needs = {name: record.entries[name].hash for name in step.needs}
    earlier = record.entries.get(step.name)
    entry = Entry(
        hash=digest(step.method, step.settings, needs),
        method=step.method,
        settings=dict(step.settings),
        needs=needs,
        started=earlier.started if earlier else now(),
        seconds=earlier.seconds if earlier else 0.0,
        attempts=earlier.attempts + 1 if earlier else 1,
        command=command,
    )
    resume = _goes_on(step, state)
    if step.kind.trains and not resume:
        _delete(step.folder)  # what an attempt without a checkpoint left; `look` made sure that it is ours
    record = record.with_entry(step.name, entry)
    record.save(about)
    begun = time.monotonic()
    try:
        step.kind.run(
            _resumed(step) if resume else step.config,
            say=lambda text: say(f"  {step.name}: {text}"),
            callbacks=callbacks,
            command=command,
        )
    except Exception:
        record.with_entry(step.name, replace(entry, seconds=_since(entry, begun))).save(about)
        raise
    finally:
        _free_memory()
    seconds = max(_since(entry, begun), _told(step))
    record = record.with_entry(step.name, replace(entry, finished=now(), seconds=seconds))
    record.save(about)
    return record


def _since(entry: Entry, begun: float) -> float:
    return round(entry.seconds + time.monotonic() - begun, 1)


def _told(step: Step) -> float:
    """Seconds that a stage's own summary counts: a run that was killed keeps its time in its checkpoints."""
    found = (summary_of(step.folder) or {}).get("seconds")
    return round(float(found), 1) if isinstance(found, int | float) else 0.0


def _goes_on(step: Step, state: State) -> bool:
    return state == "interrupted" and step.kind.trains and newest(step.folder / "checkpoints") is not None


def _resumed(step: Step) -> Any:
    return step.config.model_copy(update={"resume_from_checkpoint": True})


def _free_memory() -> None:
    """Models of one stage are not to weigh on the next."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch is not None:
        give_freed_memory_back()


def _delete(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


# ---------------------------------------------------------------------- what is there


def _select(pipeline: Pipeline, only: Sequence[str], until: str | None) -> tuple[str, ...]:
    names = [step.name for step in pipeline.steps]
    if only and until:
        raise ConfigError("--only and --until contradict each other; give one of them.")
    for name in only:
        pipeline.step(name)
    if until is not None:
        names = names[: names.index(pipeline.step(until).name) + 1]
    return tuple(name for name in names if not only or name in only)


def _adopted(record: Record, pipeline: Pipeline) -> Record:
    """The record, with training stages called finished that were killed between their last file and its own."""
    for step in pipeline.steps:
        entry = record.entries.get(step.name)
        if entry is None or entry.finished or not step.kind.trains or summary_of(step.folder) is None:
            continue
        written = (step.folder / "summary.json").stat().st_mtime
        finished = datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds")
        record = record.with_entry(step.name, replace(entry, finished=finished))
    return record


def _refuse_other_run(pipeline: Pipeline, record: Record) -> None:
    folder = pipeline.folder
    if not record.path.is_file() and any((folder / name).exists() for name in ("summary.json", "checkpoints")):
        raise ConfigError(f"{folder} holds a run that is no recipe's; choose another output_dir.")


def _state(step: Step, record: Record, pipeline: Pipeline, anew: Sequence[str]) -> State:
    entry = record.entries.get(step.name)
    if entry is None:
        if step.name not in anew and step.folder.exists() and (not step.folder.is_dir() or any(step.folder.iterdir())):
            raise ConfigError(
                f"{step.folder} is not empty, and {record.path} knows nothing of it; move it away, or choose another "
                "output_dir."
            )
        return "to do"
    goes_on = not entry.finished and _goes_on(step, "interrupted")
    if entry.finished and not step.folder.exists() and pipeline.dependents([step.name]) == (step.name,):
        return "to do"  # deleted by hand, and nothing was made from it
    if entry.finished or goes_on:
        _refuse_changed(step, entry, record, pipeline)
    return "done" if entry.finished else "interrupted"


def _refuse_changed(step: Step, entry: Entry, record: Record, pipeline: Pipeline) -> None:
    remedy = (
        f"Redo it{' and what depends on it' if len(pipeline.dependents([step.name])) > 1 else ''} with --fresh "
        f"{step.name}, take the change back, or choose another output_dir."
    )
    was = "finished" if entry.finished else "interrupted"
    change = (
        ("method", entry.method, step.method)
        if entry.method != step.method
        else first_change(
            settings_as_now(step.kind.config, entry.settings),
            step.settings,
            but=frozenset() if entry.finished else MAY_CHANGE,
        )
    )
    if change is not None:
        key, old, new = change
        raise ConfigError(
            f"The stage '{step.name}' was {was} with other settings: {key} was {old} and now is {new}. {remedy}"
        )
    for name, known in entry.needs.items():
        found = record.entries.get(name)
        if found is None or found.hash != known:
            raise ConfigError(f"The stage '{step.name}' was {was} with another '{name}' than there is now. {remedy}")


# ---------------------------------------------------------------------- several processes


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _refuse_many_processes(plan: Look, fresh: Sequence[str]) -> None:
    """Stages decide by what is on the disk; several processes can only agree on one training stage at a time."""
    if _processes() == 1 or not plan.due:
        return
    if len(plan.due) > 1 or fresh or not plan.pipeline.step(plan.due[0]).kind.trains:
        raise UserError(
            f"{_processes()} processes can share one training stage of a recipe: expected --only with one that is left "
            f"to do and no --fresh, but {', '.join(plan.due)} would run. Run the others with one process."
        )


def _follow(plan: Look, callbacks: tuple[Any, ...]) -> Done:
    """The part of a process that is not the first: the one training stage, and nothing written here."""
    _refuse_many_processes(plan, plan.anew)
    for name in plan.due:
        step = plan.pipeline.step(name)
        config = _resumed(step) if _goes_on(step, plan.states[name]) else step.config
        step.kind.run(config, say=lambda text: None, callbacks=callbacks, command="")
    return Done(folder=plan.pipeline.folder, rows=(), page=plan.pipeline.folder / "index.html")


# ---------------------------------------------------------------------- what is written


def _write_resolved(plan: Look, command: str) -> None:
    """The recipe with every default written out; running it with another output_dir repeats the run.

    A stage that is not run now stands as it was run, whatever the file and the command line say of it today.
    """
    pipeline, kept = plan.pipeline, {n: e for n, e in plan.record.entries.items() if n not in plan.due}
    stages = {s.name: {"method": _as_done(s, kept)[0], **_as_done(s, kept)[1]} for s in pipeline.steps}
    values: dict[str, Any] = {"title": pipeline.title, "output_dir": str(pipeline.folder), "stages": stages}
    about = {"recipe": pipeline.file, "options": dict(pipeline.options), "command": command, "versions": versions()}
    write_yaml(pipeline.folder / "config.resolved.yaml", {**values, "x_heedful": about})


def _as_done(step: Step, entries: Mapping[str, Entry]) -> tuple[str, Mapping[str, Any]]:
    """Method and settings of a stage: those that it was started with, where it was."""
    entry = entries.get(step.name)
    return (step.method, step.settings) if entry is None else (entry.method, entry.settings)


def rows(pipeline: Pipeline, record: Record) -> tuple[Row, ...]:
    """One row per stage: what it came to and where its report is."""
    found = []
    for step in pipeline.steps:
        entry = record.entries.get(step.name)
        finished = entry is not None and entry.finished is not None
        report = report_of(step.folder) if finished else None
        summary = summary_of(step.folder) if finished else None
        method, settings = _as_done(step, record.entries)
        found.append(
            Row(
                stage=step.name,
                method=method,
                state="done" if finished else "interrupted" if entry else "to do",
                seconds=_seconds(entry, summary),
                result=headline(summary),
                report=str(report) if report else None,
                settings=settings,
            )
        )
    return tuple(found)


def _seconds(entry: Entry | None, summary: Mapping[str, Any] | None) -> float | None:
    if entry is None or entry.finished is None:
        return None
    # An attempt that was killed after its last file has left its time in the summary only.
    return entry.seconds or (summary or {}).get("seconds")


def _page(pipeline: Pipeline, record: Record, command: str) -> Path:
    return write_page(
        pipeline.folder / "index.html",
        title=pipeline.title,
        file=pipeline.file,
        options=pipeline.options,
        rows=rows(pipeline, record),
        left_out=pipeline.left_out,
        command=command,
    )

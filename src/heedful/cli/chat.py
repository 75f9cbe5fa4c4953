"""`heedful chat`: talk with a model in the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from heedful import taxonomy
from heedful.agents.manner import manner_of
from heedful.agents.plan import PlanSetting, settle_talk_plan
from heedful.corpora import write_jsonl
from heedful.errors import NotFoundError, UserError
from heedful.models.causal import load
from heedful.models.decoding import Decoding
from heedful.models.embedded import DEFAULT_MODEL
from heedful.models.talk import Talk

HELP = (
    "/undo takes back the last exchange, /reset forgets all, /why shows prompt and settings, /plan NAME sets the "
    "strategy of the replies to come, /save FILE, /quit"
)
NOTICE = (
    "A small research model answers here. It is not a person, not a therapist and no help in an emergency; "
    "if you or someone else is in danger, call your local emergency number or a crisis line."
)


@click.command(name="chat")
@click.argument("model", default=DEFAULT_MODEL)
@click.option("--max-new-tokens", default=80, show_default=True)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.7,
    show_default=True,
    help="0 takes the best token every time.",
)
@click.option("--top-p", default=0.9, show_default=True)
@click.option("--seed", default=13, show_default=True)
@click.option(
    "--plan",
    "chosen",
    help="How a strategy is chosen, if the model has some: argmax (default), sample, a name, or the folder of a mix.",
)
@click.option(
    "--guidance-scale",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="How strongly the words follow the strategy; 1 is the model alone, more is slower.",
)
@click.option("--show-plan", is_flag=True, help="Show what each reply was made from: strategies, stage, sources.")
@click.option("--save", type=click.Path(path_type=Path), help="Write the talk there at the end; otherwise it is gone.")
def chat_command(
    model: str,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    chosen: str | None,
    guidance_scale: float,
    show_plan: bool,
    save: Path | None,
) -> None:
    """Talk with MODEL: a run, a folder, a Hugging Face name, or the embedded model.

    \b
    heedful chat runs/demo
    heedful chat runs/demo --temperature 0 --save talk.jsonl
    heedful chat runs/esconv-joint/joint --show-plan
    heedful chat runs/esconv-joint/joint --plan Question --guidance-scale 2
    """
    if save is not None and not save.parent.is_dir():  # said now: after the talk it would be lost
        raise NotFoundError(f"--save names the folder '{save.parent}', which does not exist; create it first.")
    talk = open_talk(
        model,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        plan=chosen,
        guidance_scale=guidance_scale,
    )
    click.echo(NOTICE, err=True)
    click.echo(f"{talk.causal.name}. {HELP}", err=True)
    try:
        while _exchange(talk, show_plan=show_plan):
            pass
    except (EOFError, KeyboardInterrupt, click.Abort):  # the usual ways to leave: --save still holds
        click.echo("", err=True)
    if save is not None and len(talk.conversation):
        write_jsonl(save, [talk.conversation])
        click.echo(f"saved to {save}", err=True)


def open_talk(
    model: str,
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    plan: str | None = None,
    guidance_scale: float = 1.0,
) -> Talk:
    """A talk with the format that the run was trained with."""
    draws = temperature > 0
    decoding = Decoding(
        max_new_tokens=max_new_tokens,
        do_sample=draws,
        temperature=temperature if draws else 1.0,
        top_p=top_p if draws else 1.0,
        no_repeat_ngram_size=4,
        seed=seed,
    )
    manner = manner_of(model, plan=plan, guidance_scale=guidance_scale)
    return Talk(
        load(model, accept="any"),
        manner.fmt,
        decoding,
        plan=manner.plan,
        max_length=manner.max_length,
        planners=manner.planners,
        origin=model,
    )


def _line() -> str:
    if sys.stdin.isatty() or not hasattr(sys.stdin, "buffer"):
        return input("you> ")
    # Through a pipe line by line: Python decodes ahead, and a wrong byte further down would stop the lines before it.
    click.echo("you> ", nl=False)
    line = sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    return line.decode("utf-8")


def _exchange(talk: Talk, *, show_plan: bool = False) -> bool:
    try:
        text = _line().strip()
    except UnicodeDecodeError:
        raise UserError("The input is not UTF-8 text; set the terminal to UTF-8 and start again.") from None
    command, _, rest = text.partition(" ")
    if command in ("/quit", "/exit"):
        return False
    if command == "/undo":
        click.echo("taken back" if talk.undo() else "there is nothing to take back", err=True)
    elif command == "/reset":
        talk.reset()
        click.echo("forgotten", err=True)
    elif command == "/why":
        click.echo(json.dumps(talk.why(), indent=1, ensure_ascii=False))
    elif command == "/plan":
        _plan(talk, rest.strip())
    elif command == "/save":
        _save(talk, rest.strip())
    elif command.startswith("/"):
        click.echo(f"Unknown command '{command}'. {HELP}", err=True)
    elif text:
        _answer(talk, text, show_plan=show_plan)
    return True


def _answer(talk: Talk, text: str, *, show_plan: bool) -> None:
    before = talk.conversation
    try:
        talk.say(text)
        click.echo("    > ", nl=False)
        reply = talk.reply(lambda piece: click.echo(piece, nl=False))
        click.echo("")
        if show_plan:
            click.echo(described(talk.thought), err=True)
        elif reply.plan:
            click.echo(f"    ({', '.join(f'{k}: {v}' for k, v in reply.plan.items())})", err=True)
    except UserError as err:
        talk.conversation = before
        click.echo(f"\nheedful: {err}", err=True)
    except BaseException:
        talk.conversation = before  # a message without its answer is no exchange
        raise


def described(thought: Mapping[str, Any]) -> str:
    """What a reply was made from, a line each: the strategies by probability, the stage, what was looked up."""
    lines = []
    for label_set, found in (thought.get("probabilities") or {}).items():
        chosen = thought.get(label_set)
        order = sorted(found.items(), key=lambda pair: -pair[1])
        lines += [f"    {p:6.1%} {'*' if label == chosen else ' '} {label}" for label, p in order]
        stage = _stage(label_set, chosen)
        lines.append(
            f"    stage: {stage or 'none of its own'} (our reading of the strategy, not a label of the corpus)"
        )
    for source in thought.get("sources") or ():
        score = source.get("score")
        about = f" ({source['id']})" if source.get("id") else ""
        lines.append(
            f"    {source['name']}: {source.get('text', '-')}{about}{'' if score is None else f' {score:.2f}'}"
        )
    return "\n".join(lines) or "    no plan: this model writes its words at once"


def _stage(label_set: str, label: str | None) -> str | None:
    try:
        walk = taxonomy.crosswalk(label_set, "esc_stage")
    except NotFoundError:
        return None
    return walk.map(label) if label else None


def _plan(talk: Talk, spec: str) -> None:
    """Choose the strategy of the replies to come (`/plan Question`); without a name, show what there is."""
    if talk.fmt.plan_marks is None:
        click.echo("this model writes no strategy before its words", err=True)
        return
    if not spec:
        click.echo(f"argmax, sample, {', '.join(talk.fmt.plan_marks[1])}", err=True)
        return
    try:
        kept = talk.plan.config.guidance_scale if isinstance(talk.plan, PlanSetting) else 1.0
        talk.plan = settle_talk_plan(spec, talk.fmt, model=talk.origin, guidance_scale=kept)
    except UserError as err:
        click.echo(f"heedful: {err}", err=True)
    else:
        click.echo(f"from now on: {spec}", err=True)


def _save(talk: Talk, path: str) -> None:
    if not path:
        click.echo("write /save FILE.jsonl", err=True)
        return
    if not len(talk.conversation):
        click.echo("there is nothing to save yet", err=True)
        return
    try:
        write_jsonl(Path(path), [talk.conversation])
    except (UserError, OSError) as err:  # a wrong path must not end the talk
        click.echo(f"not saved: {err}", err=True)
    else:
        click.echo(f"saved to {path}", err=True)

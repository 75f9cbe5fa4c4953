"""Progress on stderr, results on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import click


class Progress:
    """One line that changes on a terminal; a line every few seconds elsewhere, so that logs stay short."""

    def __init__(self, *, every: float = 5.0) -> None:
        self.live = sys.stderr.isatty()
        self.every, self.last, self.open = every, 0.0, False

    def step(self, text: str) -> None:
        """Something small happened."""
        now = time.monotonic()
        if self.live:
            click.echo(f"\r\x1b[2K{text}", err=True, nl=False)
            self.open = True
        elif now - self.last >= self.every:
            click.echo(text, err=True)
            self.last = now

    def say(self, text: str) -> None:
        """Something worth a line of its own."""
        self.close()
        click.echo(text, err=True)

    def close(self) -> None:
        """End a changing line."""
        if self.open:
            click.echo("", err=True)
            self.open = False


def number(value: float | None, digits: int = 2) -> str:
    """A figure for a table; missing is a dash, never 0."""
    return "—" if value is None else f"{value:,.{digits}f}"


def estimate(found: Mapping[str, Any], digits: int = 2) -> str:
    """`value`, and `low` to `high` where there is an interval, for a cell of a rich table."""
    ends = "" if found["low"] is None else f" [dim]{number(found['low'], digits)}–{number(found['high'], digits)}[/dim]"
    return f"{number(found['value'], digits)}{ends}"


def training_progress(progress: Progress) -> Any:
    """A transformers callback that draws a training run: step, loss, tokens a second, time left."""
    from transformers import TrainerCallback

    class Show(TrainerCallback):
        begun = 0.0
        first = 0
        loss: float | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.begun, self.first = time.monotonic(), state.global_step

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            self.loss = (logs or {}).get("loss", self.loss)
            if "eval_loss" in (logs or {}):
                progress.say(f"step {state.global_step}: validation loss {logs['eval_loss']:.3f}")

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            done = state.global_step - self.first
            spent = time.monotonic() - self.begun
            left = spent / max(1, done) * (state.max_steps - state.global_step)
            loss = "" if self.loss is None else f", loss {self.loss:.3f}"
            progress.step(f"step {state.global_step}/{state.max_steps}{loss}, {spent:.0f} s, about {left:.0f} s left")

    return Show()

"""The `heedful` command: thin verbs over the library. A verb's module is imported only when the verb is called."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence

import click

from heedful.errors import HeedfulError
from heedful.registry import load_path

VERBS: dict[str, tuple[str, str]] = {
    "audit": ("heedful.cli.store:audit_group", "Whether the record of who did what is whole."),
    "chat": ("heedful.cli.chat:chat_command", "Talk with a model or a run in the terminal."),
    "config": ("heedful.cli.config:config_group", "Show a resolved configuration or its JSON schema."),
    "data": ("heedful.cli.data:data", "Corpora: list, show, check, statistics."),
    "demo": ("heedful.cli.demo:demo_command", "Corpus to trained model to report, in minutes."),
    "doctor": ("heedful.cli.doctor:doctor_command", "What this machine has, and what to type for the rest."),
    "eval": ("heedful.cli.evaluate:eval_group", "Evaluate a model beside trivial baselines; compare evaluations."),
    "export": ("heedful.cli.export:export_group", "Export a run, or decisions of the clinic as preferences."),
    "init": ("heedful.cli.init:init_command", "Write a runnable starter folder."),
    "knowledge": ("heedful.cli.knowledge:knowledge_group", "Stores of vetted knowledge: build, search, show."),
    "profile": ("heedful.cli.profile:profile_group", "Jurisdiction profiles: who checked them, and when."),
    "report": ("heedful.cli.report:report_group", "Reports that laws ask for: yearly counts, incidents, dossier."),
    "score": ("heedful.cli.score:score_command", "Score any file of references and generations."),
    "serve": ("heedful.cli.serve:serve_command", "Serve the clinic and the OpenAI-compatible API."),
    "store": ("heedful.cli.store:store_group", "The clinic's store: backup, restore, keys."),
    "train": ("heedful.cli.train:train_command", "Train as a YAML file says; --dry-run, --resume."),
    "validate": ("heedful.cli.train:validate_command", "Check configuration and data before any model loads."),
    "version": ("heedful.cli.version:version_command", "Version and commit."),
}
"""verb -> (where it is, one line of help)."""


class Verbs(click.Group):
    """Subcommands from the table, imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = load_path(VERBS[cmd_name][0])
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(VERBS.items())])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks (they never hold text of a conversation).")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """heedful: an open workbench for supportive dialogue.

    \b
    heedful demo                                   corpus -> training -> evaluation -> report
    heedful train recipes/esconv-sft.yaml seed=7   one file, any key on top
    heedful chat runs/demo                         talk with the result
    """
    ctx.obj = {"debug": debug}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 wrong use, 3 a gate refused."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _quiet()
    if "" not in sys.path and not sys.flags.safe_path:
        sys.path.append("")  # the current folder: `my_rewards:function` beside a YAML file; last, so it hides nothing
    try:
        code = cli(args=words, prog_name="heedful", standalone_mode=False)
    except HeedfulError as err:
        if "--debug" in words:
            raise
        click.echo(f"heedful: {err}", err=True)
        sys.exit(err.exit_code)
    except click.ClickException as err:
        err.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("heedful: stopped; what was finished is kept.", err=True)
        sys.exit(130)
    except OSError as err:
        if err.errno is None or "--debug" in words:  # libraries raise bare OSErrors for their own troubles
            raise
        click.echo(f"heedful: {os.strerror(err.errno)}: '{err.filename or 'unknown file'}'.", err=True)
        sys.exit(1)
    if isinstance(code, int):  # what a command gave to ctx.exit; click hands it back in this mode
        sys.exit(code)


def _quiet() -> None:
    """Keep libraries from talking over our own progress; set before they are imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.getLogger("torch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(torch|transformers|peft|accelerate)\b.*")

"""Errors of the command: one line that names the option, and no traceback unless asked for."""

import re
from typing import Any

import click

from pml_hashing.command.output import shown, warn

SHOW = "pml_hashing.traceback"  # in the context
STOPPED = "pml_hashing.stopped"  # too: a subcommand's own text for after Ctrl-C

GOING_ON = {
    "index": "The same command goes on from what was encoded, if anything was.",
    "train": "The same command goes on, from the latest checkpoint if there is one.",
    "serve": "The same command serves again.",
}
"""What to do after Ctrl-C, by subcommand."""

OPTION_OF = {
    "checkpoint_path": "checkpoint",
    "code_length": "bits",
    "max_samples": "bits",
    "model_folder": "model",
    "num_rounds": "epochs",
    "num_workers": "workers",
    "on_unreadable": "collection",
    "place": "collection",
}
"""Options whose names are not those of the arguments that they are passed as."""

COMMAND_OF = {"`Collection.create`": '"pml-hashing index FOLDER"'}
"""Subcommands that do what messages of the Python API advise."""

UNREADABLE = "Expected a readable image, got "
"""How the messages of images that cannot be read begin, or parts of them."""

EXPECTED = (ArithmeticError, ImportError, LookupError, MemoryError, OSError, RuntimeError)
EXPECTED += (TypeError, ValueError)


class PlainErrors(click.Group):
    """A group of commands that turns exceptions into messages and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the subcommands in the order in which they are used."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a subcommand.

        Raises:
            ClickException: If it fails.
        """
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # which click knows
        except KeyboardInterrupt:
            going_on = ctx.meta.get(STOPPED) or GOING_ON.get(str(ctx.invoked_subcommand), "")
            click.echo(f"\nStopped. {going_on}".rstrip(), err=True)
            ctx.exit(130)
        except Exception as error:
            if ctx.meta.get(SHOW):
                raise
            command = self.commands[str(ctx.invoked_subcommand)]
            raise click.ClickException(with_options(message_of(error), command)) from error


def message_of(error: Exception) -> str:
    """Return what went wrong, for a person."""
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return ": ".join([error.strerror, *names])
    if isinstance(error, EXPECTED) and error.args:  # a KeyError puts its message in quotes
        return str(error.args[0] if isinstance(error, KeyError) else error)
    return f"{type(error).__name__}: {error} (--traceback shows where)"


def warn_left_out(error: Exception) -> None:
    """Tell of an image that cannot be read, and why."""
    reason = str(error).rpartition(UNREADABLE)[2].rstrip(".")
    warn(f"left out: {with_options(reason, click.get_current_context().command)}")


def with_options(message: str, command: click.Command) -> str:
    """Return a message of the Python API in the words of the command: subcommands and options."""
    message = "\n".join(map(shown, message.splitlines()))
    for method, own in COMMAND_OF.items():
        message = message.replace(method, own)
    options = {
        str(param.name): param.opts[0]
        for param in command.params
        if isinstance(param, click.Option)
    }
    options |= {name: options[own] for name, own in OPTION_OF.items() if own in options}
    message = re.sub(r"`(\w+)`", lambda match: options.get(match[1], match[0]), message)
    return re.sub(r"(--[\w-]+) \(\1\)", r"\1", message)  # messages tell scripts their option

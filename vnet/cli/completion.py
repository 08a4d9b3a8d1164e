"""``vnet completion``: print a script by which a shell completes commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["command"]

VARIABLE = "_VNET_COMPLETE"
"""Environment variable by which the script calls vnet."""


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script for a SHELL.

    \b
    bash:  echo 'eval "$(vnet completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(vnet completion zsh)"' >> ~/.zshrc
    fish:  vnet completion fish > ~/.config/fish/completions/vnet.fish
    """
    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(context.find_root().command, {}, "vnet", VARIABLE).source())

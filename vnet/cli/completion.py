"""``vnet completion``: what a shell needs to complete vnet's commands and the names of what runs."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["command"]

VARIABLE = "_VNET_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL, for its start-up file.

    \b
    bash:  echo 'eval "$(vnet completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(vnet completion zsh)"' >> ~/.zshrc
    fish:  vnet completion fish > ~/.config/fish/completions/vnet.fish
    """
    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(context.find_root().command, {}, "vnet", VARIABLE).source())

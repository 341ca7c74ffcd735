"""Every option from the environment too: FUNDUS_CLIENT_SCORE_IN_FLIGHT stands for `score --in-flight`."""

import click

PREFIX = "FUNDUS_CLIENT"


def with_variables(command: click.Command, prefix: str = PREFIX) -> click.Command:
    """Let each option of a command, or of those of a group, be set by a variable of its own name.

    click's `auto_envvar_prefix` would name it after the parameter in the code: FUNDUS_CLIENT_SCORE_URLS.
    """
    path = f"{prefix}_{command.name}"
    for option in command.params:
        if isinstance(option, click.Option):
            name = max(option.opts, key=len).lstrip("-")
            option.envvar = f"{path}_{name}".replace("-", "_").upper()
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        with_variables(below, path)
    return command

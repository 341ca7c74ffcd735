"""Every option from the environment too: FUNDUS_CLIENT_SCORE_IN_FLIGHT stands for `score --in-flight`."""

import click

PREFIX = "FUNDUS_CLIENT"


def with_variables(command: click.Command) -> click.Command:
    """Let each option of a command be set by a variable of its own name.

    click's `auto_envvar_prefix` would name it after the parameter in the code: FUNDUS_CLIENT_SCORE_URLS.
    """
    for option in command.params:
        if isinstance(option, click.Option):
            name = max(option.opts, key=len).lstrip("-")
            option.envvar = f"{PREFIX}_{command.name}_{name}".replace("-", "_").upper()
    return command

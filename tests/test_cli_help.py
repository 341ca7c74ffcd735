"""Every command and subcommand explains itself, with an example."""

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version

import click
import pytest
from click.testing import CliRunner
from tests.conftest import succeed

COMMANDS = ("train", "export", "client", "eval")


def group(name: str) -> click.Group:
    found = import_module(f"fundus_{name}.cli").main
    assert isinstance(found, click.Group)
    return found


def below(command: click.Command) -> Iterator[list[str]]:
    """The names that lead to each command below a group."""
    for name, each in command.commands.items() if isinstance(command, click.Group) else ():
        yield from ([name, *names] for names in ([], *below(each)))


SUBCOMMANDS = [(name, " ".join(names)) for name in COMMANDS for names in below(group(name))]


@pytest.mark.parametrize("name", COMMANDS)
def test_installed_command_and_version(name: str) -> None:
    assert succeed(name, "--version").strip() == f"fundus-{name}, version {version('fundus-triton')}"
    assert all(subcommand in succeed(name, "--help") for subcommand in group(name).commands)


@pytest.mark.parametrize(("name", "subcommand"), SUBCOMMANDS)
def test_help_has_an_example(name: str, subcommand: str) -> None:
    done = CliRunner().invoke(group(name), [*subcommand.split(), "--help"])
    assert done.exit_code == 0
    assert "Example" in done.output
    assert f"  fundus-{name} {subcommand} " in done.output


@pytest.mark.parametrize(("name", "subcommand"), SUBCOMMANDS)
def test_every_option_is_explained(name: str, subcommand: str) -> None:
    command: click.Command = group(name)
    for each in subcommand.split():
        assert isinstance(command, click.Group)
        command = command.commands[each]
    options = [each for each in command.params if isinstance(each, click.Option)]
    unexplained = [option.name for option in options if not option.help]
    assert unexplained == []


@pytest.mark.parametrize(("name", "subcommand"), SUBCOMMANDS)
def test_an_unknown_option_is_a_usage_error(name: str, subcommand: str) -> None:
    done = CliRunner().invoke(group(name), [*subcommand.split(), "--no-such-option"])
    assert done.exit_code == 2
    assert "--help" in done.output

"""What keeps photographs from being scored here, and what to do about it: this computer, bundle, servers.

Nothing is changed; of images the servers get a synthetic phantom only.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fundus_client.checkup import machine
from fundus_client.checkup.consultation import Heard, ask_all, compared
from fundus_client.checkup.finding import Finding, Level, explained, unexpected
from fundus_client.servers import reference_repository, scoring_servers
from fundus_core.ensemble import EnsembleSpec
from fundus_core.errors import FundusError, UsageError
from fundus_core.repository import TERMS, check_repository
from fundus_core.tls import Tls

START_S = 120.0


@dataclass(frozen=True)
class Case:
    """What a run would be called with."""

    urls: tuple[str, ...]
    repository: Path | None
    tls: Tls | None
    output: Path
    timeout_s: float


@dataclass(frozen=True)
class Examination:
    """Everything that was found; `unreachable`: none of the servers at `Case.urls` was ready."""

    findings: tuple[Finding, ...]
    unreachable: bool = False

    def count(self, level: Level) -> int:
        """Return how many findings are of this level."""
        return sum(finding.level == level for finding in self.findings)


@dataclass(frozen=True)
class _Bundle:
    folder: Path
    spec: EnsembleSpec


def examine(case: Case) -> Examination:
    """Check what a run needs; without urls start the embedded server, where nothing speaks against it.

    Raises:
        UsageError: a url is not host:port, or `tls` is meant for the embedded server.
    """
    output = partial(machine.output_place, case.output)
    findings = [*_checked(machine.software, output)]
    bundle = None
    if case.repository or not case.urls:
        bundle, about_bundle = _look_at_bundle(case.repository)
        findings += about_bundle
    if not case.urls:
        fitness = [*_checked(*_needs_of_server(bundle))]
        findings += fitness
        if bundle is None or any(finding.level == "problem" for finding in fitness):
            return Examination(tuple(findings))
    heard, about_servers = _consult(case, bundle)
    unreachable = bool(case.urls) and not any(each.ready for each in heard)
    return Examination((*findings, *about_servers), unreachable)


def _checked(*checks: Callable[[], Finding]) -> Iterator[Finding]:
    """Yield what each check finds; one that this system confuses is no reason to leave out the others."""
    for check in checks:
        try:
            yield check()
        except Exception as error:
            yield unexpected(error)


def _look_at_bundle(repository: Path | None) -> tuple[_Bundle | None, list[Finding]]:
    try:
        folder = repository or reference_repository()
        spec = check_repository(folder)
    except FundusError as error:
        return None, [explained(error)]
    findings = [Finding("ok", f"'{folder}' is {spec.title}, and no file of it was changed")]
    if (folder / TERMS).is_file():
        findings.append(Finding("ok", f"Its weights have terms of their own: '{folder / TERMS}'"))
    return _Bundle(folder, spec), findings


def _needs_of_server(bundle: _Bundle | None) -> Iterator[Callable[[], Finding]]:
    yield from (machine.server_parts, machine.cores, machine.temporary_folder)
    if bundle:
        yield partial(machine.memory, bundle.folder, bundle.spec)
        yield partial(machine.shared_memory, bundle.folder, bundle.spec)


def _consult(case: Case, bundle: _Bundle | None) -> tuple[list[Heard], list[Finding]]:
    own = bundle.folder if bundle and not case.urls else None
    try:
        with scoring_servers(case.urls, own, START_S, case.tls) as endpoints:
            heard = asyncio.run(ask_all(endpoints, case.timeout_s))
    except UsageError:
        raise
    except FundusError as error:
        return [], [explained(error)]
    said = [finding for each in heard for finding in each.findings]
    return heard, [*said, *compared(heard, bundle.spec if bundle else None)]

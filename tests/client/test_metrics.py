"""Metrics of a watch, and what docs/watch.md offers: a unit for systemd and rules for Prometheus."""

import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from fundus_client.commands.watch import watch
from fundus_client.listener import free_port
from fundus_client.watching.metrics import PrometheusMetrics
from fundus_core.errors import MissingExtraError, UsageError

DOCS = Path(__file__).resolve().parents[2] / "docs" / "watch.md"


def asked(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()


def test_without_prometheus_client_metrics_are_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'fundus-triton[watch]'")):
        PrometheusMetrics("127.0.0.1", free_port())


def test_a_port_that_is_taken_is_a_usage_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"Port {port} on 127.0.0.1 cannot be had: .* Choose another"):
            PrometheusMetrics("127.0.0.1", port)


def block(language: str) -> str:
    """The example in docs/watch.md in this language."""
    found = re.search(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found
    return found[1]


def check(program: str, *arguments: object) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_accepts_the_unit_in_the_docs(tmp_path: Path) -> None:
    unit = tmp_path / "fundus-watch.service"
    unit.write_text(block("ini").replace("/opt/fundus/bin/fundus-client", sys.executable))
    check("systemd-analyze", "verify", unit)
    check("systemd-analyze", "security", "--offline=true", "--threshold=20", unit)


def test_the_unit_in_the_docs_has_options_that_exist() -> None:
    (line,) = re.findall(r"ExecStart=(.*?)\n\w", block("ini"), re.DOTALL)
    known = {option for param in watch.params for option in param.opts}
    assert len(named := set(re.findall(r"--[a-z-]+", line))) == 5
    assert named <= known


def test_prometheus_accepts_the_rules_in_the_docs(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(block("yaml"))
    check("promtool", "check", "rules", tmp_path / "rules.yml")


def test_the_rules_in_the_docs_ask_for_metrics_that_exist() -> None:
    port = free_port()
    PrometheusMetrics("127.0.0.1", port)
    assert (named := set(re.findall(r"fundus_\w+", block("yaml"))))
    assert all(f"\n{name}" in asked(port) for name in named)

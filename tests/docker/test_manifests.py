"""The compose files and the Kubernetes manifests: no engine or cluster runs here, but their schemas do."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner
from tests.conftest import COMMANDS
from tests.docker.conftest import ENTRYPOINT, ROOT

from fundus_client.cli import main

DOCKER = ROOT / "docker"
MANIFESTS = DOCKER / "kubernetes"
NO_RESOURCES = {"kustomization.yaml", "prometheus-adapter.yaml"}  # of kustomize and of a Helm chart
KUBERNETES = "1.37"
COMPOSE = sorted(DOCKER.glob("compose*.yaml"))


def resources() -> Iterator[Any]:
    for path in sorted(MANIFESTS.glob("*.yaml")):
        if path.name not in NO_RESOURCES:
            yield from yaml.safe_load_all(path.read_text())


def resource(kind: str) -> Any:
    return next(found for found in resources() if found["kind"] == kind)


def compose() -> Any:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


def exit_timeout_s() -> int:
    found = re.search(r"--exit-timeout-secs=(\d+)", ENTRYPOINT.read_text())
    assert found
    return int(found[1])


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_files_fit_their_schema(path: object) -> None:
    line = [COMMANDS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", path]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("found", list(resources()), ids=lambda found: found["kind"])
def test_manifests_fit_their_schema(found: Any) -> None:
    kubernetes_validate.validate(found, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["server", "client", "prometheus"])
def test_every_service_is_locked_down(name: str) -> None:
    service = compose()["services"][name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def pod_of(kind: str) -> Any:
    spec = resource(kind)["spec"]
    return spec.get("jobTemplate", {"spec": spec})["spec"]["template"]["spec"]


@pytest.mark.parametrize("kind", ["Deployment", "Job", "CronJob"])
def test_every_pod_is_locked_down(kind: str) -> None:
    pod = pod_of(kind)
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        locked = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
        assert container["securityContext"] == {**locked, "capabilities": {"drop": ["ALL"]}}


def test_ports_are_published_on_loopback_unless_told_otherwise() -> None:
    published = [port for service in compose()["services"].values() for port in service.get("ports", [])]
    assert published == ["${FUNDUS_ADDRESS:-127.0.0.1}:8001:8001", "127.0.0.1:9090:9090"]


def test_a_server_may_finish_its_answers() -> None:
    assert int(compose()["services"]["server"]["stop_grace_period"].removesuffix("s")) > exit_timeout_s()
    pod = resource("Deployment")["spec"]["template"]["spec"]
    waited = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert waited[0] == "sleep"
    assert pod["terminationGracePeriodSeconds"] > int(waited[1]) + exit_timeout_s()


def test_every_setting_is_documented() -> None:
    text = "".join(path.read_text() for path in COMPOSE)
    settings = set(re.findall(r"\$\{(FUNDUS_\w+)", text))
    header = text.partition("\nname:")[0]
    guide = (ROOT / "docs" / "serving.md").read_text()
    assert settings == set(re.findall(r"^#   (FUNDUS_\w+)", header, re.MULTILINE))
    assert settings == set(re.findall(r"^\| `(FUNDUS_\w+)`", guide, re.MULTILINE))


def test_two_lines_of_the_deployment_mount_a_live_repository() -> None:
    text = (MANIFESTS / "deployment.yaml").read_text()
    mounted = yaml.safe_load(re.sub(r"(?m)^( *)# (- {name: live, )", r"\1\2", text))
    kubernetes_validate.validate(mounted, KUBERNETES, strict=True)
    pod = mounted["spec"]["template"]["spec"]
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    assert mounts.keys() == {each["name"] for each in pod["volumes"]}
    assert f"bundle=${{FUNDUS_BUNDLE:-{mounts['live']}}}" in ENTRYPOINT.read_text()


def test_kustomization_names_every_manifest_but_the_batches() -> None:
    kustomization = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())
    files = {path.name for path in MANIFESTS.glob("*.yaml")} - NO_RESOURCES
    assert set(kustomization["resources"]) == files - {"job.yaml", "nightly.yaml"}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert [image["newTag"] for image in kustomization["images"]] == [version]
    for kind in ("Job", "CronJob"):
        assert pod_of(kind)["containers"][0]["image"].endswith(f":{version}")


def test_the_night_is_three_steps_that_exist_with_their_options() -> None:
    pod = pod_of("CronJob")
    steps = [step["args"][0] for step in (*pod["initContainers"], *pod["containers"])]
    calls = [re.findall(r"fundus-client ((?:pacs )?\w+)", step)[0] for step in steps]
    assert calls == ["pacs pull", "score", "pacs send"]
    for call, step in zip(calls, steps, strict=True):
        known = CliRunner().invoke(main, [*call.split(), "--help"]).output
        assert all(option in known for option in re.findall(r"--\w[\w-]+", step))
        assert step.rstrip().endswith("|| [ $? -eq 3 ]")


def test_the_parts_of_the_cluster_find_each_other() -> None:
    deployment, job = resource("Deployment"), resource("Job")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = resource(kind)["spec"]
        selector = spec.get("selector") or spec["podSelector"]
        assert selector.get("matchLabels", selector) == labels
    address = job["spec"]["template"]["spec"]["containers"][0]["args"][-1]
    assert address == f"{resource('Service')['metadata']['name']}:8001"
    scaled = resource("HorizontalPodAutoscaler")["spec"]
    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    rules = yaml.safe_load((MANIFESTS / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert scaled["metrics"][0]["pods"]["metric"]["name"] == rules[0]["name"]["as"]

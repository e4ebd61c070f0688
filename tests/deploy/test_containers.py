"""The image, the compose file and the Kubernetes manifest, as far as they can be checked without running them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

from signal_manager.service.config import load
from signal_manager.service.settings import Config, insecure_settings, published_credentials

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
MANIFEST = ROOT / "deploy" / "kubernetes" / "signal-manager.yaml"
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent))


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions with what they say."""
    text = re.sub(r"\\\n", "", (DOCKER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in lines)]


def image_settings() -> dict[str, str]:
    """Return the variables that the image sets for the service."""
    (environment,) = (rest for word, rest in instructions() if word == "ENV")
    return dict(re.findall(r"(SIGNAL_MANAGER_\w+)=(\S+)", environment))


def configured(directory: Path, environment: dict[str, str], file: Path | None = None) -> Config:
    """Return the configuration of a service with these variables; a wrong name or value would be an error."""
    ours = {name: value for name, value in environment.items() if name.startswith("SIGNAL_MANAGER_")}
    return load(file, environ=ours, directory=directory)


# -- the image ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(HADOLINT is None, reason="hadolint has no wheel for this machine")
def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    found = subprocess.run([str(HADOLINT), DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)

    assert (found.returncode, found.stdout) == (0, "")


def test_the_image_is_built_in_two_stages_and_runs_without_root() -> None:
    words = [word for word, _ in instructions()]
    by_word = dict(instructions())

    assert words.count("FROM") == 2
    assert "--from=build" in by_word["COPY"]
    assert by_word["USER"] == "10001:10001"
    assert words.index("USER") > words.index("RUN")
    assert "/health" in by_word["HEALTHCHECK"]
    assert by_word["STOPSIGNAL"] == "SIGTERM"


def test_the_health_check_is_a_program_that_fails_when_nobody_answers() -> None:
    check = dict(instructions())["HEALTHCHECK"].partition("CMD ")[2]
    _, option, code = yaml.safe_load(check)

    failed = subprocess.run([sys.executable, option, code], env={"SIGNAL_MANAGER_METRICS_PORT": "1"}, check=False,
                            capture_output=True, timeout=60)  # fmt: skip

    assert failed.returncode == 1
    assert b"Connection refused" in failed.stderr


def test_the_image_s_settings_exist_and_ask_for_secrets(tmp_path: Path) -> None:
    config = configured(tmp_path, image_settings())

    assert insecure_settings(config) == ["auth.token_secret"]
    assert config.storage.sqlite_path.startswith(dict(instructions())["VOLUME"])


def test_everything_that_the_build_copies_is_in_its_context() -> None:
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        name.removeprefix("./")
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for name in rest.split()[:-1]
    }

    assert "*" in ignored
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def locked() -> dict[str, tuple[str, list[str]]]:
    """Return what requirements.lock names: its version and the hashes of its files."""
    text = (DOCKER / "requirements.lock").read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, version = line.split()[0].split("==")
            found[canonical(name)] = (version, re.findall(r"--hash=sha256:([0-9a-f]{64})\b", line))
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_image_installs_what_was_tested_and_every_file_by_its_hash() -> None:
    lines = [line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    tested = {canonical(name): version.split()[0] for name, _, version in lines if not name.startswith("#")}
    pinned = locked()

    assert {name: version for name, (version, _) in pinned.items() if name in tested and tested[name] != version} == {}
    assert [name for name, (_, hashes) in pinned.items() if not hashes] == []
    assert not re.search(r"https?:|index", (DOCKER / "requirements.lock").read_text().partition("\n\n")[2])


def test_the_lock_has_everything_that_the_image_s_extras_ask_for() -> None:
    files = [ROOT / folder / "pyproject.toml" for folder in ("packages/client", "packages/sfu", ".")]
    projects = [tomllib.loads(path.read_text()) for path in files]
    extras = projects[-1]["project"]["optional-dependencies"]
    asked = extras["firestore"] + extras["otel"]
    for project in projects:
        asked += project["project"]["dependencies"] + project["build-system"]["requires"]
    wanted = {canonical(re.split(r"[<>=!~\[; ]", each)[0]) for each in asked}
    ours = {project["project"]["name"] for project in projects}

    assert wanted - ours - set(locked()) == set()


# Stands in for `docker buildx imagetools inspect NAME --format …`, and for the registries behind it.
BUILDX = """#!/bin/sh
[ "$1 $2 $3" = "buildx imagetools inspect" ] || exit 1
case $4 in
*unknown*) echo "ERROR: $4: not found" >&2; exit 1 ;;
*@*) echo "ERROR: $4: expected a tag" >&2; exit 1 ;;
esac
printf '"sha256:%s"' "$(printf %s "$4$TURN" | sha256sum | cut -c -64)"
"""
PINNED = r"@sha256:[0-9a-f]{64}"


def pin(deploy: Path, *image: str, turn: str = "") -> subprocess.CompletedProcess[str]:
    tools = deploy.parent / "tools"
    if not tools.exists():
        tools.mkdir()
        (tools / "docker").write_text(BUILDX)
        (tools / "docker").chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "TURN": turn}
    command = ["sh", str(deploy / "docker" / "pin.sh"), *image]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def images_in(deploy: Path) -> list[str]:
    texts = [
        (deploy / name).read_text()
        for name in ("docker/Dockerfile", "docker/compose.yaml", "kubernetes/signal-manager.yaml")
    ]
    found = re.findall(
        r"^ARG PYTHON_IMAGE=(\S+)$|^ +image: (?:\$\{\w+:-)?([^\s}]+)\}?$", "\n".join(texts), re.MULTILINE
    )
    return [one or other for one, other in found]


def test_one_command_names_all_images_by_digest(tmp_path: Path) -> None:
    deploy = tmp_path / "deploy"
    shutil.copytree(ROOT / "deploy", deploy)
    tagged = ["python:3.12-slim-bookworm", "nats:2.11-alpine", "google/cloud-sdk:emulators", "signal-manager:latest"]
    assert [image.partition("@")[0] for image in images_in(deploy)] == tagged

    assert pin(deploy).returncode == 0
    first = images_in(deploy)
    assert [re.sub(PINNED, "", image) for image in first] == tagged
    assert all(re.search(PINNED + "$", image) for image in first[:3])
    assert first[3] == tagged[3], "the operator who pushed the service's image names it"

    assert pin(deploy, "registry.example:5000/call/signal-manager:1.0", turn="later").returncode == 0
    second = images_in(deploy)
    assert all(re.search(PINNED + "$", image) for image in second)
    assert second[3].startswith("registry.example:5000/call/signal-manager:1.0@")
    assert set(first).isdisjoint(second), "it moves to what the tags mean by then"
    assert [rest.split()[0] for word, rest in instructions() if word == "FROM"] == ["${PYTHON_IMAGE}"] * 2


def test_nothing_is_changed_where_a_registry_does_not_know_an_image(tmp_path: Path) -> None:
    deploy = tmp_path / "deploy"
    shutil.copytree(ROOT / "deploy", deploy)
    before = images_in(deploy)

    refused = pin(deploy, "unknown:1.0")

    assert refused.returncode == 1
    assert "no digest of unknown:1.0" in refused.stderr
    assert images_in(deploy) == before


# -- compose -----------------------------------------------------------------------------------------------------


def composed() -> dict[str, Any]:
    """Return the compose file with its anchors put in, and every variable that must be given with some value."""
    text = re.sub(r"\$\{\w+:\?[^}]*\}", "0123456789abcdef0123456789abcdef", (DOCKER / "compose.yaml").read_text())
    document: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    return document


def test_the_compose_file_keeps_to_the_specification() -> None:
    compose = PyCompose.from_json(json.dumps(composed()))

    assert sorted(compose.service_names()) == ["firestore", "nats", "node-1", "node-2"]


def test_the_nodes_have_settings_that_exist_and_names_of_their_own(tmp_path: Path) -> None:
    nodes = [service for name, service in composed()["services"].items() if name.startswith("node")]
    configs = [
        configured(tmp_path, image_settings() | {key: value or "" for key, value in node["environment"].items()})
        for node in nodes
    ]

    assert {config.bus.node_id for config in configs} == {"node-1", "node-2"}
    for config in configs:
        assert (config.bus.backend, config.storage.backend) == ("nats", "firestore")
        assert insecure_settings(config) == []


def test_containers_have_time_to_drain_and_nothing_that_they_do_not_need(tmp_path: Path) -> None:
    for name, service in composed()["services"].items():
        if name.startswith("node"):
            assert float(service["stop_grace_period"].removesuffix("s")) > Config().server.drain_timeout
            assert service["read_only"] is True
        assert not service.get("privileged")
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), "a trial is not for the network"


# -- Kubernetes --------------------------------------------------------------------------------------------------


def manifest() -> dict[str, dict[str, Any]]:
    """Return the manifest's documents by kind."""
    return {document["kind"]: document for document in yaml.safe_load_all(MANIFEST.read_text())}


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifest()["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
def test_the_manifest_keeps_to_kubernetes_own_schemas(version: str) -> None:
    for document in manifest().values():
        kubernetes_validate.validate(document, version, strict=True)


def test_selectors_ports_and_names_in_the_manifest_belong_together() -> None:
    documents = manifest()
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    container = pod()["containers"][0]
    ports = {port["name"] for port in container["ports"]}

    for kind, path in {
        "Deployment": "selector",
        "NetworkPolicy": "podSelector",
        "PodDisruptionBudget": "selector",
    }.items():
        assert documents[kind]["spec"][path]["matchLabels"] == labels
    assert documents["Service"]["spec"]["selector"] == labels
    assert {port["targetPort"] for port in documents["Service"]["spec"]["ports"]} <= ports
    assert {
        container[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    } <= ports
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"


def test_nodes_prove_to_nats_who_they_are_and_nats_to_them() -> None:
    config = tomllib.loads(manifest()["ConfigMap"]["data"]["config.toml"])
    variables = {each["name"]: each["valueFrom"] for each in pod()["containers"][0]["env"]}
    mounts = [each["mountPath"] for each in pod()["containers"][0]["volumeMounts"]]

    assert "secretKeyRef" in variables["SIGNAL_MANAGER_BUS_NATS_URL"]
    assert "nats_url" not in config["bus"]
    assert any(config["bus"]["nats_ca_path"].startswith(mount) for mount in mounts)


def test_no_pod_but_the_ingress_s_can_choose_its_address() -> None:
    config = tomllib.loads(manifest()["ConfigMap"]["data"]["config.toml"])
    (websocket,) = [
        rule for rule in manifest()["NetworkPolicy"]["spec"]["ingress"] if rule["ports"][0]["port"] == "websocket"
    ]

    assert all(ip_network(network).num_addresses <= 256 for network in config["server"]["trusted_proxies"])
    assert websocket["from"]


def test_a_pod_is_drained_before_it_is_killed(tmp_path: Path) -> None:
    before = int(pod()["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    config = tomllib.loads(manifest()["ConfigMap"]["data"]["config.toml"])

    assert pod()["terminationGracePeriodSeconds"] > before + config["server"]["drain_timeout"]


def test_a_pod_may_do_nothing_but_its_work() -> None:
    container = pod()["containers"][0]

    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip


def test_the_manifest_s_configuration_is_valid_with_its_secrets(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(manifest()["ConfigMap"]["data"]["config.toml"])
    secrets = {variable["name"]: "0123456789abcdef0123456789abcdef" for variable in pod()["containers"][0]["env"]}
    secrets["SIGNAL_MANAGER_BUS_NATS_URL"] = "tls://signal-manager:password@nats:4222"

    config = configured(tmp_path, image_settings() | secrets, file)

    assert insecure_settings(config) == []
    assert published_credentials(config) == []
    assert config.metrics.port == pod()["containers"][0]["ports"][1]["containerPort"]

"""What operators deploy fits the program: settings, metrics, schemas, versions, and the checks of the tools."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from relay import __version__
from relay.config.variables import variables
from relay.telemetry.counters import METRICS

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
CHART = DOCKER / "helm" / "relay"
RULES = DOCKER / "prometheus" / "relay.rules.yaml"
KUBERNETES = "1.30"
FILES = [
    ROOT / "Dockerfile",
    ROOT / "docs" / "operations.md",
    *sorted(path for path in DOCKER.rglob("*") if path.is_file()),
]
NOT_SETTINGS = {"RELAY_ENV_FILE", "RELAY_MASTER_KEY"}
PROGRAMS = {"promtool": "prometheus", "systemd-analyze": "systemd"}


def run(*argv: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """One of the tools; skipped where it is not installed."""
    if shutil.which(argv[0]) is None:
        pytest.skip(f"needs {argv[0]} (package {PROGRAMS.get(argv[0], argv[0])})")
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_setting_that_is_named_exists(path: Path) -> None:
    named = set(re.findall(r"\b(?:RELAY|SMTP_AUTH|IMAP)_[A-Z0-9_]*[A-Z0-9]\b", path.read_text()))
    assert named - set(variables()) - NOT_SETTINGS == set()


def _expressions() -> Iterator[str]:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for panel in json.loads((DOCKER / "grafana" / "relay.json").read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_every_metric_and_label_that_is_asked_for_exists() -> None:
    seen = set()
    for expression in _expressions():
        for name, labels in re.findall(r"\b(relay_[a-z_]+)\b(?:\{([^}]*)\})?", expression):
            metric = METRICS[name.removesuffix("_bucket")]
            seen.add(name.removesuffix("_bucket"))
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels))
            assert asked <= {*metric.labels, "instance"}, expression
    assert seen == set(METRICS)  # nothing that is measured is shown nowhere


def test_the_dashboard_asks_what_prometheus_understands(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(_expressions())
    ]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    checked = run("promtool", "check", "rules", "panels.yaml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_alerts_are_raised_when_they_should_and_not_otherwise() -> None:
    checked = run("promtool", "check", "rules", RULES.name, cwd=RULES.parent)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = run("promtool", "test", "rules", "relay.rules.test.yaml", cwd=RULES.parent)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_a_rule_that_never_fires_would_be_noticed(tmp_path: Path) -> None:
    shutil.copy(RULES.parent / "relay.rules.test.yaml", tmp_path)
    (tmp_path / RULES.name).write_text(RULES.read_text().replace("> 4 * 3600", "> 400 * 3600"))
    tested = run("promtool", "test", "rules", "relay.rules.test.yaml", cwd=tmp_path)
    assert tested.returncode != 0
    assert "RelayQueueOld" in tested.stdout + tested.stderr


def test_every_alert_says_what_to_do() -> None:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert set(rule["annotations"]) == {"summary", "description", "action"}


def test_the_compose_file_is_one_and_hardened() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    jsonschema.validate(compose, get_builtin_schema("vendor.compose-spec"))
    relay = compose["services"]["relay"]
    assert relay["read_only"] is True
    assert relay["cap_drop"] == ["ALL"]
    assert [port for port in relay["ports"] if "8025" in port] == ["127.0.0.1:8025:8025"]
    assert "0.0.0.0:25:2525" in relay["ports"]  # IPv6 through the engine's proxy would come from an allowed address


def test_the_compose_file_means_what_it_says(tmp_path: Path) -> None:
    """As the tool itself resolves it, which needs no engine for that."""
    text = (DOCKER / "compose.yaml").read_text()
    if run("docker-compose", "version", "--short").stdout.startswith("1."):  # before `name` came to the format
        text = text.replace("name: relay\n", "", 1)
    (tmp_path / "compose.yaml").write_text(text)
    done = run("docker-compose", "-f", str(tmp_path / "compose.yaml"), "config", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    relay = yaml.safe_load(done.stdout)["services"]["relay"]
    assert (relay["read_only"], relay["cap_drop"], relay["restart"]) == (True, ["ALL"], "unless-stopped")
    assert relay["stop_grace_period"] == "45s"
    assert "privileged" not in relay


def test_the_compose_file_of_a_cluster_names_real_settings_and_is_hardened() -> None:
    compose = yaml.safe_load((DOCKER / "compose.cluster.yaml").read_text())
    jsonschema.validate(compose, get_builtin_schema("vendor.compose-spec"))
    nodes = {name: service for name, service in compose["services"].items() if name.startswith("relay-")}
    assert len(nodes) == 3
    for name, service in nodes.items():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert "relay-key-main" in service["secrets"]  # one key ring for all
        assert service["environment"]["RELAY_NODE__NAME"] == name
        assert service["environment"].keys() <= {variable.name for variable in variables().values()}
        assert "/readyz" in " ".join(service["healthcheck"]["test"])
        assert service["volumes"] == [f"{name}:/var/lib/relay"]  # each has a data folder of its own
        assert service["image"].endswith(f":{__version__}")
    inside = compose["networks"]["inside"]["ipam"]["config"][0]["subnet"]
    assert nodes["relay-1"]["environment"]["RELAY_LISTENER__PROXY_NETWORKS"] == inside


def test_haproxy_takes_the_balancers_file(tmp_path: Path) -> None:
    text = (DOCKER / "haproxy.cfg").read_text()
    servers = re.findall(r"server (relay-\d) relay-\d:(\d+)", text)
    assert sorted(servers) == sorted((f"relay-{n}", port) for n in (1, 2, 3) for port in ("2525", "8025"))
    (tmp_path / "haproxy.cfg").write_text(text)
    checked = run("/usr/sbin/haproxy", "-c", "-f", str(tmp_path / "haproxy.cfg"), cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def _checked(documents: str) -> dict[str, Any]:
    found = {}
    for document in yaml.safe_load_all(documents):
        if document is not None:
            if "." not in document["apiVersion"].split("/")[0] or document["apiVersion"].split("/")[0].endswith(
                "k8s.io"
            ):
                kubernetes_validate.validate(document, KUBERNETES, strict=True)
            found[f"{document['kind']}/{document['metadata']['name']}"] = document
    return found


def _is_confined(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/var/lib/relay", "/run/secrets", "/tmp"}


def test_the_manifests_are_what_kubernetes_takes() -> None:
    found = _checked((DOCKER / "kubernetes" / "relay.yaml").read_text())
    kinds = {name.split("/")[0] for name in found}
    assert {"StatefulSet", "Service", "PodDisruptionBudget", "NetworkPolicy", "ConfigMap"} <= kinds
    assert found["StatefulSet/relay"]["spec"]["replicas"] == 1
    _is_confined(found["StatefulSet/relay"]["spec"]["template"]["spec"])


VALUES: list[dict[str, Any]] = [
    {},
    {"console": {"enabled": False}, "networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}},
    {
        "settings": {"RELAY_LOG__LEVEL": "debug", "RELAY_LISTENER__MAX_CONNECTIONS": 500},
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"disk": "fast"},
        "podAnnotations": {"a": "b"},
        "persistence": {"storageClass": "fast"},
    },
]


@pytest.mark.parametrize("values", VALUES)
def test_the_chart_renders_to_what_kubernetes_takes(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    rendered = run("helm", "template", "mail", str(CHART), "--values", str(tmp_path / "values.yaml"))
    assert rendered.returncode == 0, rendered.stderr
    found = _checked(rendered.stdout)
    _is_confined(found["StatefulSet/mail-relay"]["spec"]["template"]["spec"])
    assert set(found["ConfigMap/mail-relay"]["data"]) <= set(variables())
    assert values.get("settings", {}).keys() <= found["ConfigMap/mail-relay"]["data"].keys()
    assert ("Service/mail-relay-console" in found) is values.get("console", {}).get("enabled", True)
    linted = run("helm", "lint", str(CHART), "--values", str(tmp_path / "values.yaml"))
    assert linted.returncode == 0, linted.stdout


def test_the_chart_refuses_values_that_it_does_not_know() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.validate(values, schema)
    for wrong in ({"replicas": 3}, {"settings": {"RELAY_MASTER_KEY": "k:x"}}, {"settings": {"LISTENER__PORT": 25}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**values, **wrong}, schema)


def test_one_version_everywhere() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    manifests = (DOCKER / "kubernetes" / "relay.yaml").read_text()
    assert chart["appVersion"] == __version__
    assert compose["services"]["relay"]["image"].endswith(f":{__version__}")
    assert re.findall(r"image: .*:(.*)", manifests) == [__version__]
    assert f"ARG VERSION={__version__}\n" in (ROOT / "Dockerfile").read_text()


def test_systemd_understands_the_units_and_finds_little_to_say(tmp_path: Path) -> None:
    for name in ("relay.service", "relay.socket"):
        text = (DOCKER / "systemd" / name).read_text().replace("/opt/relay/bin/relay", "/bin/true")
        (tmp_path / name).write_text(text)
    verified = run("systemd-analyze", "verify", "--man=no", "relay.service", "relay.socket", cwd=tmp_path)
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = run("systemd-analyze", "security", "--offline=true", "--threshold=15", "./relay.service", cwd=tmp_path)
    assert rated.returncode == 0, rated.stdout

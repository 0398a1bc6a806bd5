"""The manifests agree with the code: its time limits, its variables, and what the pooler bears."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from {{ cookiecutter.package_name }}.cli import GRACE_PERIOD
from {{ cookiecutter.package_name }}.database.connect import SECOND_TRY
from {{ cookiecutter.package_name }}.observe.budget import plan_deployment
from {{ cookiecutter.package_name }}.observe.patient import Options
from {{ cookiecutter.package_name }}.settings import Settings, load_settings
from {{ cookiecutter.package_name }}.web.health import READINESS_TIMEOUT

from tests.support import ROOT

MANIFESTS = ROOT / "kubernetes"

# Supavisor blocks every client from an address after so many wrong passwords in 150 s.
WRONG_LOGINS, WINDOW = 10, 150


def _logins_of_one_pod() -> int:
    """Those with a wrong password. The kubelet starts a container that has ended again at once, and then
    after 10, 20, 40 and 80 s, and each tries its password twice."""
    started, logins = 0, 0
    for pause in (0, 10, 20, 40, 80):
        logins += sum(at < WINDOW for at in (started, started + SECOND_TRY))
        started += SECOND_TRY + pause
    return logins


def _read(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load(path.read_text())
    return manifest


DEPLOYMENT = _read(MANIFESTS / "service" / "deployment.yaml")["spec"]
JOB = _read(MANIFESTS / "migrate" / "job.yaml")["spec"]
PODS = [DEPLOYMENT["template"], JOB["template"]]
[SERVICE] = DEPLOYMENT["template"]["spec"]["containers"]


def _example(pattern: str) -> str:
    match = re.search(pattern, (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert match, f".env.example has no {pattern}"
    return match[1]


def test_the_connections_stay_below_the_poolers_client_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the end of a rollout the old pods may all be finishing, in their grace period, beside as many
    new ones."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://user@host/database")
    for variable in SERVICE["env"]:
        if variable["name"].startswith("DATABASE_") and "value" in variable:
            monkeypatch.setenv(variable["name"], variable["value"])
    settings = load_settings()
    assert settings.database_pool == "queue", "without a pool nothing limits the connections"

    deployment = plan_deployment(settings, Options(), MANIFESTS)
    limit = int(_example(r"^#?POOLER_CLIENT_LIMIT=(\d+)$"))
    assert deployment.needed < limit, (
        f"{deployment}: not below POOLER_CLIENT_LIMIT={limit} of .env.example. In "
        f"kubernetes/service/: {deployment.advice(limit)}, in .env.example and compose.yaml too."
    )


def test_a_wrong_password_locks_nobody_out() -> None:
    """Whoever starts again and again with one has Supavisor block its neighbours too."""
    strategy = DEPLOYMENT["strategy"]["rollingUpdate"]
    assert strategy["maxUnavailable"] == 0, "pods that work would give way to pods that may not"
    assert strategy["maxSurge"] * _logins_of_one_pod() < WRONG_LOGINS, "lower maxSurge"
    assert JOB["backoffLimit"] == 0
    assert JOB["template"]["spec"]["restartPolicy"] == "Never"


def test_requests_in_flight_get_to_finish() -> None:
    """Kubernetes kills after the grace period, and it begins with preStop."""
    grace = DEPLOYMENT["template"]["spec"]["terminationGracePeriodSeconds"]
    sleep = SERVICE["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert grace > sleep + GRACE_PERIOD, (
        f"terminationGracePeriodSeconds is {grace}. Make it more than preStop's {sleep} and "
        f"GRACE_PERIOD, {GRACE_PERIOD}, together."
    )


def test_no_probe_restarts_a_service_for_its_database() -> None:
    assert SERVICE["startupProbe"]["httpGet"]["path"] == "/livez"
    assert SERVICE["livenessProbe"]["httpGet"]["path"] == "/livez"
    readiness = SERVICE["readinessProbe"]
    assert readiness["httpGet"]["path"] == "/readyz"
    assert READINESS_TIMEOUT < readiness["timeoutSeconds"] < readiness["periodSeconds"]


def test_every_variable_is_one_of_the_settings() -> None:
    """A misspelt one would have no effect, and nobody would be told."""
    known = {name.upper() for name in Settings.model_fields}
    for pod in PODS:
        for variable in pod["spec"]["containers"][0]["env"]:
            assert variable["name"] in known


def test_urls_come_from_a_secret_that_is_not_here() -> None:
    for pod in PODS:
        for variable in pod["spec"]["containers"][0]["env"]:
            if re.fullmatch(r"DATABASE_\w*URL", variable["name"]):
                assert variable.keys() == {"name", "valueFrom"}
                assert variable["valueFrom"].keys() == {"secretKeyRef"}
    assert "Secret" not in {_read(path).get("kind") for path in MANIFESTS.rglob("*.yaml")}


@pytest.mark.parametrize("pod", PODS, ids=["service", "migrate"])
def test_the_pods_pass_the_restricted_pod_security_standard(pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    [container] = spec["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001, "the user of the image"
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,  # more than the standard asks
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_pods_of_a_migration_get_no_requests() -> None:
    """They are of the same service, but what selects its pods has to leave them out."""
    service = _read(MANIFESTS / "service" / "service.yaml")["spec"]["selector"]
    budget = _read(MANIFESTS / "service" / "poddisruptionbudget.yaml")["spec"]["selector"]
    for selector in (service, budget["matchLabels"], DEPLOYMENT["selector"]["matchLabels"]):
        assert selector.items() <= DEPLOYMENT["template"]["metadata"]["labels"].items()
        assert not selector.items() <= JOB["template"]["metadata"]["labels"].items()


def test_the_network_policy_lets_pods_out_to_the_pooler_and_in_to_the_service() -> None:
    policy = _read(MANIFESTS / "common" / "networkpolicy.yaml")["spec"]
    for pod in PODS:
        assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    out = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert out >= {53, 5432, int(_example(r"^DATABASE_URL=.*:(\d+)/"))}
    [way_in] = policy["ingress"]
    assert [port["port"] for port in way_in["ports"]] == [SERVICE["ports"][0]["containerPort"]]

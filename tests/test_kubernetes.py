"""The generated manifests, as `kubectl apply -k` would send them."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from conftest import Project, Service, bake, run_copied
from kubernetes_validate import utils
from test_projects import LONG, POOLERS

# 1.30: the first where `preStop` may sleep without a feature gate, and so what the manifests need.
# 1.35: the oldest that Kubernetes' maintainers still mend (until February 2027).
VERSIONS = ["1.30", "1.35", kubernetes_validate.latest_version()]

KINDS = {
    "migrate": {"Job", "NetworkPolicy", "ServiceAccount"},
    "service": {
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    },
}

# What Kubernetes adds to a name for that of a pod: "-", 10 characters of the ReplicaSet, "-" and 5.
# A longer name it would cut.
ADDED = {"Deployment": 17, "Job": 6}


def render(project: Project, folder: str) -> list[dict[str, Any]]:
    """What `kubectl apply -k kubernetes/<folder>` sends."""
    if shutil.which("kubectl") is None:
        pytest.fail(
            "kubectl is not on PATH, and its kustomize renders the manifests. Install it: "
            "https://kubernetes.io/docs/tasks/tools/#kubectl"
        )
    result = subprocess.run(
        ["kubectl", "kustomize", str(project.path / "kubernetes" / folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == "", "kustomize warns of what it will not take any more one day"
    return list(yaml.safe_load_all(result.stdout))


@pytest.fixture(scope="module", params=["", "long"], ids=["default-name", "long-name"])
def names(request: pytest.FixtureRequest) -> dict[str, str]:
    return LONG if request.param else {}


@pytest.fixture(scope="module", params=POOLERS)
def project(
    request: pytest.FixtureRequest, names: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Project:
    return bake(tmp_path_factory.mktemp("kubernetes"), pooler=request.param, **names)


@pytest.mark.parametrize("folder", KINDS)
def test_the_manifests_are_what_kubernetes_takes(project: Project, folder: str) -> None:
    documents = render(project, folder)
    assert {document["kind"] for document in documents} == KINDS[folder]
    for document in documents:
        for version in VERSIONS:
            used = kubernetes_validate.validate(document, version, strict=True)
            assert used == utils.major_minor(version)


@pytest.mark.parametrize("folder", KINDS)
def test_every_name_fits(project: Project, folder: str) -> None:
    for document in render(project, folder):
        longest = 63 - ADDED.get(document["kind"], 0)
        assert len(document["metadata"]["name"]) <= longest
        for name in values(document, {"name", "serviceAccountName", *labels(document)}):
            assert len(name) <= 63, name
            assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*[A-Za-z0-9]", name), name


def test_the_migration_and_the_service_share_image_and_account(project: Project) -> None:
    [job] = [it for it in render(project, "migrate") if it["kind"] == "Job"]
    [deployment] = [it for it in render(project, "service") if it["kind"] == "Deployment"]
    [image] = {*values(job, {"image"}), *values(deployment, {"image"})}
    assert image == f"{project.path.name}:0.1.0"
    [account] = {name for it in (job, deployment) for name in values(it, {"serviceAccountName"})}
    for folder in KINDS:
        accounts = [it for it in render(project, folder) if it["kind"] == "ServiceAccount"]
        assert [it["metadata"]["name"] for it in accounts] == [account]


def test_the_autoscaler_and_the_deployment_mean_each_other(project: Project) -> None:
    documents = {it["kind"]: it for it in render(project, "service")}
    target = documents["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    deployment = documents["Deployment"]
    assert target == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"], "each apply would undo the autoscaler's decision"


@pytest.mark.parametrize(("replicas", "fits"), [(3, True), (30, False)])
def test_an_owner_may_do_without_the_autoscaler(
    service: Service, copied: Project, replicas: int, fits: bool
) -> None:
    """The generated suite then counts by the Deployment."""
    folder = copied.path / "kubernetes" / "service"
    (folder / "horizontalpodautoscaler.yaml").unlink()
    deployment = folder / "deployment.yaml"
    fixed = deployment.read_text().replace(
        "  selector:\n", f"  replicas: {replicas}\n  selector:\n", 1
    )
    deployment.write_text(fixed)
    result = run_copied(service, copied, "-q", "tests/unit/test_kubernetes.py")
    assert ("failed" not in result.stdout) is fits, result.stdout
    assert ("9 replicas (maxReplicas)" in result.stdout) is not fits
    assert "passed" in result.stdout


def test_the_pooler_that_was_chosen_is_let_out_to(project: Project) -> None:
    """And no other: what is rendered has no trace of it."""
    [url] = re.findall(r"^DATABASE_URL=(.*)$", text(project, ".env.example"), re.MULTILINE)
    port = {"6543", "6432"} & set(re.findall(r"\d+", url))
    policy = text(project, "kubernetes/common/networkpolicy.yaml")
    assert set(re.findall(r"6543|6432", policy)) == port


def test_every_manifest_is_applied(project: Project) -> None:
    """A file that no kustomization names would be read by people only."""
    for path in (project.path / "kubernetes").rglob("*.yaml"):
        if path.name != "kustomization.yaml":
            assert f"- {path.name}\n" in (path.parent / "kustomization.yaml").read_text()


def values(node: Any, keys: set[str]) -> list[str]:
    """The texts under any of `keys`, however deep."""
    if isinstance(node, list):
        return [value for item in node for value in values(item, keys)]
    if not isinstance(node, dict):
        return []
    return [
        found
        for key, value in node.items()
        for found in ([value] if key in keys and isinstance(value, str) else values(value, keys))
    ]


def labels(document: dict[str, Any]) -> set[str]:
    return set(document["metadata"]["labels"])


def text(project: Project, path: str) -> str:
    return Path(project.path / path).read_text()

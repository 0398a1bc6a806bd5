"""The arithmetic of connections: of whom, how many, and what to change."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from orders_api.observe.budget import Deployment, plan_deployment
from orders_api.observe.patient import Options
from orders_api.settings import Settings, load_settings

from tests.support import ROOT

NOTHING_GIVEN = Options()


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user@host/database")
    return load_settings()


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(ROOT / "kubernetes", tmp_path / "kubernetes"))


def _change(manifests: Path, name: str, old: str, new: str) -> None:
    path = manifests / "service" / name
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))


def test_the_manifests_numbers_are_taken(settings: Settings, manifests: Path) -> None:
    """Those that were not given, and not those that were."""
    _change(manifests, "horizontalpodautoscaler.yaml", "maxReplicas: 8", "maxReplicas: 4")
    _change(manifests, "deployment.yaml", "maxSurge: 1", "maxSurge: 75%")
    _change(manifests, "deployment.yaml", 'value: "10"', 'value: "7"')
    _change(
        manifests,
        "deployment.yaml",
        "          env:\n",
        '          args: ["serve", "--workers", "2"]\n          env:\n',
    )
    found = plan_deployment(settings, NOTHING_GIVEN, manifests)
    assert found == Deployment(replicas=4, workers=2, surge=3, size=7, overflow=0)
    assert found.needed == (2 * 4 + 3) * 2 * 7 + 1
    found = plan_deployment(settings, Options(replicas=1, workers=1, surge=0), manifests)
    assert found == Deployment(replicas=1, workers=1, surge=0, size=7, overflow=0)


def test_a_variable_that_is_set_here_wins(monkeypatch: pytest.MonkeyPatch, manifests: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user@host/database")
    monkeypatch.setenv("DATABASE_POOL_SIZE", "50")
    monkeypatch.setenv("DATABASE_MAX_OVERFLOW", "5")
    found = plan_deployment(load_settings(), NOTHING_GIVEN, manifests)
    assert (found.size, found.overflow) == (50, 5)


def test_without_an_autoscaler_the_deployment_says_how_many(
    settings: Settings, manifests: Path
) -> None:
    (manifests / "service" / "horizontalpodautoscaler.yaml").unlink()
    with pytest.raises(ValueError, match="replicas not known"):
        plan_deployment(settings, NOTHING_GIVEN, manifests)
    _change(manifests, "deployment.yaml", "  selector:\n", "  replicas: 3\n  selector:\n")
    assert plan_deployment(settings, NOTHING_GIVEN, manifests).replicas == 3


@pytest.mark.parametrize(
    ("name", "old", "new", "unknown"),
    [
        ("horizontalpodautoscaler.yaml", "maxReplicas: 8", "maxReplicas: many", "replicas"),
        ("horizontalpodautoscaler.yaml", "kind: Hor", "kind: [", "replicas"),
        ("deployment.yaml", "maxSurge: 1", "maxSurge: some", "surge"),
        ("deployment.yaml", "strategy:", "strategies:", "surge"),
        ("deployment.yaml", "kind: Dep", "kind: [", "surge"),
        ("deployment.yaml", "containers:", "boxes:", "workers"),
    ],
)
def test_what_was_given_is_not_looked_for(
    settings: Settings, manifests: Path, name: str, old: str, new: str, unknown: str
) -> None:
    """Whoever keeps manifests otherwise gives what can't be read."""
    _change(manifests, name, old, new)
    given = Options(replicas=2, workers=3, surge=4)
    found = plan_deployment(settings, given, manifests)
    assert found == Deployment(replicas=2, workers=3, surge=4, size=10, overflow=0)
    with pytest.raises(ValueError, match=f"{unknown} not known"):
        plan_deployment(settings, replace(given, **{unknown: None}), manifests)


def test_without_manifests_replicas_have_to_be_given(settings: Settings, manifests: Path) -> None:
    with pytest.raises(ValueError, match="replicas not known"):
        plan_deployment(settings, NOTHING_GIVEN, manifests / "none")
    found = plan_deployment(settings, Options(replicas=5), manifests / "none")
    assert found == Deployment(replicas=5, workers=1, surge=1, size=10, overflow=0)


@pytest.mark.parametrize(
    "deployment",
    [
        Deployment(replicas=10, workers=1, surge=1, size=10, overflow=0),
        Deployment(replicas=2, workers=4, surge=1, size=10, overflow=0),
        Deployment(replicas=1, workers=1, surge=1, size=100, overflow=50),
    ],
)
def test_what_it_advises_fits(deployment: Deployment) -> None:
    """And one more would not."""
    limit = 200
    assert deployment.needed >= limit
    size, *others = deployment.advice(limit).split(", or ")
    fitting = replace(deployment, size=int(size.split("=")[1].split()[0]), overflow=0)
    assert fitting.needed < limit <= replace(fitting, size=fitting.size + 1).needed
    for it in others:
        if "replicas" in it:
            fewer = replace(deployment, replicas=int(it.split()[0]))
            assert fewer.needed < limit <= replace(fewer, replicas=fewer.replicas + 1).needed

"""The backends that the operators' tests run on, and the profiles of hypothesis."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import hypothesis
import pytest

import effkern
from effkern import registry
from effkern.testing.poison import poisoned_memory
from effkern.testing.thinning import thinned

_DEVICES = {
    "cpu": "cpu",
    "cuda": "cuda",
    "cuda_emulated": "cpu",
    "triton": "cuda",
    "triton_interpreted": "cpu",
}
_REQUIRE = "EFFKERN_REQUIRE_BACKENDS"
# Run every value of each parameter, not every combination.
_SLOW = ("triton_interpreted",)
# Run every pair of values in continuous integration.
_SLOW_IN_CI = ("cuda_emulated",)

hypothesis.settings.register_profile("default", deadline=None)
# Continuous integration draws the same problems each time: a change does not fail for another's
# bug.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


@dataclass(frozen=True)
class Backend:
    """A backend under test."""

    name: str
    device: str

    @property
    def code(self) -> int:
        """The integer that stands for it in the operators' schemas."""
        return registry.BACKENDS[self.name]

    @property
    def emulated(self) -> bool:
        """Whether a GPU's kernels run on the CPU, one thread after the other: problems of more than
        a million multiply-adds are made smaller for it."""
        return self.name in ("cuda_emulated", "triton_interpreted")

    @property
    def slow(self) -> bool:
        """Whether a call takes a tenth of a second, however small."""
        return self.name in _SLOW


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        choices=list(registry.BACKENDS),
        help="test this backend only (may be repeated; default: all that are present)",
    )


def _required() -> list[str]:
    names = [name.strip() for name in os.environ.get(_REQUIRE, "").split(",") if name.strip()]
    for name in names:
        if name not in _DEVICES:
            raise pytest.UsageError(
                f"{_REQUIRE}: wanted any of {', '.join(_DEVICES)}, got {name!r}"
            )
    return names


def pytest_configure() -> None:
    # A misspelt name stops the run before anything is collected.
    _required()


def pytest_report_header() -> list[str]:
    return [
        f"effkern backend {name}: {'present' if state is True else state}"
        for name, state in effkern.backends().items()
        if name in _DEVICES
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" not in metafunc.fixturenames:
        return
    required = _required()
    present = [name for name in _DEVICES if effkern.backends()[name] is True or name in required]
    names = metafunc.config.getoption("--backend") or present
    metafunc.parametrize("backend", names, indirect=True)


def _of_backends(items: list[pytest.Item], names: tuple[str, ...]) -> list[pytest.Item]:
    return [
        item
        for item in items
        if isinstance(item, pytest.Function)
        and hasattr(item, "callspec")
        and item.callspec.params.get("backend") in names
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    dropped = set(thinned(_of_backends(items, _SLOW))[1])
    if os.environ.get("CI"):
        dropped |= set(thinned(_of_backends(items, _SLOW_IN_CI), pairs=True)[1])
    if dropped:
        config.hook.pytest_deselected(items=list(dropped))
        items[:] = [item for item in items if item not in dropped]


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each backend in turn, chosen for all calls, with fresh memory full of NaN.

    Backends that are not here are left out; those that EFFKERN_REQUIRE_BACKENDS names fail.
    """
    state = effkern.backends()[request.param]
    if state is not True:
        pytest.fail(f"backend {request.param} is required and is not here: {state}")
    backend = Backend(request.param, _DEVICES.get(request.param, "cpu"))
    with poisoned_memory(backend.device), effkern.backend(backend.name):
        yield backend

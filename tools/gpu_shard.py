"""A pytest plugin: --shard 2/4 keeps the second of four parts of the tests, spread evenly."""

import zlib

import pytest


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise pytest.UsageError(f"--shard: wanted PART/PARTS such as 2/4, got {text!r}")
    return int(part), int(parts)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shard", type=_shard, default=(1, 1), help="PART/PARTS of the tests")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    part, parts = config.getoption("--shard")
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        # By name: the same test is in the same part on every machine.
        mine = zlib.crc32(item.nodeid.encode()) % parts == part - 1
        (kept if mine else dropped).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept

"""Contract suites for parts of one's own, one module for each kind: `model`, `data_set`, `metric`, `store_contract`.

A suite is a class of tests that is subclassed with a fixture for the part. Importing a suite needs pytest.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from attnsearch import plugins


@contextmanager
def temporary_parts() -> Iterator[None]:
    """Forgets at the end what was registered inside; what was registered before remains."""
    parts = {kind: dict(of_kind) for kind, of_kind in plugins._parts.items()}
    loaded = set(plugins._loaded)
    try:
        yield
    finally:
        plugins._parts.clear()
        plugins._parts.update(parts)
        plugins._loaded.clear()
        plugins._loaded.update(loaded)

"""The study with known maps that the tests of the explorer build."""

from tests.explorer.conftest import built, client, copied, template

__all__ = ["built", "client", "copied", "template"]

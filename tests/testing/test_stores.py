"""The store in memory keeps the contract of those in databases."""

from __future__ import annotations

import pytest

from attnsearch.testing.store_contract import OpenStore, TrialStoreContract
from attnsearch.testing.stores import MemoryTrialStore
from tests.store.copies import CopyContract


class TestMemoryTrialStore(CopyContract, TrialStoreContract):
    @pytest.fixture
    def open_store(self) -> OpenStore:
        return lambda study_uuid, **clock: MemoryTrialStore(**clock)

"""Contract suites for parts of one's own, one module for each kind: `model`, `data_set`, `metric`, `store_contract`.

A suite is a class of tests that is subclassed with a fixture for the part. Importing a suite needs pytest.
"""

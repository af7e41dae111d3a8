"""Contract suites for parts of one's own, and what tests of them need; importing this needs pytest."""

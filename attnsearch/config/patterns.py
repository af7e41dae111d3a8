"""What names, metric keys and devices may look like."""

NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}$"
METRIC_KEY = r"^(train|val)/[a-z0-9_]+$"
DEVICE = r"^(auto|cpu|cuda|cuda:\d+)$"
KEY = r"^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*$"

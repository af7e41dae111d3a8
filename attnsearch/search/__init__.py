"""Studies: space, workers, publication, with Optuna."""

import optuna

# Optuna logs by itself, to stderr, what our own lines say with the best epoch and the reason.
optuna.logging.set_verbosity(optuna.logging.WARNING)

"""Studies: space, workers, publication. The only package that uses Optuna."""

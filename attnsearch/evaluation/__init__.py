"""Maps, scores and figures of a finished run."""

"""What a browser shows of a results folder: studies, trials and where their attention lies."""

"""Pictures of where a model looked: maps on the original photographs, alone, side by side, and as paper figures."""

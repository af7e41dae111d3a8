"""Writers for other programs that show training: one way, optional, and each in a process of its own."""

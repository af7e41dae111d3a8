"""Images of where models look: overlays, panels, plots."""

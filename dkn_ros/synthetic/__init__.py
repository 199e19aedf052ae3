"""Procedural RGB-D: `scene` makes colour and true depth, `degradation` does to the depth what a sensor does."""

"""A whole frame on a GPU: lanes that its steps run on, and graphs that the steps are captured in."""

"""A whole frame on a GPU: operations none of which makes the host wait, lanes that they run on, captured graphs."""

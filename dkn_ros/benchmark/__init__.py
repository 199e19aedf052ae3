"""The benchmark: time and memory of a frame on this machine, against the published way."""

"""A whole frame on a GPU: plain PyTorch operations on tensors of one device, none of which makes the host wait."""

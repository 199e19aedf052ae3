"""The ROS shell: messages to arrays, pairing, publishing, parameters, diagnostics.  Start reading at `node.py`."""

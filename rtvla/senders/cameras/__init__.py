"""Cameras of all kinds behind one protocol, and what sends their pictures."""

"""Bytes <-> records: the wire formats of the old senders, byte for byte. No sockets, no threads, no state."""

"""Sensors: cumulative energy counters behind one protocol."""

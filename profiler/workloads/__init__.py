"""Kernels that do a known amount of work on a real device."""

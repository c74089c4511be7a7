"""Calibrates a data-centre GPU in parts of at most ten minutes each; see README.md."""

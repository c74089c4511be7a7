"""Rules against each other at the same joules: many runs, and what they say together."""

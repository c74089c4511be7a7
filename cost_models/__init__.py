"""Records in, cost model out, and predictions from it."""

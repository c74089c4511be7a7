"""Cost model in; selection, trained network and report out."""

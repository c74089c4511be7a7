"""What Flower carries to server and nodes: names alone; calijoule must be installed there."""

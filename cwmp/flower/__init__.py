"""The same training on Flower: messages, clients on their nodes, server, and how they are started."""

"""One federated run: data and shares, local training, selection, messages, rounds, joules by phase."""

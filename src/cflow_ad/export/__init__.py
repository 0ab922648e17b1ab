"""From a trained model to one graph that other runtimes run, checked against the trained model."""

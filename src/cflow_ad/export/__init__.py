"""From a trained model to one graph for other runtimes, compared with the model before it is kept;
and from a data set to the form of other tools.
"""

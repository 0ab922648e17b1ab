"""CFLOW-AD in torch, in reading order: encoder, position, flow, level, model, folded, scorer.

From pixels to the energy of every position; the model that is trained, and its folded form that
scores.
"""

"""The method in torch: CFLOW-AD, with a memory of good vectors on one level.

In reading order: encoder, position, flow, memory, level, model, folded, scorer. From pixels to the
energy of every position; the model that is trained, and its folded form that scores.
"""

"""The method, in the order of the paper: encoder, position, flow, level, model."""

"""The method: encoder, positions, conditional flow, scoring, and the file they are kept in."""

"""Models that other programs trained: the code of the paper's authors, and anomalib."""

"""Models trained elsewhere: the authors' own code, and anomalib."""

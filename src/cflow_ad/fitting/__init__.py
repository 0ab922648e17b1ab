"""From good images to a fitted model: feature cache, statistics, likelihood, memory, thresholds."""

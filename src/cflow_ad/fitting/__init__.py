"""From good images to a fitted model: feature cache, statistics, maximum likelihood, thresholds."""

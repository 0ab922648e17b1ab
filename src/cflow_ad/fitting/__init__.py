"""From good images to a model: features, statistics, maximum likelihood, threshold."""

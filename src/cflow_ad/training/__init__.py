"""From good images to a model: feature cache, likelihood training, calibration."""

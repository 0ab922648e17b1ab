"""Image files and data sets on disk, as arrays and lists of samples: decoding, layouts, checks, the
generated carpet, download. No torch.
"""

"""From an image file to its samples, upright, or one sentence on why it cannot be decoded.

Formats are recognised by their content and not by their name. Pillow decodes what it decodes
exactly; `tifffile` and `imagecodecs`, which the extra `formats` installs, decode the rest.
"""

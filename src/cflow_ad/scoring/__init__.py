"""What every runtime shares: from an image to the network's input, and from energies to map, score,
mask and threshold. numpy and Pillow alone.
"""

"""From an image to the network's input, and from energies to a result; numpy and Pillow alone."""

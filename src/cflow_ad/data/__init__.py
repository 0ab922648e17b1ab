"""Images and data sets: decoding, sizing, layouts, and the generated carpet. No torch here."""

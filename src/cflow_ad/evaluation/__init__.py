"""How well a model does on labelled test images: streaming metrics, figures, the report."""

"""The model file: one `.safetensors` file that holds tensors and metadata, and no code."""

"""Teach a small language model to write better image prompts, and see why it works.

Importing this package loads nothing heavy: PyTorch and friends load inside the functions that need them.
"""

__version__ = "0.1.0"

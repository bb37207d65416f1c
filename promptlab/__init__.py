"""Teach a small language model to write better image prompts, and see why it works.

Importing this package loads nothing heavy: PyTorch and friends load inside the functions that need them.
"""

import os

# On an Apple GPU the CPU does what PyTorch has no kernel for; it is read once, when PyTorch is imported.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

__version__ = "0.1.0"

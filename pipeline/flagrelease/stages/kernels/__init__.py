"""kernels: qualify, tune and select the chip's Triton operators."""

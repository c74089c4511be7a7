"""Selection on the GPU that holds the gradient: the same choice as on the host, by Triton kernels."""

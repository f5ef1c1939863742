"""Triton kernels, installed as effkern.triton_kernels: one folder per operator."""

"""Every operator once more in obvious PyTorch: what the tests compare with."""

"""Operators: one module each, with the public function, fake, autograd and autocast rules."""

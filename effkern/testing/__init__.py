"""What effkern's tests and benchmarks share: error bound, problem lists, poisoned memory.

Needs numpy (torch brings it), and nothing else that effkern does not need.
"""

"""Names of CUDA kernels as people read them."""

from __future__ import annotations

import re

_NAMES = {"__nv_bfloat16": "bfloat16", "__half": "float16", "float": "float32", "double": "float64"}

# GCC names them, cuobjdump numbers them: PlaneFit of csrc/depthwise_conv2d.
_ENUMERATORS = {"kAny": "0", "kSame": "1", "kWhole": "2", "kVectors": "3"}


def short_name(text: str) -> str:
    """kernel<type, constants, policy> of a demangled name: torch's dtypes, no namespace."""
    # A constant of an enumeration: (effkern::PlaneFit)2.
    text = re.sub(r"\([\w:]+\)(\d)", r"\1", text)
    text = re.sub(r"\w+::(k[A-Z]\w*)", lambda found: _ENUMERATORS[found[1]], text)
    text = text.split("(")[0].removeprefix("void ").replace("effkern::", "")
    # A policy has the kernel's own type.
    text = re.sub(r", (\w+)<\w+>", r", \1", text.replace(" >", ">"))
    return re.sub(r"\w+", lambda word: _NAMES.get(word[0], word[0]), text)

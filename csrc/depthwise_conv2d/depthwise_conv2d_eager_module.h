// Part of effkern._C.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

namespace effkern {

// configure_eager, eager_forward, eager_forward_resolved, eager_backward; -1 with an exception set.
int add_eager_functions(PyObject* module);

}  // namespace effkern

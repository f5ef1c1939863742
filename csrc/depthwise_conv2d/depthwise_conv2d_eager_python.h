// What the lean path of eager calls asks of Python: whether a call is plain, tensors and integers.
// Included by depthwise_conv2d_eager_module.cpp only.
#pragma once

#include <algorithm>

#include "common/cpu_isa.h"
#include "common/dlpack.h"
#include "common/memory_format.h"
#include "depthwise_conv2d/depthwise_conv2d_eager.h"
#include "depthwise_conv2d/depthwise_conv2d_eager_module.h"

namespace effkern {
namespace {

// Larger numbers are the operator's: no product below can overflow.
constexpr int64_t kMostInteger = 1 << 12, kMostNumel = int64_t{1} << 40;
constexpr int kMostSize = 1 << 20;

const EagerKernels* kernels = nullptr;
const dlpack::ExchangeApi* exchange = nullptr;
CpuIsa isa = CpuIsa::kBaseline;

// Of the dict that configure() was given; all of them live as long as the process.
PyObject *tensor_type, *parameter_type, *empty_strided, *dtypes[4];
PyObject *in_functorch, *dispatch_modes, *function_modes, *tracing_state;
PyObject *autocast_enabled, *grad_enabled;
// Module dictionaries, and names looked up in them.
PyObject *forward_ad, *profiler;
PyObject *name_level, *name_profiling, *name_requires_grad, *name_is_neg;

bool is_plain_tensor(PyObject* object) {
  PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  return type == tensor_type || type == parameter_type;
}

// Takes what a call of torch returned; anything but the wanted answer, an exception included, is a
// no.
bool answers(PyObject* answer, PyObject* wanted) {
  if (!answer) return PyErr_Clear(), false;
  Py_DECREF(answer);
  return answer == wanted;
}

bool is_zero(PyObject* number) {
  const bool zero = number && PyLong_CheckExact(number) && PyLong_AsLong(number) == 0;
  Py_XDECREF(number);
  if (!zero) PyErr_Clear();
  return zero;
}

bool needs_no_gradient(PyObject* const* tensors, int count) {
  if (answers(PyObject_CallNoArgs(grad_enabled), Py_False)) return true;
  for (int i = 0; i < count; ++i) {
    if (tensors[i] == Py_None) continue;
    if (!answers(PyObject_GetAttr(tensors[i], name_requires_grad), Py_False)) return false;
  }
  return true;
}

// Whether nothing but the arithmetic would happen to these tensors.
bool is_plain_call(PyObject* const* tensors, int count) {
  for (int i = 0; i < count; ++i) {
    if (tensors[i] != Py_None && !is_plain_tensor(tensors[i])) return false;
  }
  PyObject* level = PyDict_GetItemWithError(forward_ad, name_level);
  PyObject* profiling = PyDict_GetItemWithError(profiler, name_profiling);
  if (!level || !PyLong_CheckExact(level) || PyLong_AsLong(level) >= 0 || profiling != Py_False) {
    return PyErr_Clear(), false;
  }
  return answers(PyObject_CallNoArgs(autocast_enabled), Py_False) &&
         answers(PyObject_CallNoArgs(in_functorch), Py_False) &&
         answers(PyObject_CallNoArgs(tracing_state), Py_None) &&
         is_zero(PyObject_CallNoArgs(dispatch_modes)) &&
         is_zero(PyObject_CallNoArgs(function_modes)) && needs_no_gradient(tensors, count);
}

bool to_dtype(const dlpack::Tensor& t, DType* dtype) {
  if (t.lanes != 1) return false;
  if (t.code == dlpack::kFloat && t.bits == 32) return *dtype = DType::kFloat32, true;
  if (t.code == dlpack::kBFloat && t.bits == 16) return *dtype = DType::kBFloat16, true;
  if (t.code == dlpack::kFloat && t.bits == 16) return *dtype = DType::kFloat16, true;
  if (t.code == dlpack::kFloat && t.bits == 64) return *dtype = DType::kFloat64, true;
  return false;
}

// A tensor on the CPU with `dims` sizes above zero.
struct View {
  dlpack::Tensor t;
  DType dtype;

  // Memory says nothing of a lazy negation (the imaginary part of a conjugate).
  bool read(PyObject* object, int dims) {
    return answers(PyObject_CallMethodNoArgs(object, name_is_neg), Py_False) &&
           read_memory(object, dims);
  }
  bool read_memory(PyObject* object, int dims) {
    if (exchange->tensor_from_py_object(object, &t) != 0) return PyErr_Clear(), false;
    if (t.device_type != dlpack::kCpu || t.ndim != dims || !to_dtype(t, &dtype)) return false;
    if (!t.data || !t.shape || !t.strides) return false;
    return std::all_of(t.shape, t.shape + dims,
                       [](int64_t size) { return size > 0 && size < kMostSize; });
  }
  void* data() const { return static_cast<char*>(t.data) + t.byte_offset; }
  Strides4 strides4() const { return {t.strides[0], t.strides[1], t.strides[2], t.strides[3]}; }
};

bool take_integer(PyObject* object, int64_t* value) {
  if (!PyLong_CheckExact(object)) return false;
  int overflow;
  *value = PyLong_AsLongLongAndOverflow(object, &overflow);
  return !overflow && *value >= 0 && *value < kMostInteger;
}

// An int, or a pair of them.
bool take_pair(PyObject* object, int64_t* first, int64_t* second) {
  if (PyTuple_CheckExact(object)) {
    return PyTuple_GET_SIZE(object) == 2 && take_integer(PyTuple_GET_ITEM(object, 0), first) &&
           take_integer(PyTuple_GET_ITEM(object, 1), second);
  }
  if (!take_integer(object, first)) return false;
  *second = *first;
  return true;
}

// The first eight of a tuple of the schemas' integers.
bool take_geometry(PyObject* tuple, Py_ssize_t size, DepthwiseConv2dProblem* p) {
  if (!PyTuple_CheckExact(tuple) || PyTuple_GET_SIZE(tuple) != size) return false;
  int64_t* const fields[] = {&p->stride_h, &p->stride_w,  &p->pad_top,    &p->pad_bottom,
                             &p->pad_left, &p->pad_right, &p->dilation_h, &p->dilation_w};
  for (int i = 0; i < 8; ++i) {
    if (!take_integer(PyTuple_GET_ITEM(tuple, i), fields[i])) return false;
  }
  return true;
}

bool take_activation(PyObject* object, Activation* activation) {
  constexpr const char* kNames[] = {"relu", "relu6", "silu", "gelu", "gelu_tanh", "hardswish"};
  if (object == Py_None) return true;
  if (!PyUnicode_CheckExact(object)) return false;
  for (int i = 0; i < kNumActivations - 1; ++i) {
    if (PyUnicode_CompareWithASCIIString(object, kNames[i]) == 0) {
      *activation = static_cast<Activation>(i + 1);
      return true;
    }
  }
  return false;
}

bool take_backend(PyObject* object, Backend* backend) {
  const long value = PyLong_CheckExact(object) ? PyLong_AsLong(object) : -1;
  *backend = static_cast<Backend>(value);
  return value == static_cast<long>(Backend::kAuto) || value == static_cast<long>(Backend::kCpu);
}

}  // namespace
}  // namespace effkern

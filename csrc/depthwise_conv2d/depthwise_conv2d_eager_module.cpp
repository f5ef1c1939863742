// The lean path of eager calls on CPU, part of effkern._C: what a call on plain tensors needs,
// without torch's dispatcher and without Python code. Torch takes 3 microseconds for a call of an
// operator, and Python as long for what comes before it; a small convolution takes one.
// Whatever is not plain (other devices, autograd, transforms, modes, wrong arguments) gets None,
// and the caller takes the path that knows it.
#include "depthwise_conv2d/depthwise_conv2d_eager_python.h"

namespace effkern {
namespace {

bool fits_axis(int64_t size, int64_t kernel, int64_t stride, int64_t before, int64_t after,
               int64_t dilation) {
  // A stride past the last position of the kernel is the operator's, too.
  return stride >= 1 && dilation >= 1 && dilation * (kernel - 1) + stride <= size + before + after;
}

// The sizes of a convolution that has a result, after the geometry.
bool take_sizes(const View& x, const View& w, const View* bias, DepthwiseConv2dProblem* p) {
  const int64_t *image = x.t.shape, *kernel = w.t.shape;
  p->batch = image[0], p->in_channels = image[1], p->height = image[2], p->width = image[3];
  p->out_channels = kernel[0], p->kernel_h = kernel[2], p->kernel_w = kernel[3];
  if (w.dtype != x.dtype || kernel[1] != 1 || kernel[0] % image[1] != 0) return false;
  if (bias && (bias->dtype != x.dtype || bias->t.shape[0] != kernel[0])) return false;
  if (!fits_axis(p->height, p->kernel_h, p->stride_h, p->pad_top, p->pad_bottom, p->dilation_h) ||
      !fits_axis(p->width, p->kernel_w, p->stride_w, p->pad_left, p->pad_right, p->dilation_w)) {
    return false;
  }
  p->dtype = x.dtype;
  p->has_bias = bias != nullptr;
  p->layout = layout_of(image, x.t.strides);
  const double numel = 1.0 * p->batch * p->out_channels * p->out_height() * p->out_width();
  return numel < kMostNumel && 1.0 * image[0] * image[1] * image[2] * image[3] < kMostNumel;
}

// Fresh memory in one of the dense formats.
PyObject* new_tensor(const int64_t* sizes, int dims, DType dtype, bool channels_last, View* view) {
  constexpr int kContiguous[] = {3, 2, 1, 0}, kChannelsLast[] = {1, 3, 2, 0};
  PyObject *shape = PyTuple_New(dims), *strides = PyTuple_New(dims), *tensor = nullptr;
  if (shape && strides) {
    int64_t stride = 1;
    for (int i = 0; i < dims; ++i) {
      const int d = dims == 1 ? 0 : channels_last ? kChannelsLast[i] : kContiguous[i];
      PyTuple_SET_ITEM(shape, d, PyLong_FromLongLong(sizes[d]));
      PyTuple_SET_ITEM(strides, d, PyLong_FromLongLong(stride));
      stride *= sizes[d];
    }
    PyObject* arguments[] = {shape, strides, dtypes[static_cast<int>(dtype)]};
    tensor = PyObject_Vectorcall(empty_strided, arguments, 3, nullptr);
  }
  Py_XDECREF(shape);
  Py_XDECREF(strides);
  if (tensor && !view->read_memory(tensor, dims)) Py_CLEAR(tensor);
  return tensor;
}

// A new reference to None, without the exception that may be set.
PyObject* not_plain() {
  PyErr_Clear();
  Py_RETURN_NONE;
}

PyObject* compute_forward(PyObject* const* tensors, DepthwiseConv2dProblem p, Backend backend) {
  View x, w, bias, y;
  const bool has_bias = tensors[2] != Py_None;
  if (!is_plain_call(tensors, 3) || !x.read(tensors[0], 4) || !w.read(tensors[1], 4) ||
      (has_bias && !bias.read(tensors[2], 1)) ||
      !take_sizes(x, w, has_bias ? &bias : nullptr, &p)) {
    Py_RETURN_NONE;
  }
  const DepthwiseConv2dPlan plan = plan_depthwise_conv2d(p, backend, isa);
  if (plan.backend != Backend::kCpu) Py_RETURN_NONE;
  const int64_t sizes[] = {p.batch, p.out_channels, p.out_height(), p.out_width()};
  const bool channels_last =
      is_channels_last(x.t.shape, x.t.strides) || is_channels_last(w.t.shape, w.t.strides);
  PyObject* output = new_tensor(sizes, 4, p.dtype, channels_last, &y);
  if (!output) return not_plain();
  StencilTensors t{x.data(), x.strides4(), w.data(), w.strides4(), nullptr,
                   0,        nullptr,      {},       y.data(),     y.strides4()};
  if (has_bias) t.bias = bias.data(), t.bias_stride = bias.t.strides[0];
  bool done;
  Py_BEGIN_ALLOW_THREADS;
  done = kernels->stencil(p, plan, t);
  Py_END_ALLOW_THREADS;
  if (done) return output;
  Py_DECREF(output);
  return not_plain();
}

PyObject* forward(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  DepthwiseConv2dProblem p;
  Backend backend;
  if (!kernels || count != 8 || !take_backend(arguments[7], &backend) ||
      !take_pair(arguments[3], &p.stride_h, &p.stride_w) ||
      !take_pair(arguments[4], &p.pad_top, &p.pad_left) ||
      !take_pair(arguments[5], &p.dilation_h, &p.dilation_w) ||
      !take_activation(arguments[6], &p.activation)) {
    return not_plain();
  }
  p.pad_bottom = p.pad_top, p.pad_right = p.pad_left;
  return compute_forward(arguments, p, backend);
}

PyObject* forward_resolved(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  DepthwiseConv2dProblem p;
  Backend backend;
  int64_t activation;
  if (!kernels || count != 5 || !take_geometry(arguments[3], 9, &p) ||
      !take_integer(PyTuple_GET_ITEM(arguments[3], 8), &activation) ||
      activation >= kNumActivations || !take_backend(arguments[4], &backend)) {
    return not_plain();
  }
  p.activation = static_cast<Activation>(activation);
  return compute_forward(arguments, p, backend);
}

// The gradients of input, weight and bias; None in place of those that are not needed.
struct Gradients {
  PyObject* tensors[3] = {};
  View views[3];

  ~Gradients() {
    for (PyObject* tensor : tensors) Py_XDECREF(tensor);
  }
  PyObject* release() {
    for (PyObject*& tensor : tensors) {
      if (!tensor) tensor = Py_None, Py_INCREF(Py_None);
    }
    PyObject* result = PyTuple_New(3);
    if (!result) return nullptr;
    for (int i = 0; i < 3; ++i) {
      PyTuple_SET_ITEM(result, i, tensors[i]);
      tensors[i] = nullptr;
    }
    return result;
  }
};

PyObject* backward(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  DepthwiseConv2dProblem p;
  p.pass = Pass::kGradInput;
  Backend backend;
  View g, x, w;
  if (!kernels || count != 6 || !take_backend(arguments[5], &backend) ||
      !take_geometry(arguments[3], 8, &p) || !PyTuple_CheckExact(arguments[4]) ||
      PyTuple_GET_SIZE(arguments[4]) != 3 || arguments[0] == Py_None || arguments[1] == Py_None ||
      arguments[2] == Py_None || !is_plain_call(arguments, 3) || !g.read(arguments[0], 4) ||
      !x.read(arguments[1], 4) || !w.read(arguments[2], 4) || !take_sizes(x, w, nullptr, &p)) {
    return not_plain();
  }
  const int64_t output[] = {p.batch, p.out_channels, p.out_height(), p.out_width()};
  if (g.dtype != x.dtype || !std::equal(output, output + 4, g.t.shape)) Py_RETURN_NONE;
  bool needs[3];
  for (int i = 0; i < 3; ++i) needs[i] = PyTuple_GET_ITEM(arguments[4], i) == Py_True;
  DepthwiseConv2dProblem weight_problem = p;
  weight_problem.pass = Pass::kGradWeight;
  const DepthwiseConv2dPlan plan = plan_depthwise_conv2d(p, backend, isa);
  const DepthwiseConv2dPlan weight_plan = plan_depthwise_conv2d(weight_problem, backend, isa);
  if (plan.backend != Backend::kCpu || weight_plan.backend != Backend::kCpu) Py_RETURN_NONE;
  Gradients result;
  const struct {
    const int64_t* sizes;
    int dims;
    bool channels_last;
  } wanted[] = {{x.t.shape, 4, is_channels_last(x.t.shape, x.t.strides)},
                {w.t.shape, 4, false},
                {w.t.shape, 1, false}};
  for (int i = 0; i < 3; ++i) {
    if (!needs[i]) continue;
    const auto& [sizes, dims, channels_last] = wanted[i];
    result.tensors[i] = new_tensor(sizes, dims, p.dtype, channels_last, &result.views[i]);
    if (!result.tensors[i]) return not_plain();
  }
  const View& dx = result.views[0];
  bool done = true;
  Py_BEGIN_ALLOW_THREADS;
  if (needs[0]) {
    done = kernels->stencil(p, plan,
                            {g.data(),
                             g.strides4(),
                             w.data(),
                             w.strides4(),
                             nullptr,
                             0,
                             nullptr,
                             {},
                             dx.data(),
                             dx.strides4()});
  }
  if (done && (needs[1] || needs[2])) {
    done = kernels->weight_grad(
        weight_problem, weight_plan,
        {x.data(), x.strides4(), g.data(), g.strides4(),
         needs[1] ? result.views[1].data() : nullptr, needs[2] ? result.views[2].data() : nullptr});
  }
  Py_END_ALLOW_THREADS;
  return done ? result.release() : not_plain();
}

PyObject* configure(PyObject*, PyObject* dict) {
  PyObject *address, *capsule;
  const struct {
    const char* name;
    PyObject** to;
  } entries[] = {{"kernels", &address},
                 {"exchange_api", &capsule},
                 {"tensor", &tensor_type},
                 {"parameter", &parameter_type},
                 {"empty_strided", &empty_strided},
                 {"in_functorch", &in_functorch},
                 {"dispatch_modes", &dispatch_modes},
                 {"function_modes", &function_modes},
                 {"tracing_state", &tracing_state},
                 {"autocast_enabled", &autocast_enabled},
                 {"grad_enabled", &grad_enabled},
                 {"forward_ad", &forward_ad},
                 {"profiler", &profiler},
                 {"float64", &dtypes[0]},
                 {"float32", &dtypes[1]},
                 {"float16", &dtypes[2]},
                 {"bfloat16", &dtypes[3]}};
  for (const auto& [name, to] : entries) {
    if (!PyDict_Check(dict) || !PyDict_GetItemString(dict, name)) {
      return PyErr_Format(PyExc_KeyError, "configure_eager: no %s", name);
    }
  }
  for (const auto& [name, to] : entries) {
    *to = PyDict_GetItemString(dict, name);
    // For as long as the process lives.
    Py_INCREF(*to);
  }
  name_level = PyUnicode_InternFromString("_current_level");
  name_profiling = PyUnicode_InternFromString("_is_profiler_enabled");
  name_requires_grad = PyUnicode_InternFromString("requires_grad");
  name_is_neg = PyUnicode_InternFromString("is_neg");
  const auto* api =
      static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  const auto* pointer = reinterpret_cast<const EagerKernels*>(PyLong_AsVoidPtr(address));
  if (PyErr_Occurred()) return nullptr;
  const char* error;
  isa = detect_cpu_isa(&error);
  const bool fits = api->version.major == dlpack::kMajorVersion && api->tensor_from_py_object;
  if (fits && !error && pointer) {
    exchange = api;
    kernels = pointer;
  }
  return PyBool_FromLong(kernels != nullptr);
}

PyCFunction fast(PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(function));
}

PyMethodDef methods[] = {
    {"configure_eager", &configure, METH_O,
     "What the functions below need of torch and of the library; whether they can work."},
    {"eager_forward", fast(&forward), METH_FASTCALL,
     "depthwise_conv2d(input, weight, bias, stride, padding, dilation, activation, backend), or "
     "None."},
    {"eager_forward_resolved", fast(&forward_resolved), METH_FASTCALL,
     "The same of (input, weight, bias, params, backend)."},
    {"eager_backward", fast(&backward), METH_FASTCALL,
     "The gradients of (grad_output, input, weight, geometry, needs, backend), or None."},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

int add_eager_functions(PyObject* module) { return PyModule_AddFunctions(module, methods); }

}  // namespace effkern

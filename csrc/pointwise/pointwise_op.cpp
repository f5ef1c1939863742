// pointwise on CPU: schema, argument checks.
#include <initializer_list>

#include "pointwise/pointwise_op.h"

// `output`, (N, O, H, W), becomes residual + activation(scale * conv2d(gate * input, weight) +
// shift) with weight (O, C), scale and shift (O,), gate (N, C). Images are contiguous or
// channels_last in their pixels, of float32, float16 or bfloat16.
#define EFFKERN_POINTWISE_SCHEMA                                                                 \
  "_pointwise(Tensor input, Tensor weight, Tensor? scale, Tensor? shift, Tensor? gate, Tensor? " \
  "residual, int activation, Tensor(a!) output) -> ()"

// The weight, (O, C), as the products of this machine read it, for operators that take it in place
// of packing it in each call; (panels of output channels) * C * (channels of a panel) numbers.
#define EFFKERN_PACK_POINTWISE_SCHEMA "_pack_pointwise(Tensor weight) -> Tensor"

namespace effkern {
namespace {

constexpr char kName[] = "effkern.pointwise";

struct Images {
  PointwiseStrides strides;
  bool channels_last;
};

Images images(const char* name, const TensorView& tensor) {
  const int64_t* size = tensor.sizes;
  const int64_t* stride = tensor.strides;
  // Of one pixel, or of one channel, a stride says nothing.
  const int64_t pixel = size[3] == 1 ? stride[2] : stride[3];
  const bool rows = size[2] == 1 || size[3] == 1 || stride[2] == pixel * size[3];
  if (rows && (stride[1] == 1 || size[1] == 1)) return {{stride[0], pixel, 1}, true};
  if (rows && (pixel == 1 || size[2] * size[3] == 1)) return {{stride[0], 1, stride[1]}, false};
  fail(kName, ": ", name, ": wanted adjacent channels or planes without gaps, got shape ",
       tensor.shape(), " with other strides");
}

DType dtype_of(const char* name, const TensorView& tensor) {
  if (tensor.dtype == aoti_torch_dtype_float32()) return DType::kFloat32;
  if (tensor.dtype == aoti_torch_dtype_float16()) return DType::kFloat16;
  EFFKERN_CHECK(tensor.dtype == aoti_torch_dtype_bfloat16(), kName, ": ", name,
                ": wanted float32, float16 or bfloat16");
  return DType::kBFloat16;
}

bool has_rows(const TensorView& matrix) { return matrix.strides[1] == 1 || matrix.sizes[1] == 1; }

int64_t packed_size(const PointwiseProblem& p) {
  const int64_t panel = pointwise_kernels(cpu_isa()).panel;
  return (p.out_channels + panel - 1) / panel * panel * p.in_channels;
}

Tensor pack_pointwise(const Tensor& weight) {
  const TensorView w(weight);
  EFFKERN_CHECK(w.dim == 2 && has_rows(w), kName, ": weight: wanted rows without gaps, got shape ",
                w.shape());
  PointwiseProblem p{};
  p.dtype = dtype_of("weight", w);
  p.out_channels = w.sizes[0], p.in_channels = w.sizes[1];
  const Tensor packed = empty(w, packed_size(p));
  const PointwiseWeight from{w.data(), w.strides[0], p.in_channels, p.out_channels};
  check_memory(kName, pack_pointwise_cpu(from, p.dtype, cpu_isa(),
                                         TensorView(packed).mutable_data(), kParallel));
  return packed;
}

// The data of a tensor without gaps, or null.
const void* dense(const char* name, const std::optional<Tensor>& tensor, const TensorView& input,
                  std::initializer_list<int64_t> sizes) {
  if (!tensor) return nullptr;
  const TensorView view(*tensor);
  bool right = view.dtype == input.dtype && view.dim == static_cast<int64_t>(sizes.size());
  int64_t stride = 1;
  for (int64_t d = view.dim - 1; right && d >= 0; --d) {
    right = view.sizes[d] == sizes.begin()[d] && (view.strides[d] == stride || view.sizes[d] == 1);
    stride *= view.sizes[d];
  }
  EFFKERN_CHECK(right, kName, ": ", name, ": wanted a tensor without gaps, as input is, got shape ",
                view.shape());
  return view.data();
}

void pointwise(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& scale,
               const std::optional<Tensor>& shift, const std::optional<Tensor>& gate,
               const std::optional<Tensor>& residual, int64_t activation, const Tensor& output) {
  PointwiseTask task =
      pointwise_task(input, weight, {}, scale, shift, residual, activation, output);
  const PointwiseProblem& p = task.problem;
  task.gate = dense("gate", gate, TensorView(input), {p.images, p.in_channels});
  run_pointwise(task);
}

}  // namespace

PointwiseTask pointwise_task(const Tensor& input, const Tensor& weight,
                             const std::optional<Tensor>& packed,
                             const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
                             const std::optional<Tensor>& residual, int64_t activation,
                             const Tensor& output) {
  const TensorView x(input), w(weight), y(output);
  EFFKERN_CHECK(x.dim == 4 && y.dim == 4 && w.dim == 2, kName,
                ": wanted images and a matrix, got shapes ", x.shape(), ", ", y.shape(), " and ",
                w.shape());
  PointwiseTask task{};
  PointwiseProblem& p = task.problem;
  p.dtype = dtype_of("input", x);
  p.images = x.sizes[0];
  p.pixels = x.sizes[2] * x.sizes[3];
  p.in_channels = x.sizes[1];
  p.out_channels = y.sizes[1];
  const bool fits = y.sizes[0] == p.images && y.sizes[2] == x.sizes[2] &&
                    y.sizes[3] == x.sizes[3] && y.dtype == x.dtype;
  EFFKERN_CHECK(fits, kName, ": output: wanted the pixels and dtype of input, ", x.shape(),
                ", got ", y.shape());
  EFFKERN_CHECK(w.sizes[0] == p.out_channels && w.sizes[1] == p.in_channels && w.dtype == x.dtype &&
                    has_rows(w),
                kName, ": weight: wanted rows of ", p.in_channels, " for ", p.out_channels,
                " channels, got shape ", w.shape());
  EFFKERN_CHECK(activation >= 0 && activation < kNumActivations, kName,
                ": activation: wanted 0 to ", kNumActivations - 1, ", got ", activation);
  const Images from = images("input", x), to = images("output", y);
  p.input_channels_last = from.channels_last;
  p.output_channels_last = to.channels_last;
  task.input = x.data();
  task.input_strides = from.strides;
  task.weight = w.data();
  task.weight_stride = w.strides[0];
  task.packed = dense("packed", packed, x, {packed_size(p)});
  task.scale = dense("scale", scale, x, {p.out_channels});
  task.shift = dense("shift", shift, x, {p.out_channels});
  if (residual) {
    const TensorView r(*residual);
    bool same = r.dim == 4 && r.dtype == x.dtype;
    for (int d = 0; same && d < 4; ++d) same = r.sizes[d] == y.sizes[d];
    EFFKERN_CHECK(same, kName, ": residual: wanted shape ", y.shape(), ", got ", r.shape());
    const Images added = images("residual", r);
    EFFKERN_CHECK(added.channels_last == to.channels_last, kName,
                  ": residual: wanted the layout of the output");
    task.residual = r.data();
    task.residual_strides = added.strides;
  }
  task.output = y.mutable_data();
  task.output_strides = to.strides;
  task.activation = static_cast<Activation>(activation);
  return task;
}

void run_pointwise(PointwiseTask task) {
  PointwiseProblem& p = task.problem;
  const auto adjacent = [&](const PointwiseStrides& s) { return s.image == p.pixels * s.pixel; };
  p.adjacent_images = adjacent(task.input_strides) && adjacent(task.output_strides) &&
                      (!task.residual || adjacent(task.residual_strides));
  p.has_gate = task.gate != nullptr;
  p.packed = task.packed != nullptr;
  p.has_prologue = task.input_shift || task.input_activation != Activation::kNone;
  uint32_t threads;
  EFFKERN_SHIM(torch_get_num_threads(&threads));
  check_memory(kName, pointwise_cpu(task, cpu_isa(), static_cast<int>(threads), kParallel));
}

STABLE_TORCH_LIBRARY_FRAGMENT(effkern, m)
{
  m.def(EFFKERN_POINTWISE_SCHEMA);
  m.def(EFFKERN_PACK_POINTWISE_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(effkern, CPU, m)
{
  m.impl("_pointwise", TORCH_BOX(&pointwise));
  m.impl("_pack_pointwise", TORCH_BOX(&pack_pointwise));
}

}  // namespace effkern

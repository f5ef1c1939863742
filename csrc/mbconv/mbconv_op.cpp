// mbconv on CPU, for inference: expansion, depthwise convolution, squeeze-and-excitation and
// projection of a few images at a time, so that what is between them stays in the caches.
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "depthwise_conv2d/depthwise_conv2d_fused.h"
#include "depthwise_conv2d/depthwise_conv2d_schema.h"
#include "pointwise/pointwise_op.h"

// Images are contiguous or channels_last, matrices and vectors without gaps. With norm_scale and
// norm_shift, (E,), what is projected is activation(norm_scale * gate * d + norm_shift) for the
// depthwise convolution d, else gate * activation(d). expand_packed and project_packed are what
// _pack_pointwise makes of the weights of that name, or nothing.
#define EFFKERN_MBCONV_SCHEMA                                                                   \
  "_mbconv(Tensor input, Tensor? expand_weight, Tensor? expand_bias, Tensor depthwise_weight, " \
  "Tensor? depthwise_bias, Tensor? reduce_weight, Tensor? reduce_bias, Tensor? gate_weight, "   \
  "Tensor? gate_bias, Tensor? norm_scale, Tensor? norm_shift, Tensor project_weight, Tensor? "  \
  "project_bias, Tensor? expand_packed, Tensor? project_packed, Tensor? "                       \
  "residual, " EFFKERN_GEOMETRY_SCHEMA                                                          \
  ", int activation, int reduce_activation, bool hard_gate) -> Tensor"

namespace effkern {
namespace {

// Bytes of expanded activations that are in use at a time; at least one image is.
constexpr int64_t kChunkBytes = int64_t{4} << 20;

using OptionalTensor = std::optional<Tensor>;

Tensor images_of(const Tensor& tensor, int64_t begin, int64_t count, int64_t batch) {
  if (count == batch) return tensor;
  Tensor whole = tensor;
  return torch::stable::narrow(whole, 0, begin, count);
}

// `rows` vectors as an image of so many pixels.
Tensor vectors(const TensorView& like, int64_t rows, int64_t channels) {
  return empty(like, {1, channels, rows, 1}, true);
}

// The gate of each image and channel, (rows, channels) in memory, from the sums over its pixels.
struct SqueezeExcite {
  const Tensor *reduce_weight, *gate_weight;
  const OptionalTensor *reduce_bias, *gate_bias;
  int64_t reduce_activation;
  bool hard;
  // (channels,), or null: a factor of the gate.
  const void* scale;

  Tensor gate(const Tensor& sum, const TensorView& like, int64_t pixels, DType dtype) const {
    const TensorView sums(sum);
    const int64_t rows = sums.sizes[0], channels = sums.sizes[1];
    const PointwiseKernels& kernels = pointwise_kernels(cpu_isa());
    const Tensor means = vectors(like, rows, channels), gates = vectors(like, rows, channels);
    const Tensor reduced = vectors(like, rows, TensorView(*reduce_weight).sizes[0]);
    kernels.round(static_cast<const float*>(sums.data()), 1.0f / static_cast<float>(pixels),
                  TensorView(means).mutable_data(), dtype, rows * channels);
    run_pointwise(pointwise_task(means, *reduce_weight, {}, {}, *reduce_bias, {}, reduce_activation,
                                 reduced));
    run_pointwise(pointwise_task(reduced, *gate_weight, {}, {}, *gate_bias, {}, 0, gates));
    kernels.gate(TensorView(gates).mutable_data(), dtype, rows, channels, hard, scale);
    return gates;
  }
};

Tensor mbconv(const Tensor& input, const OptionalTensor& expand_weight,
              const OptionalTensor& expand_bias, const Tensor& depthwise_weight,
              const OptionalTensor& depthwise_bias, const OptionalTensor& reduce_weight,
              const OptionalTensor& reduce_bias, const OptionalTensor& gate_weight,
              const OptionalTensor& gate_bias, const OptionalTensor& norm_scale,
              const OptionalTensor& norm_shift, const Tensor& project_weight,
              const OptionalTensor& project_bias, const OptionalTensor& expand_packed,
              const OptionalTensor& project_packed, const OptionalTensor& residual,
              EFFKERN_GEOMETRY_PARAMETERS, int64_t activation, int64_t reduce_activation,
              bool hard_gate) {
  const TensorView x(input);
  const int64_t batch = x.sizes[0], height = x.sizes[2], width = x.sizes[3];
  const int64_t hidden = TensorView(depthwise_weight).sizes[0];
  const int64_t image = hidden * height * width * (x.dtype == aoti_torch_dtype_float32() ? 4 : 2);
  const int64_t step = std::clamp<int64_t>(kChunkBytes / std::max<int64_t>(image, 1), 1,
                                           std::max<int64_t>(batch, 1));
  OptionalTensor expanded, output;
  if (expand_weight) expanded = empty(x, {std::min(step, batch), hidden, height, width}, true);
  for (int64_t begin = 0; begin < batch || !output; begin += step) {
    const int64_t count = std::min(step, batch - begin);
    Tensor images = images_of(input, begin, count, batch);
    if (expand_weight) {
      const Tensor chunk = images_of(*expanded, 0, count, std::min(step, batch));
      run_pointwise(pointwise_task(images, *expand_weight, expand_packed, {}, expand_bias, {},
                                   activation, chunk));
      images = chunk;
    }
    const bool norm = norm_scale.has_value(), gated = gate_weight.has_value();
    const auto [middle, sum, unused] = run_depthwise_conv2d_fused(
        images, depthwise_weight, depthwise_bias, {}, {}, EFFKERN_GEOMETRY, norm ? 0 : activation,
        0, static_cast<int64_t>(gated ? Sums::kSpatial : Sums::kNone), 0);
    const TensorView m(middle);
    if (!output) {
      output = empty(x, {batch, TensorView(project_weight).sizes[0], m.sizes[2], m.sizes[3]},
                     x.is_channels_last());
    }
    OptionalTensor added;
    if (residual) added = images_of(*residual, begin, count, batch);
    PointwiseTask task = pointwise_task(middle, project_weight, project_packed, {}, project_bias,
                                        added, 0, images_of(*output, begin, count, batch));
    OptionalTensor gates;
    if (gated) {
      const SqueezeExcite se{&*reduce_weight,
                             &*gate_weight,
                             &reduce_bias,
                             &gate_bias,
                             reduce_activation,
                             hard_gate,
                             norm ? TensorView(*norm_scale).data() : nullptr};
      gates = se.gate(sum, x, m.sizes[2] * m.sizes[3], task.problem.dtype);
      task.gate = TensorView(*gates).data();
    }
    if (norm) {
      task.input_shift = TensorView(*norm_shift).data();
      task.input_activation = static_cast<Activation>(activation);
    }
    run_pointwise(task);
  }
  return *output;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(effkern, m)
{
  m.def(EFFKERN_MBCONV_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(effkern, CPU, m)
{
  m.impl("_mbconv", TORCH_BOX(&mbconv));
}

}  // namespace effkern

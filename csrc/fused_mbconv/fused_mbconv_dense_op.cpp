// fused_mbconv on CPU: schema, argument checks.
#include "depthwise_conv2d/depthwise_conv2d_op.h"
#include "fused_mbconv/fused_mbconv_cpu.h"

// A dense convolution and what follows it. Images and `weight` are channels_last, of float32,
// float16 or bfloat16; `project_weight` is (O, E).
#define EFFKERN_FUSED_MBCONV_CPU_SCHEMA                                                           \
  "_fused_mbconv_cpu(Tensor input, Tensor weight, Tensor? bias, Tensor? project_weight, Tensor? " \
  "project_bias, Tensor? residual, int stride_h, int stride_w, int pad_top, int pad_left, int "   \
  "activation, Tensor(a!) output) -> ()"

namespace effkern {
namespace {

constexpr char kName[] = "effkern.fused_mbconv";

FusedMBConvTask::Strides strides_of(const char* name, const TensorView& view,
                                    const TensorView& input) {
  EFFKERN_CHECK(view.dim == 4 && view.dtype == input.dtype && view.strides[1] == 1, kName, ": ",
                name, ": wanted channels_last images as input is, got shape ", view.shape());
  return {view.strides[0], view.strides[2], view.strides[3]};
}

// A channels_last weight without gaps.
bool is_dense(const TensorView& view) {
  const int64_t strides[4] = {view.sizes[1] * view.sizes[2] * view.sizes[3], 1,
                              view.sizes[1] * view.sizes[3], view.sizes[1]};
  for (int d = 0; d < 4; ++d) {
    if (view.sizes[d] != 1 && view.strides[d] != strides[d]) return false;
  }
  return true;
}

DType dtype_of(const TensorView& input) {
  if (input.dtype == aoti_torch_dtype_float32()) return DType::kFloat32;
  if (input.dtype == aoti_torch_dtype_float16()) return DType::kFloat16;
  EFFKERN_CHECK(input.dtype == aoti_torch_dtype_bfloat16(), kName,
                ": input: wanted float32, float16 or bfloat16");
  return DType::kBFloat16;
}

// The data of (size,) without gaps, or null.
const void* vector_data(const char* name, const std::optional<Tensor>& tensor,
                        const TensorView& input, int64_t size) {
  if (!tensor) return nullptr;
  const TensorView view(*tensor);
  EFFKERN_CHECK(view.dim == 1 && view.sizes[0] == size && view.dtype == input.dtype &&
                    (view.strides[0] == 1 || size == 1),
                kName, ": ", name, ": wanted ", size, " adjacent elements, got shape ",
                view.shape());
  return view.data();
}

void fused_mbconv(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                  const std::optional<Tensor>& project_weight,
                  const std::optional<Tensor>& project_bias, const std::optional<Tensor>& residual,
                  int64_t stride_h, int64_t stride_w, int64_t pad_top, int64_t pad_left,
                  int64_t activation, const Tensor& output) {
  const TensorView x(input), w(weight), y(output);
  FusedMBConvTask task{};
  task.dtype = dtype_of(x);
  task.input_strides = strides_of("input", x, x);
  task.output_strides = strides_of("output", y, x);
  task.images = x.sizes[0];
  task.in_channels = x.sizes[1];
  task.height = x.sizes[2];
  task.width = x.sizes[3];
  task.out_channels = y.sizes[1];
  task.out_height = y.sizes[2];
  task.out_width = y.sizes[3];
  EFFKERN_CHECK(w.dim == 4 && w.dtype == x.dtype && w.sizes[1] == task.in_channels && is_dense(w),
                kName, ": weight: wanted (E, ", task.in_channels,
                ", kH, kW), channels_last without gaps, got ", w.shape());
  task.hidden = w.sizes[0];
  task.kernel_h = w.sizes[2];
  task.kernel_w = w.sizes[3];
  EFFKERN_CHECK(stride_h > 0 && stride_w > 0 && pad_top >= 0 && pad_left >= 0, kName,
                ": stride, padding: wanted 1 or more and 0 or more, got (", stride_h, ", ",
                stride_w, "), (", pad_top, ", ", pad_left, ")");
  task.stride_h = stride_h;
  task.stride_w = stride_w;
  task.pad_top = pad_top;
  task.pad_left = pad_left;
  EFFKERN_CHECK(y.sizes[0] == task.images, kName, ": output: wanted ", task.images, " images, got ",
                y.shape());
  EFFKERN_CHECK(activation >= 0 && activation < kNumActivations, kName,
                ": activation: wanted 0 to ", kNumActivations - 1, ", got ", activation);
  task.input = x.data();
  task.weight = w.data();
  task.bias = vector_data("bias", bias, x, task.hidden);
  if (project_weight) {
    const TensorView p(*project_weight);
    EFFKERN_CHECK(p.dim == 2 && p.sizes[0] == task.out_channels && p.sizes[1] == task.hidden &&
                      p.dtype == x.dtype && (p.strides[1] == 1 || task.hidden == 1),
                  kName, ": project_weight: wanted rows of ", task.hidden, ", got ", p.shape());
    task.project_weight = p.data();
    task.project_stride = p.strides[0];
    task.project_bias = vector_data("project_bias", project_bias, x, task.out_channels);
  } else {
    EFFKERN_CHECK(task.out_channels == task.hidden, kName, ": output: wanted ", task.hidden,
                  " channels, got ", task.out_channels);
  }
  if (residual) {
    const TensorView r(*residual);
    task.residual_strides = strides_of("residual", r, x);
    for (int d = 0; d < 4; ++d) {
      EFFKERN_CHECK(r.sizes[d] == y.sizes[d], kName, ": residual: wanted shape ", y.shape(),
                    ", got ", r.shape());
    }
    task.residual = r.data();
  }
  task.output = y.mutable_data();
  task.activation = static_cast<Activation>(activation);
  if (task.images * task.out_height * task.out_width * task.out_channels == 0) return;
  uint32_t threads;
  EFFKERN_SHIM(torch_get_num_threads(&threads));
  check_memory(kName, fused_mbconv_cpu(task, cpu_isa(), static_cast<int>(threads), kParallel));
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(effkern, m)
{
  m.def(EFFKERN_FUSED_MBCONV_CPU_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(effkern, CPU, m)
{
  m.impl("_fused_mbconv_cpu", TORCH_BOX(&fused_mbconv));
}

}  // namespace effkern

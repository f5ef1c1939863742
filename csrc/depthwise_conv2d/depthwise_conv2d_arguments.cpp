#include "depthwise_conv2d/depthwise_conv2d_arguments.h"

#include <algorithm>

namespace effkern {

const char* dtype_name(int32_t dtype) {
  struct Name {
    int32_t dtype;
    const char* name;
  };
  const Name names[] = {
      {aoti_torch_dtype_float64(), "float64"},     {aoti_torch_dtype_float32(), "float32"},
      {aoti_torch_dtype_float16(), "float16"},     {aoti_torch_dtype_bfloat16(), "bfloat16"},
      {aoti_torch_dtype_int64(), "int64"},         {aoti_torch_dtype_int32(), "int32"},
      {aoti_torch_dtype_int16(), "int16"},         {aoti_torch_dtype_int8(), "int8"},
      {aoti_torch_dtype_uint8(), "uint8"},         {aoti_torch_dtype_bool(), "bool"},
      {aoti_torch_dtype_complex64(), "complex64"}, {aoti_torch_dtype_complex128(), "complex128"}};
  for (const Name& entry : names) {
    if (entry.dtype == dtype) return entry.name;
  }
  return "another dtype";
}

namespace {

const char* device_name(int32_t device_type) {
  return device_type == aoti_torch_device_type_cpu()    ? "cpu"
         : device_type == aoti_torch_device_type_cuda() ? "cuda"
                                                        : "another device";
}

DType to_dtype(const char* op, const TensorView& input) {
  if (input.dtype == aoti_torch_dtype_float32()) return DType::kFloat32;
  if (input.dtype == aoti_torch_dtype_bfloat16()) return DType::kBFloat16;
  if (input.dtype == aoti_torch_dtype_float16()) return DType::kFloat16;
  if (input.dtype == aoti_torch_dtype_float64()) return DType::kFloat64;
  fail(op, ": input: wanted float64, float32, float16 or bfloat16, got ", dtype_name(input.dtype));
}

void check_same(const char* op, const char* name, const TensorView& tensor,
                const TensorView& input) {
  EFFKERN_CHECK(tensor.dtype == input.dtype, op, ": ", name, ": wanted ", dtype_name(input.dtype),
                " as input is, got ", dtype_name(tensor.dtype));
  EFFKERN_CHECK(tensor.device_type == input.device_type, op, ": ", name, ": wanted device ",
                device_name(input.device_type), " as input is on, got ",
                device_name(tensor.device_type));
  if (tensor.device_type != aoti_torch_device_type_cpu()) {
    EFFKERN_CHECK(tensor.device_index() == input.device_index(), op, ": ", name,
                  ": wanted device cuda:", input.device_index(),
                  " as input is on, got cuda:", tensor.device_index());
  }
}

// Sizes small enough that no sum or product of the geometry of one axis overflows.
constexpr int64_t kMaxExtent = int64_t{1} << 40;

void check_axis(const char* op, const char* axis, int64_t size, int64_t kernel, int64_t stride,
                int64_t before, int64_t after, int64_t dilation) {
  EFFKERN_CHECK(stride >= 1, op, ": stride: wanted values >= 1, got ", stride, " for ", axis);
  EFFKERN_CHECK(dilation >= 1, op, ": dilation: wanted values >= 1, got ", dilation, " for ", axis);
  EFFKERN_CHECK(before >= 0 && after >= 0, op, ": padding: wanted values >= 0, got ",
                std::min(before, after), " for ", axis);
  EFFKERN_CHECK(before < kMaxExtent && after < kMaxExtent, op, ": padding: wanted values below ",
                kMaxExtent, ", got ", std::max(before, after), " for ", axis);
  EFFKERN_CHECK(dilation < kMaxExtent / kernel, op, ": dilation: wanted an extent below ",
                kMaxExtent, ", got dilation ", dilation, " for ", axis);
  const int64_t extent = dilation * (kernel - 1) + 1;
  EFFKERN_CHECK(extent <= size + before + after, op,
                ": weight: wanted a kernel that fits into the ", "padded input of ", axis, " ",
                size + before + after, ", got ", extent, " (with dilation ", dilation, ")");
}

}  // namespace

DepthwiseConv2dProblem check_arguments(const char* op, Pass pass, const TensorView& input,
                                       const TensorView& weight, const TensorView* bias,
                                       const Geometry& g, int64_t activation) {
  EFFKERN_CHECK(input.dim == 4, op, ": input: wanted (N, C, H, W), got ", input.shape());
  DepthwiseConv2dProblem p;
  p.pass = pass;
  p.dtype = to_dtype(op, input);
  p.device =
      input.device_type == aoti_torch_device_type_cpu() ? DeviceType::kCpu : DeviceType::kCuda;
  check_same(op, "weight", weight, input);
  p.batch = input.sizes[0];
  p.in_channels = input.sizes[1];
  p.height = input.sizes[2];
  p.width = input.sizes[3];
  EFFKERN_CHECK(p.in_channels > 0 && p.height > 0 && p.width > 0, op,
                ": input: wanted sizes above zero (the batch may be empty), got ", input.shape());
  EFFKERN_CHECK(weight.dim == 4 && weight.sizes[1] == 1 && weight.sizes[0] > 0 &&
                    weight.sizes[0] % p.in_channels == 0 && weight.sizes[2] > 0 &&
                    weight.sizes[3] > 0,
                op, ": weight: wanted (C * M, 1, kH, kW) for C = ", p.in_channels,
                " input channels, got ", weight.shape());
  p.out_channels = weight.sizes[0];
  p.kernel_h = weight.sizes[2];
  p.kernel_w = weight.sizes[3];
  p.stride_h = g.stride_h;
  p.stride_w = g.stride_w;
  p.pad_top = g.pad_top;
  p.pad_bottom = g.pad_bottom;
  p.pad_left = g.pad_left;
  p.pad_right = g.pad_right;
  p.dilation_h = g.dilation_h;
  p.dilation_w = g.dilation_w;
  check_axis(op, "height", p.height, p.kernel_h, g.stride_h, g.pad_top, g.pad_bottom, g.dilation_h);
  check_axis(op, "width", p.width, p.kernel_w, g.stride_w, g.pad_left, g.pad_right, g.dilation_w);
  // A stride past the last position of the kernel leaves one output, as the stride to just there.
  p.stride_h =
      std::min(p.stride_h, p.height + p.pad_top + p.pad_bottom - p.dilation_h * (p.kernel_h - 1));
  p.stride_w =
      std::min(p.stride_w, p.width + p.pad_left + p.pad_right - p.dilation_w * (p.kernel_w - 1));
  int64_t numel, bytes;
  EFFKERN_CHECK(!__builtin_mul_overflow(p.out_height(), p.out_width(), &numel) &&
                    !__builtin_mul_overflow(numel, std::max<int64_t>(p.batch, 1), &numel) &&
                    !__builtin_mul_overflow(numel, p.out_channels, &numel) &&
                    !__builtin_mul_overflow(numel, element_size(p.dtype), &bytes),
                op, ": padding: wanted an output of less than 2**63 bytes, got ", p.out_height(),
                " x ", p.out_width(), " pixels");
  if (bias) {
    check_same(op, "bias", *bias, input);
    EFFKERN_CHECK(bias->dim == 1 && bias->sizes[0] == p.out_channels, op, ": bias: wanted shape (",
                  p.out_channels, ",), got ", bias->shape());
  }
  EFFKERN_CHECK(activation >= 0 && activation < kNumActivations, op, ": activation: wanted 0 to ",
                kNumActivations - 1, ", got ", activation);
  p.has_bias = bias != nullptr;
  p.activation = static_cast<Activation>(activation);
  p.layout = layout_of(input.sizes, input.strides);
  return p;
}

void check_grad_output(const char* op, const DepthwiseConv2dProblem& p,
                       const TensorView& grad_output, const TensorView& input) {
  check_same(op, "grad_output", grad_output, input);
  const int64_t wanted[4] = {p.batch, p.out_channels, p.out_height(), p.out_width()};
  EFFKERN_CHECK(grad_output.dim == 4 && std::equal(wanted, wanted + 4, grad_output.sizes), op,
                ": grad_output: wanted the output's shape (", wanted[0], ", ", wanted[1], ", ",
                wanted[2], ", ", wanted[3], "), got ", grad_output.shape());
}

int32_t accumulation_dtype(const DepthwiseConv2dProblem& p) {
  return p.dtype == DType::kFloat64 ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
}

void check_per_channel(const char* op, const char* name, const DepthwiseConv2dProblem& p,
                       int64_t channels, const TensorView& tensor) {
  EFFKERN_CHECK(tensor.dim == 1 && tensor.sizes[0] == channels, op, ": ", name, ": wanted shape (",
                channels, ",), got ", tensor.shape());
  EFFKERN_CHECK(tensor.dtype == accumulation_dtype(p), op, ": ", name, ": wanted ",
                dtype_name(accumulation_dtype(p)), ", got ", dtype_name(tensor.dtype));
  const bool cpu = p.device == DeviceType::kCpu;
  EFFKERN_CHECK((tensor.device_type == aoti_torch_device_type_cpu()) == cpu, op, ": ", name,
                ": wanted a tensor on ", cpu ? "cpu" : "cuda",
                " as input is, got one on another device");
}

Backend check_backend(const char* op, int64_t value, DeviceType device) {
  EFFKERN_CHECK(value >= 0 && value < kNumBackends, op, ": backend: wanted 0 to ", kNumBackends - 1,
                ", got ", value);
  const Backend backend = static_cast<Backend>(value);
  const Backend own = device == DeviceType::kCpu ? Backend::kCpu : Backend::kCuda;
  const char* place = device == DeviceType::kCpu ? "cpu" : "cuda";
  EFFKERN_CHECK(backend == Backend::kAuto || backend == Backend::kTorch || backend == own, op,
                ": backend: wanted one that runs on ", place, " tensors (auto, ", backend_name(own),
                " or torch), got ", backend_name(backend),
                backend == Backend::kCpu || backend == Backend::kCuda
                    ? ""
                    : ", which has no kernel for this operator yet");
  return backend;
}

}  // namespace effkern

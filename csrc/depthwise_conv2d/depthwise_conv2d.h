// The problem (what to compute) and the plan (how) of depthwise_conv2d, as plain structs.
// No torch, no CUDA: shared by the planner, the kernels of every backend, and effkern._C.
#pragma once

#include <cstdint>

namespace effkern {

enum class Pass : int { kForward, kGradInput, kGradWeight };
enum class DType : int { kFloat64, kFloat32, kFloat16, kBFloat16 };
enum class DeviceType : int { kCpu, kCuda };
enum class Layout : int { kContiguous, kChannelsLast, kStrided };

// Values are part of the operators' schemas; effkern/ops/depthwise_conv2d.py holds the same table.
enum class Activation : int {
  kNone = 0,
  kReLU = 1,
  kReLU6 = 2,
  kSiLU = 3,
  kGELU = 4,
  kGELUTanh = 5,
  kHardswish = 6,
};
inline constexpr int kNumActivations = 7;

// Sums of the forward's output, of each channel with those of the squares, or of each image and
// channel. Values are part of the fused operator's schema; effkern/ops/depthwise_conv2d/fused.py
// holds the same table.
enum class Sums : int { kNone = 0, kChannel = 1, kSpatial = 2 };
inline constexpr int kNumSums = 3;

// Values are part of the operators' schemas; effkern/registry.py holds the same table.
enum class Backend : int {
  kAuto = 0,
  kCpu = 1,
  kCuda = 2,
  kTriton = 3,
  kTorch = 4,
  kCudaEmulated = 5,
  kTritonInterpreted = 6,
};
inline constexpr int kNumBackends = 7;

// Strides in elements of a (batch, channels, height, width) tensor in any layout.
struct Strides4 {
  int64_t n, c, h, w;
};

// Output channel o reads input channel o / multiplier(). Output pixel (y, x) and kernel tap (i, j)
// meet input pixel (y * stride_h - pad_top + i * dilation_h, x * stride_w - pad_left + j *
// dilation_w), or zero outside the image.
struct DepthwiseConv2dProblem {
  Pass pass = Pass::kForward;
  DType dtype = DType::kFloat32;
  DeviceType device = DeviceType::kCpu;
  Layout layout = Layout::kContiguous;
  int64_t batch = 1, in_channels = 1, height = 1, width = 1, out_channels = 1;
  int64_t kernel_h = 1, kernel_w = 1;
  int64_t stride_h = 1, stride_w = 1;
  int64_t pad_top = 0, pad_bottom = 0, pad_left = 0, pad_right = 0;
  int64_t dilation_h = 1, dilation_w = 1;
  bool has_bias = false;
  Activation activation = Activation::kNone;
  // Forward: the convolution is that of input_activation(scale * input + shift), whose
  // borders are zeros all the same.
  bool has_prologue = false;
  Activation input_activation = Activation::kNone;
  Sums sums = Sums::kNone;

  // Sums and sums of squares.
  int64_t moments() const { return sums == Sums::kChannel ? 2 : sums == Sums::kSpatial ? 1 : 0; }
  int64_t multiplier() const { return in_channels > 0 ? out_channels / in_channels : 1; }
  int64_t taps() const { return kernel_h * kernel_w; }
  int64_t out_height() const {
    return (height + pad_top + pad_bottom - dilation_h * (kernel_h - 1) - 1) / stride_h + 1;
  }
  int64_t out_width() const {
    return (width + pad_left + pad_right - dilation_w * (kernel_w - 1) - 1) / stride_w + 1;
  }
  int64_t input_numel() const { return batch * in_channels * height * width; }
  int64_t output_numel() const { return batch * out_channels * out_height() * out_width(); }
};

inline constexpr int64_t element_size(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

enum class Kernel : int {
  // Nothing to compute: an empty output.
  kEmpty,
  // CPU, channels_last, without packing: 3x3, 5x5 and 7x7.
  kCpuDirectChannels,
  // CPU, contiguous float32 and 16-bit, without packing: 3x3, 5x5 and 7x7.
  kCpuDirectRows,
  // CPU, SIMD lanes hold channels (the channel stride is 1).
  kCpuChannels,
  // CPU, SIMD lanes hold channels, planes are transposed on their way in and out.
  kCpuTransposed,
  // CPU, SIMD lanes hold neighbouring pixels of a row.
  kCpuRows,
  // CUDA, see depthwise_conv2d_launch.cuh.
  kCudaDirectChannelsLast,
  kCudaDirectContiguous,
  kCudaDirectStrided,
  kCudaToeplitz,
  kCudaWeightGradChannelsLast,
  kCudaWeightGradContiguous,
  kCudaWeightGradMma,
  kCudaWeightGradStrided,
  // aten::convolution.
  kTorch,
};

// How one problem is computed. A pure function of (problem, instruction set): it does not depend on
// the number of threads, so that results do not either.
// Instruction sets of the CPU kernels, in ascending order.
enum class CpuIsa : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3 };

struct DepthwiseConv2dPlan {
  Backend backend = Backend::kTorch;
  Kernel kernel = Kernel::kTorch;
  // CPU: that of the kernel, at most the one that the plan was asked for.
  CpuIsa isa = CpuIsa::kBaseline;
  // Elements per SIMD vector (CPU) or per global access (CUDA).
  int lanes = 1;
  // Vectors per register tile: rows x columns of the output (forward, grad_input) or of the kernel
  // (grad_weight).
  int tile_rows = 1, tile_cols = 1;
  // Rows of the output that share one packed block of the input (CPU), or the rows of a thread
  // block (CUDA).
  int64_t block_rows = 1;
  // Columns of the output per packed block, and of the packed block per column phase (CPU).
  int64_t block_cols = 1, pitch = 1;
  // Channels per work unit.
  int block_channels = 1;
  // CPU: neighbouring units share pixels (large tensors: fewer pages at a time) instead of weights.
  bool channels_innermost = false;
  // grad_weight: independent partial sums, added in a fixed order.
  int splits = 1;
  // Work units (CPU) or thread blocks (CUDA).
  int64_t grid = 0;
  int64_t shared_memory = 0;
  int64_t scratch_per_thread = 0;
  int64_t workspace = 0;
  // Compulsory traffic, and multiply-adds on real pixels (padding not counted) times two.
  int64_t bytes = 0;
  int64_t flops = 0;
  const char* reason = "";
};

// Bytes that any implementation has to move and FLOPs that it has to do.
int64_t compulsory_bytes(const DepthwiseConv2dProblem& problem);
int64_t valid_flops(const DepthwiseConv2dProblem& problem);

// Whether one of the specialised CUDA kernels serves the problem: 3x3 and 5x5 with stride 1 or 2,
// 7x7 with stride 1, dilation 1, multiplier 1, sizes that fit an int. Else the strided ones do.
bool has_specialized_cuda_kernel(const DepthwiseConv2dProblem& problem);

// Whether a tensor-core kernel serves the forward pass and the input gradient: 16-bit types, 10
// taps to 57 x 57 with stride 1, dilation 1, multiplier 1, sizes that fit an int. The tensors have
// to be contiguous along rows.
bool has_toeplitz_cuda_kernel(const DepthwiseConv2dProblem& problem);

// Whether a tensor-core kernel serves the weight gradient of tensors that are contiguous along
// rows.
bool has_weight_grad_mma_kernel(const DepthwiseConv2dProblem& problem);

// Whether a tensor-core kernel serves the weight gradient of channels_last tensors that have whole
// aligned vectors of 4 channels: 16-bit 3x3, 5x5 and 7x7 with stride 1.
bool has_channels_last_weight_grad_mma_kernel(const DepthwiseConv2dProblem& problem);

DepthwiseConv2dPlan plan_depthwise_conv2d(const DepthwiseConv2dProblem& problem, Backend backend,
                                          CpuIsa isa);

const char* kernel_name(Kernel kernel);
const char* backend_name(Backend backend);

}  // namespace effkern

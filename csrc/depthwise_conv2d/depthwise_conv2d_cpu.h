// CPU backend of depthwise_conv2d: what its driver (depthwise_conv2d_cpu.cpp) hands to the kernels,
// which are compiled once per instruction set. No torch, no standard library types.
#pragma once

#include <cstdint>

#include "depthwise_conv2d.h"

namespace effkern {

// One axis of a problem as the stencil kernels see it.
struct AxisGeometry {
  int64_t phases, out_size, source_size, step, min_distance, max_distance;
};
// `source_size` is input_size, or output_size for the input gradient, whose source is grad_output.
AxisGeometry axis_geometry(Pass pass, int64_t input_size, int64_t output_size, int64_t kernel,
                           int64_t stride, int64_t pad, int64_t dilation);

// How output index u of phase p along one axis meets the source: out = p + phases * u, and tap n of
// that phase reads source index u * step + distance[n] with kernel index index[n]. The forward pass
// has one phase; the input gradient with stride s has s of them, each a dense stencil of its own.
struct StencilAxis : AxisGeometry {
  // Taps of phase p: entries begin[p] to begin[p + 1], with ascending distance.
  const int64_t* begin;
  const int64_t* index;
  const int64_t* distance;

  int64_t count(int64_t phase) const {
    return phases == 1 ? out_size : (out_size - phase + phases - 1) / phases;
  }
};

// The image and the output that a block of rows has: where channel 0 of their row 0 is, or would
// be.
struct BlockTensors {
  const void* source;
  void* output;
};

// What is done around each block of rows of the direct kernels for channels_last, for a plan whose
// units have all channels: `before`, which may be null, gives the block other tensors, with the
// strides of the task; `after` follows when the block is stored. Rows [row, row + rows) of the
// output of image n; `scratch` is that of the thread.
struct BlockHooks {
  const void* context;
  BlockTensors (*before)(const void* context, int64_t n, int64_t row, int64_t rows, void* scratch);
  void (*after)(const void* context, int64_t n, int64_t row, int64_t rows, void* scratch);
};

// forward, input gradient, and grad * activation'(forward).
struct StencilTask {
  DepthwiseConv2dPlan plan;
  StencilAxis rows, cols;
  int64_t batch, channels;
  // Output channel o reads the source channels (o / divide) * planes + m for m < planes.
  int64_t divide, planes;
  const void* source;
  Strides4 source_strides;
  // Weight of (o, m, tap i, tap j): (o * planes + m) * stride_o + i * stride_h + j * stride_w.
  const void* weight;
  int64_t weight_stride_o, weight_stride_h, weight_stride_w;
  // The packed order of the taps is that of memory, or its reverse (`flipped`), without gaps.
  bool dense_weight, flipped;
  const void* bias;
  int64_t bias_stride;
  Activation activation;
  // Forward, packed kernels: packed is source_activation(scale * source + shift), with null or one
  // number of the accumulation type per channel of the source.
  bool has_prologue;
  Activation source_activation;
  const void *scale, *shift;
  int64_t scale_stride, shift_stride;
  // Forward: null, or [batch][row blocks][moments][channels], the sums of the output and those of
  // its squares.
  double* sums;
  int64_t moments;
  // Null, or those of a direct forward for channels_last.
  const BlockHooks* blocks;
  // Null, or the gradient that multiplies the derivative of the activation.
  const void* grad;
  Strides4 grad_strides;
  void* output;
  Strides4 output_strides;
  // Whether the direct kernels for channels_last fetch rows of the source before they need them,
  // and whether they write the output past the caches: source and output together exceed them.
  bool fetches_ahead, streams;
  // Packed block of the source: elements per plane, and where each tap of each pair of phases
  // reads, in elements; entries pair_begin[row_phase * cols.phases + col_phase] on, ordered (i, m,
  // j).
  int64_t plane;
  const int64_t* tap_offset;
  const int64_t* pair_begin;
  // Of the direct kernels, whose kernels are square; the stride and the padding are those of the
  // forward pass.
  bool gradient;
  int64_t taps_per_row, stride, pad_top, pad_left;
};

struct WeightGradTask {
  DepthwiseConv2dProblem problem;
  DepthwiseConv2dPlan plan;
  const void* input;
  Strides4 input_strides;
  const void* grad;
  Strides4 grad_strides;
  // Each may be null; grad_weight is contiguous.
  void* grad_weight;
  void* grad_bias;
  // [splits][out_channels][taps + 1] in the accumulation type; null if there is one split.
  void* workspace;
  // As in StencilTask.
  bool fetches_ahead;
};

// Neighbouring pixels of a row that one tile of the direct kernels for channels_last computes.
inline constexpr int kDirectCols = 4;

// Rows of one tile of those for contiguous images, at most: a span of 16-bit elements has two
// vectors of each row, and those of a strided row are converted besides being shuffled.
inline constexpr int direct_tile_rows(int64_t stride, int64_t element_bytes, int64_t vectors) {
  return vectors == 1 && (stride == 1 || element_bytes == 4) ? 7 : 4;
}

// With AVX-512, which converts each row once.
inline constexpr int kShiftedTileRows = 7;

// A copied row, with the borders that whole vectors meet.
inline constexpr int64_t direct_rows_pitch(int64_t width, int64_t out_width, int64_t pad,
                                           int64_t kernel, int64_t stride, int64_t lanes) {
  const int64_t met = (out_width + lanes) * stride + lanes + kernel;
  const int64_t copied = pad + width + lanes;
  return met > copied ? met : copied;
}

// A copied row of grad_output for the strided input gradient of contiguous images: from the first
// column that a tap reads to the last one that a whole vector does.
inline constexpr int64_t direct_rows_gradient_pitch(int64_t width, int64_t grad_width, int64_t pad,
                                                    int64_t kernel, int64_t lanes) {
  const int64_t met = (width + 2 * lanes - 1) / (2 * lanes) * lanes + pad / 2 + 1;
  const int64_t copied = grad_width + lanes;
  return kernel / 2 + (met > copied ? met : copied);
}

// Rows of the tallest register tile, and columns of the widest, whatever the instruction set.
inline constexpr int kTileRowsBound = 8, kTileColsBound = 14;

// Row buffers of a stencil's scratch, each of kTileRowsBound x kTileColsBound vectors: one per
// column phase, and the space in which they are interleaved.
inline constexpr int64_t row_buffers(int64_t phases) { return phases + phases / 8 + 2; }

// The kernels of one instruction set. Each runs work units [begin, end) of the plan's grid.
struct CpuKernels {
  const char* name;
  // Widest register tile.
  int max_cols;
  void (*stencil)(const StencilTask& task, DType dtype, int64_t begin, int64_t end, void* scratch);
  void (*weight_grad)(const WeightGradTask& task, int64_t begin, int64_t end, void* scratch);
  // Adds the splits of channels [begin, end) in ascending order.
  void (*reduce_weight_grad)(const WeightGradTask& task, int64_t begin, int64_t end);
};

const CpuKernels& cpu_kernels_baseline();
const CpuKernels& cpu_kernels_avx2();
const CpuKernels& cpu_kernels_avx512();
const CpuKernels& cpu_kernels(CpuIsa isa);

// Runs body(begin, end) over a partition of [0, count), on several threads; from the caller, so
// that this library needs no thread pool of its own.
struct Parallel {
  void (*run)(int64_t count, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context);
};

struct StencilTensors {
  const void* source;
  Strides4 source_strides;
  const void* weight;
  Strides4 weight_strides;
  const void* bias;
  int64_t bias_stride;
  const void* grad;
  Strides4 grad_strides;
  void* output;
  Strides4 output_strides;
};

// What the fused forward has besides, all in the accumulation type; null where the problem has it
// not. The sums have no gaps, `sum` is (out_channels), or (batch, out_channels) for Sums::kSpatial.
struct StencilHooks {
  const void *scale = nullptr, *shift = nullptr;
  int64_t scale_stride = 0, shift_stride = 0;
  void *sum = nullptr, *sum_of_squares = nullptr;
  // Only with a plan for them.
  const BlockHooks* blocks = nullptr;
  // Bytes of source and output that the caches hold; 0: the usual.
  int64_t cached_bytes = 0;
};

// Both drivers return false if scratch memory could not be allocated.
// problem.pass says which: kForward (with `grad` set: grad * activation'(forward)) or kGradInput
// (source is grad_output, output is grad_input).
bool stencil_cpu(const DepthwiseConv2dProblem& problem, const DepthwiseConv2dPlan& plan,
                 const StencilTensors& tensors, Parallel parallel, const StencilHooks& hooks = {});

struct WeightGradTensors {
  const void* input;
  Strides4 input_strides;
  const void* grad;
  Strides4 grad_strides;
  void* grad_weight;
  void* grad_bias;
};

bool weight_grad_cpu(const DepthwiseConv2dProblem& problem, const DepthwiseConv2dPlan& plan,
                     const WeightGradTensors& tensors, Parallel parallel);

}  // namespace effkern

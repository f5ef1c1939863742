// problem -> plan: a pure function, without torch and without a look at the machine.
#include "depthwise_conv2d/depthwise_conv2d.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "depthwise_conv2d/depthwise_conv2d_cpu.h"
#include "depthwise_conv2d/depthwise_conv2d_cpu_direct_plan.h"
#include "depthwise_conv2d/depthwise_conv2d_cuda.h"

namespace effkern {
namespace {

// Half of a 512 KiB L2: what one thread packs stays there while the taps pass over it.
constexpr int64_t kPackedBytes = 256 * 1024;
// Enough for an even split over the cores of a desktop; fixed, so that plans (and with them the
// order of additions) do not depend on the number of threads.
constexpr int64_t kMinUnits = 32;
constexpr int64_t kMaxWorkspace = 16 * 1024 * 1024;
// With fewer pairs of rows, the weights of a channels_last layer cost as much as its pixels.
constexpr int64_t kMinImageBlocks = 6;
// Past this the tensors do not fit the L2 caches: whole pixels are read at a time, for the
// prefetchers' and the TLB's sake, though the weights are packed again for each block.
constexpr int64_t kLargeBytes = 2 * 1024 * 1024;
// Bytes of a partial sum and of that of the squares, and at least so much of the output for each.
constexpr int64_t kMomentBytes = 8;
constexpr int64_t kBytesPerMoment = 128;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Pairs (output pixel, tap) along one axis that meet a real input pixel.
int64_t valid_taps(int64_t input, int64_t output, int64_t kernel, int64_t stride, int64_t pad,
                   int64_t dilation) {
  int64_t total = 0;
  for (int64_t i = 0; i < kernel; ++i) {
    // Outputs y with 0 <= y * stride - pad + i * dilation < input.
    const int64_t offset = i * dilation - pad;
    const int64_t first = offset >= 0 ? 0 : ceil_div(-offset, stride);
    const int64_t last = offset >= input ? 0 : std::min(output, (input - 1 - offset) / stride + 1);
    total += std::max<int64_t>(0, last - first);
  }
  return total;
}

AxisGeometry row_axis(const DepthwiseConv2dProblem& p) {
  return axis_geometry(p.pass, p.height, p.out_height(), p.kernel_h, p.stride_h, p.pad_top,
                       p.dilation_h);
}

AxisGeometry col_axis(const DepthwiseConv2dProblem& p) {
  return axis_geometry(p.pass, p.width, p.out_width(), p.kernel_w, p.stride_w, p.pad_left,
                       p.dilation_w);
}

// The most rows per block whose packed source keeps within the budget and leaves enough units.
int64_t choose_block_rows(int64_t rows, int64_t step, int64_t span, int64_t row_bytes,
                          int64_t other_units) {
  int64_t block = std::max<int64_t>(1, (kPackedBytes / row_bytes - span - 1) / step + 1);
  block = std::min(block, rows);
  // Blocks under `smallest` rows would pack their halo more often than their own rows.
  const int64_t smallest = std::min(rows, std::max<int64_t>(4, span / step));
  const int64_t wanted = ceil_div(kMinUnits, std::max<int64_t>(1, other_units));
  block = std::min(block, std::max(smallest, ceil_div(rows, wanted)));
  // Equal blocks.
  return ceil_div(rows, ceil_div(rows, block));
}

int64_t vector_bytes(CpuIsa isa) {
  return isa >= CpuIsa::kAvx512 ? 64 : isa == CpuIsa::kAvx2 ? 32 : 16;
}

// Partial sums of the output, one of each block of rows, which one thread computes.
int64_t sums_workspace(const DepthwiseConv2dProblem& p, const DepthwiseConv2dPlan& plan) {
  return p.batch * ceil_div(p.out_height(), plan.block_rows) * p.moments() * p.out_channels *
         kMomentBytes;
}

// Channels per work unit: a cache line of them where they are adjacent, so that each line is
// fetched once. Of 16-bit channels half a line: packed, a whole one leaves the L2 cache.
int unit_channels(const DepthwiseConv2dProblem& p, const DepthwiseConv2dPlan& plan) {
  if (plan.kernel == Kernel::kCpuRows) return 1;
  if (plan.kernel == Kernel::kCpuTransposed) return plan.lanes;
  return std::max(plan.lanes, p.dtype == DType::kFloat64 ? 8 : 16);
}

void plan_stencil(const DepthwiseConv2dProblem& p, int64_t accumulator, DepthwiseConv2dPlan* plan) {
  const bool channels = plan->kernel != Kernel::kCpuRows;
  const AxisGeometry rows = row_axis(p), cols = col_axis(p);
  const bool gradient = p.pass == Pass::kGradInput;
  const int64_t output_channels = gradient ? p.in_channels : p.out_channels;
  const int64_t planes = gradient ? p.multiplier() : 1;
  const int64_t lanes = plan->lanes, element = channels ? lanes : 1;
  const int64_t row_count = ceil_div(rows.out_size, rows.phases);
  const int64_t col_count = ceil_div(cols.out_size, cols.phases);
  plan->block_cols = std::min<int64_t>(col_count, channels ? 252 : 1792);
  const auto floor_div = [](int64_t a, int64_t b) { return a >= 0 ? a / b : -ceil_div(-a, b); };
  const int64_t reach =
      floor_div(cols.max_distance, cols.step) - floor_div(cols.min_distance, cols.step);
  plan->pitch = (channels ? plan->block_cols : ceil_div(plan->block_cols, lanes) * lanes) + reach;
  plan->block_channels = unit_channels(p, *plan);
  const int64_t groups = ceil_div(output_channels, plan->block_channels);
  const int64_t span = rows.max_distance - rows.min_distance;
  const int64_t subs = ceil_div(plan->block_channels, element);
  const int64_t row_bytes = cols.step * plan->pitch * element * accumulator * planes * subs;
  const int64_t stage_bytes =
      plan->kernel == Kernel::kCpuTransposed
          ? rows.phases * cols.phases * plan->block_cols * lanes * accumulator
          : 0;
  plan->block_rows = choose_block_rows(row_count, rows.step, span,
                                       row_bytes + stage_bytes / rows.step, groups * p.batch);
  plan->grid = groups * p.batch * ceil_div(row_count, plan->block_rows);
  plan->workspace = sums_workspace(p, *plan);
  plan->channels_innermost = plan->kernel == Kernel::kCpuChannels && plan->bytes > kLargeBytes;
  const int64_t columns = channels ? plan->block_cols : ceil_div(plan->block_cols, lanes);
  plan->tile_cols = static_cast<int>(ceil_div(columns, ceil_div(columns, kTileColsBound)));
  plan->tile_rows = std::max(1, kTileColsBound / plan->tile_cols);
  const int64_t buffers = row_buffers(cols.phases) * kTileRowsBound * kTileColsBound * lanes;
  const int64_t packed_rows = (plan->block_rows - 1) * rows.step + 1 + span;
  plan->scratch_per_thread =
      (subs * ((p.taps() * planes + lanes) * element + lanes) + buffers) * accumulator +
      packed_rows * row_bytes + plan->block_rows * stage_bytes;
}

void plan_weight_grad(const DepthwiseConv2dProblem& p, int64_t accumulator,
                      DepthwiseConv2dPlan* plan) {
  const bool channels = plan->kernel != Kernel::kCpuRows;
  const int64_t lanes = plan->lanes, element = channels ? lanes : 1;
  const int64_t out_h = p.out_height(), out_w = p.out_width();
  plan->block_cols = std::min<int64_t>(out_w, channels ? 252 : 1792);
  const int64_t span_w = (p.kernel_w - 1) * p.dilation_w;
  const int64_t grad_pitch =
      channels ? plan->block_cols : ceil_div(plan->block_cols, lanes) * lanes;
  const int64_t phases = channels ? 1 : p.stride_w;
  plan->pitch = channels ? (plan->block_cols - 1) * p.stride_w + span_w + 1
                         : grad_pitch + span_w / p.stride_w + 1;
  plan->block_channels = unit_channels(p, *plan);
  const int64_t groups = ceil_div(p.out_channels, plan->block_channels);
  const int64_t span = (p.kernel_h - 1) * p.dilation_h;
  const int64_t subs = ceil_div(plan->block_channels, element);
  const int64_t source_row = phases * plan->pitch * element * accumulator * subs;
  const int64_t grad_row = grad_pitch * element * accumulator * subs;
  plan->block_rows = choose_block_rows(out_h, p.stride_h, span, source_row + grad_row / p.stride_h,
                                       groups * p.batch);
  const int64_t items = p.batch * ceil_div(out_h, plan->block_rows);
  const int64_t partial = p.out_channels * (p.taps() + 1) * accumulator;
  plan->splits = static_cast<int>(
      std::max<int64_t>(1, std::min({kMinUnits / groups, items, kMaxWorkspace / partial})));
  plan->grid = groups * plan->splits;
  plan->workspace = plan->splits > 1 ? plan->splits * partial : 0;
  plan->tile_cols =
      static_cast<int>(ceil_div(p.kernel_w, ceil_div(p.kernel_w, int64_t{kTileColsBound})));
  plan->tile_rows = std::max(1, kTileColsBound / plan->tile_cols);
  plan->scratch_per_thread = (p.taps() + 1) * lanes * accumulator * subs +
                             plan->block_rows * grad_row +
                             ((plan->block_rows - 1) * p.stride_h + span + 1) * source_row;
}

void plan_direct_rows(const DepthwiseConv2dProblem& p, DepthwiseConv2dPlan* plan) {
  const bool gradient = p.pass == Pass::kGradInput;
  const int64_t rows = gradient ? p.height : p.out_height();
  const int64_t planes = p.batch * (gradient ? p.in_channels : p.out_channels);
  plan->tile_rows = plan->isa >= CpuIsa::kAvx512
                        ? kShiftedTileRows
                        : direct_tile_rows(p.stride_h, element_size(p.dtype), 1);
  const int64_t wanted = ceil_div(kMinUnits, planes);
  plan->block_rows = std::min(rows, std::max<int64_t>(plan->tile_rows, ceil_div(rows, wanted)));
  plan->grid = planes * ceil_div(rows, plan->block_rows);
  plan->workspace = sums_workspace(p, *plan);
  const int64_t width = gradient ? p.out_width() : p.width;
  const int64_t out_width = gradient ? p.width : p.out_width();
  const int64_t pitch = direct_rows_pitch(width, out_width, -col_axis(p).min_distance, p.kernel_w,
                                          p.stride_w, span_channels(p, plan->lanes));
  int64_t floats = 2 * p.taps() + pitch + 4 * plan->lanes;
  // Copies of rows at the ends of a 16-bit tensor.
  if (p.dtype != DType::kFloat32) {
    floats += ceil_div(((plan->tile_rows - 1) * p.stride_h + p.kernel_h) * pitch, 2);
  }
  plan->scratch_per_thread = floats * 4;
}

// Pairs of rows, whose rows of grad_output stay in the L1 cache.
void plan_direct_rows_gradient(const DepthwiseConv2dProblem& p, DepthwiseConv2dPlan* plan) {
  constexpr int64_t kCopied = 16 * 1024;
  const int64_t planes = p.batch * p.in_channels, pairs = ceil_div(p.height, 2);
  const int64_t pitch =
      direct_rows_gradient_pitch(p.width, p.out_width(), p.pad_left, p.kernel_w, plan->lanes);
  const int64_t most = std::max<int64_t>(4, kCopied / (4 * pitch));
  const int64_t block = std::min(most, std::max<int64_t>(2, pairs * planes / kMinUnits));
  plan->tile_rows = 4;
  plan->block_rows = 2 * std::min(pairs, block);
  plan->grid = planes * ceil_div(p.height, plan->block_rows);
  plan->scratch_per_thread =
      4 * (p.taps() * plan->lanes + (plan->block_rows / 2 + p.kernel_h / 2 + 1) * pitch);
}

void plan_direct_channels(const DepthwiseConv2dProblem& p, DepthwiseConv2dPlan* plan) {
  int64_t rows = p.pass == Pass::kGradInput ? p.height : p.out_height();
  // Pairs of rows begin above the image where the padding is odd.
  if (is_strided_gradient(p)) rows += p.pad_top % 2;
  const int64_t span = span_channels(p, plan->lanes), spans = p.in_channels / span;
  plan->tile_rows = 2;
  plan->tile_cols = kDirectCols;
  plan->block_rows = 2;
  if (p.moments()) {
    const int64_t wanted =
        ceil_div(p.moments() * kBytesPerMoment, p.out_width() * element_size(p.dtype));
    plan->block_rows = (std::clamp<int64_t>(wanted, 1, rows) + 1) / 2 * 2;
  }
  const int64_t blocks = p.batch * ceil_div(rows, plan->block_rows);
  // The prefetchers like long runs of channels; on small images a thread packs the weights of its
  // groups only.
  plan->channels_innermost = blocks >= kMinImageBlocks;
  const int64_t wanted =
      std::clamp<int64_t>(ceil_div(kMinUnits, blocks), 1, ceil_div(p.in_channels / plan->lanes, 8));
  const int64_t group = ceil_div(spans, wanted);
  plan->block_channels = static_cast<int>(group * span);
  // Channels that do not fill a span go with the last group.
  plan->grid = ceil_div(spans, group) * blocks;
  plan->workspace = sums_workspace(p, *plan);
  plan->scratch_per_thread = (spans + 1) * (p.taps() + 1) * span * 4;
}

// Rows and columns of the tiles of the weight gradient: as large as fits the sets of an L1 cache
// (32 KiB, 8 ways) that the pixels, `pixel_bytes` apart, share.
void choose_wgrad_tile(const DepthwiseConv2dProblem& p, DepthwiseConv2dPlan* plan) {
  constexpr int64_t kLine = 64, kSets = 64, kWays = 8;
  constexpr struct {
    int64_t rows, cols;
  } kTiles[] = {{2, 14}, {2, 7}, {2, 5}, {2, 4}, {1, 4}};
  const int64_t lines_apart = p.out_channels * element_size(p.dtype) / kLine;
  const int64_t capacity = kWays * kSets / std::gcd(lines_apart, kSets);
  for (const auto& tile : kTiles) {
    plan->block_rows = tile.rows;
    plan->block_cols = tile.cols;
    // Pixels of the tensor that the walk goes over, and of the other one.
    const int64_t reach = (tile.cols - 1) * p.stride_w + p.kernel_w;
    const int64_t lines =
        p.stride_h == 1
            ? tile.rows * reach + (tile.rows + p.kernel_h - 1) * tile.cols
            : tile.rows * tile.cols + ((tile.rows - 1) * p.stride_h + p.kernel_h) * reach;
    // A few too many cost less than smaller tiles.
    if (8 * lines <= 9 * capacity) return;
  }
}

// Units are splits of the rows x groups of channels (a cache line of float32) or planes.
void plan_direct_wgrad(const DepthwiseConv2dProblem& p, DepthwiseConv2dPlan* plan) {
  const bool channels = plan->kernel == Kernel::kCpuDirectChannels;
  const int64_t rows = p.stride_h == 1 ? p.height : p.out_height();
  int64_t vectors = 1, groups = p.out_channels, copied = 0;
  if (channels) {
    choose_wgrad_tile(p, plan);
    const int64_t span = span_channels(p, plan->lanes);
    vectors = p.out_channels / span * span / plan->lanes;
    plan->block_channels = std::max<int>(static_cast<int>(span), 16);
    groups = ceil_div(vectors * plan->lanes, plan->block_channels);
  } else {
    plan->block_rows = ceil_div(rows, ceil_div(kMinUnits, p.out_channels));
    if (p.dtype != DType::kFloat32) {
      // Rows of planes at the ends of a 16-bit tensor are copied; the copy stays in the L1 cache.
      const int64_t row = 2 * (p.stride_h * p.width + p.out_width());
      plan->block_rows = std::clamp<int64_t>(16 * 1024 / row, 1, plan->block_rows);
      // Rows of the tensor that the walk does not go over are more, and strips read beyond a row.
      const int64_t beyond = (p.stride_w + 1) * (p.out_width() + plan->lanes) + 2 * plan->lanes +
                             p.kernel_w + p.pad_left;
      copied = ceil_div(
          (plan->block_rows * p.stride_h + p.kernel_h) * (p.width + p.out_width()) + beyond, 2);
    }
  }
  plan->tile_cols = static_cast<int>(p.kernel_w);
  plan->tile_rows = p.kernel_h == 3 ? 3 : 2;
  const int64_t partial = p.out_channels * (p.taps() + 1) * 4;
  const int64_t items = p.batch * ceil_div(rows, plan->block_rows);
  // Adding splits up is a second round of all threads, for which a small unit is no gain.
  constexpr int64_t kUnitBytes = 64 * 1024;
  const int64_t wanted = std::min(kMinUnits, plan->bytes / kUnitBytes);
  plan->splits = static_cast<int>(
      std::max<int64_t>(1, std::min({wanted / groups, items, kMaxWorkspace / partial})));
  plan->grid = groups * plan->splits;
  plan->workspace = plan->splits > 1 ? plan->splits * partial : 0;
  plan->scratch_per_thread = ((vectors + 2) * (p.taps() + 1) * plan->lanes + copied) * 4;
}

// Nothing is left to torch. In benchmarks/results/cpu-amd-epyc-2c it was ahead in the same layout
// on two strided input gradients, before these had a kernel of their own.
DepthwiseConv2dPlan plan_cpu(const DepthwiseConv2dProblem& p, DepthwiseConv2dPlan plan,
                             CpuIsa isa) {
  if (isa >= CpuIsa::kAvx512 && fills_narrow_vectors_better(p)) isa = CpuIsa::kAvx2;
  const int64_t accumulator = p.dtype == DType::kFloat64 ? 8 : 4;
  plan.isa = isa;
  plan.lanes = static_cast<int>(vector_bytes(isa) / accumulator);
  const int64_t wide = p.pass == Pass::kGradInput ? p.in_channels : p.out_channels;
  // With less than half of the lanes filled, pixels fill them better.
  const bool channels = p.layout == Layout::kChannelsLast && 2 * wide >= plan.lanes;
  plan.backend = Backend::kCpu;
  if (fits_direct_channels(p, isa, plan.lanes)) {
    plan.kernel = Kernel::kCpuDirectChannels;
    if (p.pass == Pass::kGradWeight) {
      plan_direct_wgrad(p, &plan);
    } else {
      plan_direct_channels(p, &plan);
    }
    plan.reason = "channels are adjacent in memory and the kernel is small: nothing is packed";
    return plan;
  }
  if (fits_direct_rows(p, isa, plan.lanes)) {
    plan.kernel = Kernel::kCpuDirectRows;
    if (p.pass == Pass::kGradWeight) {
      plan_direct_wgrad(p, &plan);
    } else if (is_strided_gradient(p)) {
      plan_direct_rows_gradient(p, &plan);
    } else {
      plan_direct_rows(p, &plan);
    }
    plan.reason = "pixels are adjacent in memory and the kernel is small: nothing is packed";
    return plan;
  }
  // Transposing is only vectorised for float32 and dense rows; with less than all lanes filled,
  // rows fill them better.
  const bool transposed =
      p.layout == Layout::kContiguous && p.dtype != DType::kFloat64 && wide >= plan.lanes;
  plan.kernel = channels     ? Kernel::kCpuChannels
                : transposed ? Kernel::kCpuTransposed
                             : Kernel::kCpuRows;
  if (p.pass == Pass::kGradWeight) {
    plan_weight_grad(p, accumulator, &plan);
  } else {
    plan_stencil(p, accumulator, &plan);
  }
  if (p.has_prologue) {
    plan.reason = "each element passes through the prologue once, as it is packed";
    return plan;
  }
  plan.reason = channels     ? "channels are adjacent in memory: a lane is a channel"
                : transposed ? "planes are transposed on their way: a lane is a channel"
                             : "pixels of a row fill the lanes";
  return plan;
}

DepthwiseConv2dPlan plan_cuda(const DepthwiseConv2dProblem& p, DepthwiseConv2dPlan plan) {
  plan.backend = Backend::kCuda;
  if (p.has_prologue || p.moments() > 0) {
    const char* missing = no_hooked_cuda_kernel(p);
    DepthwiseConv2dProblem plain = p;
    plain.has_prologue = false, plain.sums = Sums::kNone;
    plan = plan_cuda(plain, plan);
    const bool products = plan.kernel == Kernel::kCudaToeplitz;
    plan.reason = missing    ? missing
                  : products ? "asked for by name; hooks in the tensor-core kernel"
                             : "asked for by name; hooks in the direct kernel";
    return plan;
  }
  const bool gradient = p.pass == Pass::kGradWeight;
  const bool products = gradient ? has_weight_grad_mma_kernel(p) : has_toeplitz_cuda_kernel(p);
  if (p.layout == Layout::kContiguous && products) {
    plan.kernel = gradient ? Kernel::kCudaWeightGradMma : Kernel::kCudaToeplitz;
    plan.reason = "asked for by name; 16-bit multiply-adds at the memory bound need tensor cores";
    return plan;
  }
  const bool cells = gradient && has_channels_last_weight_grad_mma_kernel(p);
  if (const char* reason = products || cells ? channels_last_products(p, gradient) : nullptr) {
    plan.kernel = gradient ? Kernel::kCudaWeightGradMma : Kernel::kCudaToeplitz;
    plan.reason = reason;
    return plan;
  }
  // The launcher also takes the strided kernels for tensors that the vector accesses do not fit.
  const Layout layout = has_specialized_cuda_kernel(p) ? p.layout : Layout::kStrided;
  switch (layout) {
    case Layout::kChannelsLast:
      plan.kernel =
          gradient ? Kernel::kCudaWeightGradChannelsLast : Kernel::kCudaDirectChannelsLast;
      break;
    case Layout::kContiguous:
      plan.kernel = gradient ? Kernel::kCudaWeightGradContiguous : Kernel::kCudaDirectContiguous;
      break;
    case Layout::kStrided:
      plan.kernel = gradient ? Kernel::kCudaWeightGradStrided : Kernel::kCudaDirectStrided;
      break;
  }
  const bool together = p.pass != Pass::kForward && p.layout == Layout::kChannelsLast &&
                        p.in_channels % 4 == 0 && has_gradients_cuda_kernel(p);
  plan.reason = together ? "asked for by name; where input and weight gradient are wanted, one "
                           "kernel has both and reads grad_output once"
                         : "asked for by name";
  return plan;
}

}  // namespace

AxisGeometry axis_geometry(Pass pass, int64_t input_size, int64_t output_size, int64_t kernel,
                           int64_t stride, int64_t pad, int64_t dilation) {
  AxisGeometry axis;
  if (pass != Pass::kGradInput) {
    axis = {1, output_size, input_size, stride, -pad, (kernel - 1) * dilation - pad};
    return axis;
  }
  // Input pixel y of phase a = y mod stride meets tap i at output (y + pad - i * dilation) / stride
  // where that is whole. Phases that no pixel has are left out.
  axis = {std::min(stride, input_size), input_size, output_size, 1, 0, 0};
  bool first = true;
  for (int64_t i = 0; i < kernel; ++i) {
    const int64_t offset = i * dilation - pad;
    const int64_t phase = ((offset % stride) + stride) % stride;
    if (phase >= axis.phases) continue;
    const int64_t distance = (phase - offset) / stride;
    axis.min_distance = first ? distance : std::min(axis.min_distance, distance);
    axis.max_distance = first ? distance : std::max(axis.max_distance, distance);
    first = false;
  }
  return axis;
}

int64_t compulsory_bytes(const DepthwiseConv2dProblem& p) {
  return (p.input_numel() + p.output_numel() + p.out_channels * p.taps()) * element_size(p.dtype);
}

int64_t valid_flops(const DepthwiseConv2dProblem& p) {
  return 2 * p.batch * p.out_channels *
         valid_taps(p.height, p.out_height(), p.kernel_h, p.stride_h, p.pad_top, p.dilation_h) *
         valid_taps(p.width, p.out_width(), p.kernel_w, p.stride_w, p.pad_left, p.dilation_w);
}

DepthwiseConv2dPlan plan_depthwise_conv2d(const DepthwiseConv2dProblem& problem, Backend backend,
                                          CpuIsa isa) {
  DepthwiseConv2dPlan plan;
  plan.bytes = compulsory_bytes(problem);
  plan.flops = valid_flops(problem);
  if (backend == Backend::kTorch) {
    plan.reason = "asked for by name";
    return plan;
  }
  if (problem.output_numel() == 0 || problem.input_numel() == 0) {
    plan.kernel = Kernel::kEmpty;
    plan.backend = problem.device == DeviceType::kCpu ? Backend::kCpu : Backend::kCuda;
    plan.reason = "nothing to compute";
    return plan;
  }
  if (problem.device == DeviceType::kCpu) return plan_cpu(problem, plan, isa);
  if (backend == Backend::kAuto) {
    plan.reason = "no committed measurement shows effkern's CUDA kernels ahead of torch's";
    return plan;
  }
  return plan_cuda(problem, plan);
}

}  // namespace effkern

// CPU driver: instruction set, axes and offsets of a problem, scratch memory, threads.
#include "depthwise_conv2d/depthwise_conv2d_cpu.h"

#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

namespace effkern {
namespace {

constexpr size_t kAlignment = 64;
// Work that is worth waking another thread for.
constexpr double kGrainNanoseconds = 5000.0;
// Rough single-thread rates, only to compare work with the grain.
constexpr double kFlopsPerNanosecond = 30.0;
constexpr double kBytesPerNanosecond = 10.0;
// The same in additions of partial sums.
constexpr int64_t kGrainAdditions = 8192;
// What a call finds in the caches when it is repeated: half of the last level of a group of cores,
// not what the system counts (sysconf: 256 MiB where two cores have 32).
constexpr int64_t kCachedBytes = int64_t{16} << 20;

// Memory that a thread keeps between calls: a fresh block of this size would page-fault each time.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }

  // Null if there is no memory.
  void* get(size_t bytes) {
    if (bytes > size_) {
      std::free(data_);
      size_ = 0;
      bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
      data_ = std::aligned_alloc(kAlignment, bytes);
      if (data_) size_ = bytes;
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

void* thread_scratch(size_t bytes) {
  static thread_local Scratch scratch;
  return scratch.get(bytes);
}

int64_t grain(const DepthwiseConv2dPlan& plan) {
  const double total = plan.flops / kFlopsPerNanosecond + plan.bytes / kBytesPerNanosecond;
  const double unit = total / plan.grid + 1.0;
  return static_cast<int64_t>(kGrainNanoseconds / unit) + 1;
}

// Runs body(begin, end, scratch) over the plan's grid; false if a thread got no scratch memory.
template <class Body>
bool run_units(const DepthwiseConv2dPlan& plan, Parallel parallel, const Body& body) {
  struct Context {
    const Body& body;
    size_t bytes;
    std::atomic<bool> failed;
  } context{body, static_cast<size_t>(plan.scratch_per_thread) + 16 * kAlignment, {false}};
  parallel.run(
      plan.grid, grain(plan),
      [](int64_t begin, int64_t end, void* pointer) {
        auto& c = *static_cast<Context*>(pointer);
        void* scratch = thread_scratch(c.bytes);
        if (scratch) {
          c.body(begin, end, scratch);
        } else {
          c.failed = true;
        }
      },
      &context);
  return !context.failed;
}

// The taps of one axis by phase, with storage.
struct AxisTaps {
  StencilAxis axis;
  std::vector<int64_t> begin, index, distance;

  AxisTaps(Pass pass, int64_t input_size, int64_t output_size, int64_t kernel, int64_t stride,
           int64_t pad, int64_t dilation) {
    static_cast<AxisGeometry&>(axis) =
        axis_geometry(pass, input_size, output_size, kernel, stride, pad, dilation);
    begin.reserve(axis.phases + 1);
    index.reserve(kernel);
    distance.reserve(kernel);
    for (int64_t phase = 0; phase < axis.phases; ++phase) {
      begin.push_back(static_cast<int64_t>(index.size()));
      for (int64_t n = 0; n < kernel; ++n) {
        // Ascending distance: the input gradient runs through the kernel backwards.
        const int64_t i = pass == Pass::kGradInput ? kernel - 1 - n : n;
        const int64_t offset = i * dilation - pad;
        if (pass != Pass::kGradInput) {
          index.push_back(i);
          distance.push_back(offset);
        } else if ((phase - offset) % stride == 0) {
          index.push_back(i);
          distance.push_back((phase - offset) / stride);
        }
      }
    }
    begin.push_back(static_cast<int64_t>(index.size()));
    axis.begin = begin.data();
    axis.index = index.data();
    axis.distance = distance.data();
  }
};

// Adds up the sums of the row blocks, always in the same order: of each image first.
template <class A>
void reduce_sums(const DepthwiseConv2dProblem& p, const StencilTask& task, int64_t blocks,
                 const StencilHooks& hooks, Parallel parallel) {
  A* const outputs[] = {static_cast<A*>(hooks.sum), static_cast<A*>(hooks.sum_of_squares)};
  const int64_t channels = p.out_channels, moments = task.moments;
  const auto body = [&](int64_t begin, int64_t end) {
    for (int64_t moment = 0; moment < moments; ++moment) {
      for (int64_t c = begin; c < end; ++c) {
        double total = 0;
        for (int64_t n = 0; n < p.batch; ++n) {
          double image = 0;
          for (int64_t block = 0; block < blocks; ++block) {
            image += task.sums[((n * blocks + block) * moments + moment) * channels + c];
          }
          total += image;
          if (p.sums == Sums::kSpatial) outputs[0][n * channels + c] = static_cast<A>(image);
        }
        if (p.sums == Sums::kChannel) outputs[moment][c] = static_cast<A>(total);
      }
    }
  };
  const int64_t additions = p.batch * blocks * moments;
  parallel.run(
      channels, kGrainAdditions / additions + 1,
      [](int64_t begin, int64_t end, void* context) {
        (*static_cast<decltype(&body)>(context))(begin, end);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace

const CpuKernels& cpu_kernels(CpuIsa isa) {
#if defined(EFFKERN_X86)
  if (isa >= CpuIsa::kAvx512) return cpu_kernels_avx512();
  if (isa == CpuIsa::kAvx2) return cpu_kernels_avx2();
#endif
  (void)isa;
  return cpu_kernels_baseline();
}

bool stencil_cpu(const DepthwiseConv2dProblem& p, const DepthwiseConv2dPlan& plan,
                 const StencilTensors& tensors, Parallel parallel, const StencilHooks& hooks) {
  const Strides4 &from = tensors.source_strides, &to = tensors.output_strides;
  if ((plan.kernel == Kernel::kCpuDirectChannels && (tensors.grad || from.c != 1 || to.c != 1)) ||
      (plan.kernel == Kernel::kCpuDirectRows && (tensors.grad || from.w != 1 || to.w != 1))) {
    // Tensors of different layouts, or a third one.
    DepthwiseConv2dProblem other = p;
    other.layout = Layout::kStrided;
    return stencil_cpu(other, plan_depthwise_conv2d(other, plan.backend, plan.isa), tensors,
                       parallel, hooks);
  }
  const bool gradient = p.pass == Pass::kGradInput;
  const AxisTaps rows(p.pass, p.height, p.out_height(), p.kernel_h, p.stride_h, p.pad_top,
                      p.dilation_h);
  const AxisTaps cols(p.pass, p.width, p.out_width(), p.kernel_w, p.stride_w, p.pad_left,
                      p.dilation_w);
  StencilTask task;
  task.plan = plan;
  task.rows = rows.axis;
  task.cols = cols.axis;
  task.batch = p.batch;
  task.channels = gradient ? p.in_channels : p.out_channels;
  task.divide = gradient ? 1 : p.multiplier();
  task.planes = gradient ? p.multiplier() : 1;
  task.source = tensors.source;
  task.source_strides = tensors.source_strides;
  task.weight = tensors.weight;
  task.weight_stride_o = tensors.weight_strides.n;
  task.weight_stride_h = tensors.weight_strides.h;
  task.weight_stride_w = tensors.weight_strides.w;
  // An image smaller than the stride has one phase, which not every tap belongs to.
  const bool all_taps = rows.axis.phases == 1 && cols.axis.phases == 1 &&
                        static_cast<int64_t>(rows.index.size() * cols.index.size()) == p.taps();
  task.dense_weight = all_taps && tensors.weight_strides.w == 1 &&
                      tensors.weight_strides.h == p.kernel_w &&
                      tensors.weight_strides.n == p.taps() && task.planes == 1;
  task.flipped = gradient;
  task.bias = tensors.bias;
  task.bias_stride = tensors.bias_stride;
  task.activation = gradient ? Activation::kNone : p.activation;
  task.has_prologue = p.has_prologue;
  task.source_activation = p.input_activation;
  task.blocks = hooks.blocks;
  task.scale = hooks.scale;
  task.scale_stride = hooks.scale_stride;
  task.shift = hooks.shift;
  task.shift_stride = hooks.shift_stride;
  task.moments = p.moments();
  task.grad = tensors.grad;
  task.grad_strides = tensors.grad_strides;
  task.output = tensors.output;
  task.output_strides = tensors.output_strides;
  // What is stored past the caches need not be read into them first, and leaves the source there;
  // sums and hooks read it again.
  const int64_t cached = hooks.cached_bytes ? hooks.cached_bytes : kCachedBytes;
  task.fetches_ahead = plan.bytes > cached;
  task.streams = task.fetches_ahead && !task.moments && !task.blocks;

  const int64_t element = plan.kernel == Kernel::kCpuRows ? 1 : plan.lanes;
  const int64_t step = cols.axis.step;
  const int64_t row_pitch = step * plan.pitch * element;
  const int64_t span = rows.axis.max_distance - rows.axis.min_distance;
  task.plane = ((plan.block_rows - 1) * rows.axis.step + 1 + span) * row_pitch;
  const int64_t min_col = cols.axis.min_distance;
  const int64_t origin = (min_col >= 0 ? min_col / step : -((-min_col + step - 1) / step)) * step;
  std::vector<int64_t> offsets, pairs;
  offsets.reserve(static_cast<size_t>(p.taps() * task.planes));
  for (int64_t a = 0; a < rows.axis.phases; ++a) {
    for (int64_t b = 0; b < cols.axis.phases; ++b) {
      pairs.push_back(static_cast<int64_t>(offsets.size()));
      for (int64_t i = rows.begin[a]; i < rows.begin[a + 1]; ++i) {
        for (int64_t m = 0; m < task.planes; ++m) {
          for (int64_t j = cols.begin[b]; j < cols.begin[b + 1]; ++j) {
            const int64_t col = cols.distance[j] - origin;
            offsets.push_back((rows.distance[i] - rows.axis.min_distance) * row_pitch +
                              m * task.plane + (col % step * plan.pitch + col / step) * element);
          }
        }
      }
    }
  }
  pairs.push_back(static_cast<int64_t>(offsets.size()));
  task.tap_offset = offsets.data();
  task.pair_begin = pairs.data();
  task.gradient = gradient;
  task.taps_per_row = p.kernel_w;
  task.stride = p.stride_w;
  task.pad_top = p.pad_top;
  task.pad_left = p.pad_left;

  // Sized by the plan; written in full before it is read.
  void* workspace = plan.workspace ? std::malloc(static_cast<size_t>(plan.workspace)) : nullptr;
  if (plan.workspace && !workspace) return false;
  task.sums = static_cast<double*>(workspace);
  const CpuKernels& kernels = cpu_kernels(plan.isa);
  const bool done = run_units(plan, parallel, [&](int64_t begin, int64_t end, void* scratch) {
    kernels.stencil(task, p.dtype, begin, end, scratch);
  });
  if (done && workspace) {
    const int64_t blocks = (p.out_height() + plan.block_rows - 1) / plan.block_rows;
    p.dtype == DType::kFloat64 ? reduce_sums<double>(p, task, blocks, hooks, parallel)
                               : reduce_sums<float>(p, task, blocks, hooks, parallel);
  }
  std::free(workspace);
  return done;
}

bool weight_grad_cpu(const DepthwiseConv2dProblem& p, const DepthwiseConv2dPlan& plan,
                     const WeightGradTensors& tensors, Parallel parallel) {
  const Strides4 &from = tensors.input_strides, &grad = tensors.grad_strides;
  if ((plan.kernel == Kernel::kCpuDirectChannels && (from.c != 1 || grad.c != 1)) ||
      (plan.kernel == Kernel::kCpuDirectRows && (from.w != 1 || grad.w != 1))) {
    // Tensors of different layouts, or a third one.
    DepthwiseConv2dProblem other = p;
    other.layout = Layout::kStrided;
    return weight_grad_cpu(other, plan_depthwise_conv2d(other, plan.backend, plan.isa), tensors,
                           parallel);
  }
  WeightGradTask task;
  task.problem = p;
  task.plan = plan;
  task.input = tensors.input;
  task.input_strides = tensors.input_strides;
  task.grad = tensors.grad;
  task.grad_strides = tensors.grad_strides;
  task.grad_weight = tensors.grad_weight;
  task.grad_bias = tensors.grad_bias;
  task.fetches_ahead = plan.bytes > kCachedBytes;
  // Bounded by the plan; written in full before it is read.
  void* workspace = plan.workspace ? std::malloc(static_cast<size_t>(plan.workspace)) : nullptr;
  if (plan.workspace && !workspace) return false;
  task.workspace = workspace;
  const CpuKernels& kernels = cpu_kernels(plan.isa);
  const bool done = run_units(plan, parallel, [&](int64_t begin, int64_t end, void* scratch) {
    kernels.weight_grad(task, begin, end, scratch);
  });
  if (done && workspace) kernels.reduce_weight_grad(task, 0, p.out_channels);
  std::free(workspace);
  return done;
}

}  // namespace effkern

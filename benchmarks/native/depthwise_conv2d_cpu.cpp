// The CPU kernels of depthwise_conv2d without torch, on one thread: a problem per line of standard
// input, its time on standard output, and, below callgrind, a dump of the counters of one call.
//
//     depthwise_conv2d_cpu ISA < PROBLEMS    ISA: baseline, avx2, avx512
#include <valgrind/callgrind.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <sstream>
#include <string>

#include "depthwise_conv2d/depthwise_conv2d_cpu.h"

namespace {

using namespace effkern;

// Timed calls end after this long, but for two.
constexpr double kSeconds = 0.02;

void one_thread(int64_t count, int64_t, void (*body)(int64_t, int64_t, void*), void* context) {
  body(0, count, context);
}

struct Tensor {
  Strides4 strides;
  float* data;

  Tensor(bool channels_last, int64_t n, int64_t c, int64_t h, int64_t w) {
    strides = channels_last ? Strides4{c * h * w, 1, w * c, c} : Strides4{c * h * w, h * w, w, 1};
    const size_t bytes = static_cast<size_t>(n * c * h * w) * sizeof(float);
    // As torch aligns them.
    data = static_cast<float*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
    std::fill(data, data + n * c * h * w, 0.5f);
  }
  Tensor(const Tensor&) = delete;
  ~Tensor() { std::free(data); }
};

double seconds() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

template <class Call>
void measure(const std::string& name, const Call& call) {
  call();
  CALLGRIND_ZERO_STATS;
  call();
  CALLGRIND_DUMP_STATS_AT(name.c_str());
  if (RUNNING_ON_VALGRIND) return;
  double fastest = 1e9;
  const double end = seconds() + kSeconds;
  for (int i = 0; i < 2 || seconds() < end; ++i) {
    const double start = seconds();
    call();
    fastest = std::min(fastest, seconds() - start);
  }
  std::printf("%s %.3f\n", name.c_str(), fastest * 1e6);
}

bool run(const std::string& line, CpuIsa isa) {
  std::istringstream fields(line);
  std::string name, pass, layout;
  DepthwiseConv2dProblem p;
  fields >> name >> pass >> layout >> p.batch >> p.in_channels >> p.out_channels >> p.height >>
      p.width >> p.kernel_h >> p.kernel_w >> p.stride_h >> p.stride_w >> p.pad_top >> p.pad_left;
  if (!fields) return false;
  p.pad_bottom = p.pad_top;
  p.pad_right = p.pad_left;
  const bool last = layout == "channels_last";
  p.layout = last ? Layout::kChannelsLast : Layout::kContiguous;
  Tensor image(last, p.batch, p.in_channels, p.height, p.width);
  Tensor output(last, p.batch, p.out_channels, p.out_height(), p.out_width());
  Tensor weight(false, p.out_channels, 1, p.kernel_h, p.kernel_w);
  const Parallel parallel{one_thread};
  bool done = true;
  if (pass == "wgrad") {
    p.pass = Pass::kGradWeight;
    const WeightGradTensors tensors{image.data,     image.strides, output.data,
                                    output.strides, weight.data,   nullptr};
    const DepthwiseConv2dPlan plan = plan_depthwise_conv2d(p, Backend::kCpu, isa);
    measure(name, [&] { done &= weight_grad_cpu(p, plan, tensors, parallel); });
    return done;
  }
  p.pass = pass == "dgrad" ? Pass::kGradInput : Pass::kForward;
  const Tensor& source = pass == "dgrad" ? output : image;
  const Tensor& target = pass == "dgrad" ? image : output;
  StencilTensors tensors{};
  tensors.source = source.data, tensors.source_strides = source.strides;
  tensors.weight = weight.data, tensors.weight_strides = weight.strides;
  tensors.output = target.data, tensors.output_strides = target.strides;
  const DepthwiseConv2dPlan plan = plan_depthwise_conv2d(p, Backend::kCpu, isa);
  measure(name, [&] { done &= stencil_cpu(p, plan, tensors, parallel); });
  return done;
}

}  // namespace

int main(int argc, char** argv) {
  const char* names[] = {"baseline", "avx2", "avx512"};
  int isa = -1;
  for (int i = 0; i < 3 && argc > 1; ++i) {
    if (std::strcmp(argv[1], names[i]) == 0) isa = i;
  }
  if (isa < 0) {
    std::fprintf(stderr, "wanted ISA, one of baseline, avx2, avx512\n");
    return 2;
  }
  for (std::string line; std::getline(std::cin, line);) {
    if (!run(line, static_cast<CpuIsa>(isa))) {
      std::fprintf(stderr, "cannot run: %s\n", line.c_str());
      return 1;
    }
  }
  return 0;
}

// What the edge classes are made of; part of depthwise_conv2d.cpp.

// Square kernels, dilation 1.
DepthwiseConv2dProblem square(DType dtype, Memory memory, int64_t n, int64_t c, int64_t h,
                              int64_t w, int64_t kernel, int64_t stride, int64_t pad) {
  DepthwiseConv2dProblem p;
  p.dtype = dtype;
  p.device = DeviceType::kCuda;
  p.layout = is_channels_last(memory) ? Layout::kChannelsLast : Layout::kContiguous;
  p.batch = n, p.in_channels = p.out_channels = c, p.height = h, p.width = w;
  p.kernel_h = p.kernel_w = kernel;
  p.stride_h = p.stride_w = stride;
  p.pad_top = p.pad_bottom = p.pad_left = p.pad_right = pad;
  return p;
}

void vary(DepthwiseConv2dProblem& p, unsigned number) {
  p.activation = Activation(number % kNumActivations);
  p.has_bias = number % 2;
}

constexpr DType kSpecializedTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
constexpr DType kAllTypes[] = {DType::kFloat64, DType::kFloat32, DType::kFloat16, DType::kBFloat16};
constexpr Memory kDense[] = {Memory::kContiguous, Memory::kChannelsLast};

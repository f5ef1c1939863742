// The edge classes that the runner goes through; part of depthwise_conv2d.cpp.

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

// The specialised kernels at and around the sizes of their tiles, with padding on every side.
void run_edge(bool small) {
  unsigned number = 1;
  struct Size {
    int64_t h, w;
  };
  const std::vector<Size> sizes = small ? std::vector<Size>{{1, 1}, {7, 7}, {9, 13}}
                                        : std::vector<Size>{{1, 1},   {2, 3},  {7, 7},  {8, 8},
                                                            {13, 17}, {4, 33}, {33, 4}, {29, 28}};
  for (int64_t kernel : {3, 5, 7}) {
    for (int64_t stride : {1, 2}) {
      for (const Size size : sizes) {
        for (DType dtype : kSpecializedTypes) {
          for (Memory memory : kDense) {
            const bool contiguous = memory == Memory::kContiguous;
            for (int64_t channels : contiguous ? std::vector<int64_t>{1, 5}
                                               : std::vector<int64_t>{3, 8, small ? 16 : 264}) {
              ++number;
              // Every other size and dtype of a small run has one number of channels.
              if (small && number % 2 == 0) continue;
              if (channels > 100 && size.h * size.w > 100) continue;
              auto p =
                  square(dtype, memory, 2, channels, size.h, size.w, kernel, stride, kernel / 2);
              if (number % 3 == 0) {
                p.pad_top = number % (kernel + 2), p.pad_left = number / 3 % (kernel + 2);
                p.pad_bottom = number / 7 % kernel, p.pad_right = number / 11 % kernel;
              }
              vary(p, number);
              run({p, memory, memory}, number);
            }
          }
        }
      }
    }
  }
}

// The kernel of NCHW planes: each of its tiles, widths that are and are not multiples of them, many
// planes in a block, column tiles, several rounds, and views, which are no runs.
void run_planes(bool small) {
  struct Size {
    int64_t n, c, h, w;
  };
  const std::vector<Size> sizes =
      small ? std::vector<Size>{{3, 2, 14, 14}, {1, 3, 11, 12}, {1, 2, 8, 16}}
            : std::vector<Size>{{3, 5, 14, 14}, {2, 150, 7, 7}, {5, 3, 10, 10}, {1, 2, 19, 19},
                                {2, 3, 28, 28}, {1, 3, 56, 56}, {1, 1, 20, 64}, {1, 1, 70, 112},
                                {20, 33, 7, 7}, {2, 2, 12, 5},  {1, 3, 6, 6},   {1, 2, 9, 1700},
                                {3, 2, 13, 12}, {1, 1, 90, 44}, {2, 2, 21, 35}, {1, 2, 3, 24}};
  const Memory memories[] = {Memory::kContiguous, Memory::kContiguous, Memory::kOffset,
                             Memory::kSliced, Memory::kExpanded};
  unsigned number = 1;
  for (int64_t kernel : {3, 3, 5, 7}) {
    for (int64_t stride : {1, 2}) {
      for (const Size& size : sizes) {
        for (DType dtype : kSpecializedTypes) {
          ++number;
          if (small && number % 2) continue;
          auto p = square(dtype, Memory::kContiguous, size.n, size.c, size.h, size.w, kernel,
                          stride, kernel / 2);
          if (number % 5 == 0) {
            p.pad_left = number % kernel, p.pad_right = number / 3 % kernel;
            p.pad_top = number / 5 % kernel, p.pad_bottom = number / 7 % kernel;
          }
          vary(p, number);
          run({p, memories[number % 5], memories[number / 2 % 4]}, number);
        }
      }
    }
  }
  if (small) return;
  auto p = square(DType::kFloat16, Memory::kContiguous, 1, 61, 1, 8003, 3, 1, 1);
  run({p, Memory::kContiguous, Memory::kContiguous}, 1);
  // The weight gradient stages so many rows that only parts of these fit, without tiles that need
  // whole rows.
  for (const auto& [dtype, height, width] :
       {std::tuple(DType::kBFloat16, 9, 1032), std::tuple(DType::kBFloat16, 20, 548),
        std::tuple(DType::kFloat32, 14, 525)}) {
    const auto wide = square(dtype, Memory::kContiguous, 1, 1, height, width, 3, 1, 1);
    run({wide, Memory::kContiguous, Memory::kContiguous}, 1);
  }
  // Tiles of 7 x 7 fit, but more rows than k - 1 are outside.
  auto tall = square(DType::kFloat32, Memory::kContiguous, 2, 5, 3, 7, 3, 1, 1);
  tall.pad_top = tall.pad_bottom = 3;
  run({tall, Memory::kContiguous, Memory::kContiguous}, 1);
}

// Input gradients of stride 2: both parities of padding in each direction, up to more than the
// kernel, widths of every remainder by the columns of a strip, rows that end a walk early.
void run_strided_gradients(bool small) {
  const Memory memories[] = {Memory::kContiguous, Memory::kChannelsLast, Memory::kOffset,
                             Memory::kSliced};
  unsigned number = 1;
  for (int64_t kernel : {3, 5}) {
    for (int64_t pad_top = 0; pad_top <= kernel + 1; pad_top += small ? 3 : 1) {
      for (int64_t pad_left = 0; pad_left <= kernel + 1; ++pad_left) {
        ++number;
        auto p = square(kSpecializedTypes[number % 3], Memory::kContiguous, 2, 8,
                        5 + number / 3 % 9, 8 + number % 7, kernel, 2, 0);
        p.pad_top = pad_top, p.pad_left = pad_left;
        p.pad_bottom = number / 2 % kernel, p.pad_right = number / 5 % kernel;
        run({p, memories[number % 4], memories[number / 4 % 4]}, number);
      }
    }
  }
}

// Views, and outputs in another format than inputs.
void run_views() {
  using M = Memory;
  unsigned number = 1;
  const std::pair<M, M> pairs[] = {
      {M::kSliced, M::kSliced},           {M::kSlicedChannels, M::kSlicedChannels},
      {M::kPermuted, M::kContiguous},     {M::kOffset, M::kOffset},
      {M::kContiguous, M::kChannelsLast}, {M::kChannelsLast, M::kContiguous},
      {M::kExpanded, M::kContiguous},     {M::kSlicedChannels, M::kChannelsLast}};
  for (const auto& [input, output] : pairs) {
    for (int64_t kernel : {3, 7}) {
      for (int64_t stride : {1, 2}) {
        for (DType dtype : kAllTypes) {
          auto p = square(dtype, input, 2, 8, 5 + number % 5, 8 + number % 9, kernel, stride,
                          kernel / 2);
          vary(p, ++number);
          run({p, input, output}, number);
        }
      }
    }
  }
}

// What only the strided kernels take.
void run_general() {
  unsigned number = 1;
  const std::pair<int64_t, int64_t> kernels[] = {{1, 1}, {1, 3}, {2, 2},   {3, 1},  {4, 5},
                                                 {6, 6}, {3, 3}, {13, 13}, {31, 5}, {1, 11}};
  for (const auto& [kernel_h, kernel_w] : kernels) {
    for (int64_t stride : {1, 2, 3}) {
      for (int64_t dilation : {1, 2}) {
        for (Memory memory : kDense) {
          ++number;
          auto p = square(kAllTypes[number % 4], memory, 1 + number % 2, 1 + number % 6,
                          9 + number % 8, 8 + number % 11, 3, stride, 0);
          p.out_channels = p.in_channels * (1 + number % 3);
          p.kernel_h = kernel_h, p.kernel_w = kernel_w;
          if (number % 4 == 0) p.stride_w = 1 + number % 3;
          p.dilation_h = dilation, p.dilation_w = 1 + number / 4 % 2;
          p.pad_top = number % (kernel_h + 1), p.pad_bottom = number / 2 % (kernel_h + 1);
          p.pad_left = number / 3 % (kernel_w + 1), p.pad_right = number / 5 % (kernel_w + 1);
          vary(p, number);
          run({p, memory, memory}, number);
        }
      }
    }
  }
}

// The Toeplitz kernels: every padding, alignment and way to fill a warp's 16 windows, from many
// images of one window to several column tiles of one strip.
void run_toeplitz(bool small) {
  struct Size {
    int64_t n, c, h, w;
  };
  const std::vector<Size> sizes =
      small ? std::vector<Size>{{3, 18, 7, 7}, {1, 3, 14, 14}, {2, 1, 9, 40}, {2, 4, 9, 8}}
            : std::vector<Size>{{1, 1, 1, 1},    {2, 3, 2, 3},    {17, 2, 7, 7},   {9, 3, 14, 14},
                                {1, 5, 14, 14},  {5, 2, 28, 28},  {1, 1, 28, 28},  {3, 3, 56, 56},
                                {1, 2, 13, 17},  {2, 2, 33, 4},   {1, 1, 4, 33},   {2, 1, 19, 75},
                                {1, 2, 9, 64},   {1, 1, 6, 132},  {1, 1, 40, 112}, {1, 1, 7, 264},
                                {1, 1, 5, 131},  {1, 1, 120, 8},  {2, 5, 10, 38},  {1, 300, 3, 16},
                                {5, 20, 7, 7},   {3, 17, 14, 14}, {2, 18, 12, 12}, {2, 16, 8, 40},
                                {2, 33, 24, 16}, {3, 16, 21, 5}};
  unsigned number = 1;
  for (int64_t kernel : {5, 7, 9}) {
    for (const Size& size : sizes) {
      for (DType dtype : {DType::kFloat16, DType::kBFloat16}) {
        for (int pads = 0; pads < 3; ++pads) {
          ++number;
          if (small && number % 3) continue;
          if (pads && size.h * size.w > 2000) continue;
          auto p = square(dtype, Memory::kContiguous, size.n, size.c, size.h, size.w, kernel, 1,
                          kernel / 2);
          if (pads == 1) {
            p.pad_left = number / 2 % kernel, p.pad_right = number / 3 % kernel;
            p.pad_top = number / 5 % kernel, p.pad_bottom = number / 7 % kernel;
          }
          // Input gradients with a negative padding, and rows that meet only zeros.
          if (pads == 2) p.pad_left = p.pad_top = kernel + number % 3, p.pad_bottom = 0;
          vary(p, number);
          const Memory memories[] = {Memory::kContiguous, Memory::kContiguous, Memory::kOffset,
                                     Memory::kSliced, Memory::kExpanded};
          const Memory input = memories[number % 5], output = memories[number / 2 % 4];
          run({p, input, output}, number);
        }
      }
    }
  }
}

// The same of channels_last images: every way to fill a block, channels that do not, views.
void run_toeplitz_channels_last(bool small) {
  struct Size {
    int64_t n, c, h, w;
  };
  const std::vector<Size> sizes =
      small ? std::vector<Size>{{3, 8, 7, 7}, {2, 24, 9, 20}}
            : std::vector<Size>{{1, 8, 1, 1},   {2, 16, 2, 3},   {17, 16, 7, 7}, {5, 24, 14, 14},
                                {1, 40, 13, 6}, {1, 8, 14, 28},  {2, 8, 28, 28}, {1, 16, 56, 56},
                                {1, 8, 17, 33}, {2, 16, 6, 57},  {1, 8, 8, 131}, {1, 8, 43, 4},
                                {33, 8, 3, 5},  {1, 8, 120, 17}, {1, 136, 5, 9}};
  unsigned number = 1;
  for (int64_t kernel : {5, 7}) {
    for (const Size& size : sizes) {
      for (DType dtype : {DType::kFloat16, DType::kBFloat16}) {
        for (int pads = 0; pads < 3; ++pads) {
          ++number;
          if (small && number % 3) continue;
          auto p = square(dtype, Memory::kChannelsLast, size.n, size.c, size.h, size.w, kernel, 1,
                          kernel / 2);
          if (pads == 1) {
            p.pad_left = number / 2 % kernel, p.pad_right = number / 3 % kernel;
            p.pad_top = number / 5 % kernel, p.pad_bottom = number / 7 % kernel;
          }
          // Input gradients with a negative padding, and rows that meet only zeros.
          if (pads == 2) p.pad_left = p.pad_top = kernel + number % 3, p.pad_bottom = 0;
          vary(p, number);
          const Memory memories[] = {Memory::kChannelsLast, Memory::kChannelsLast,
                                     Memory::kSlicedChannels};
          run({p, memories[number % 3], memories[number / 2 % 3]}, number);
        }
      }
    }
  }
}

void run_toeplitz_large(bool small) {
  struct Size {
    int64_t n, c, h, w;
  };
  const std::vector<Size> sizes =
      small ? std::vector<Size>{{3, 1, 7, 7}}
            : std::vector<Size>{{1, 1, 1, 1},  {33, 1, 7, 7},  {5, 2, 14, 14}, {1, 1, 28, 28},
                                {1, 1, 9, 75}, {1, 1, 5, 140}, {1, 20, 4, 3},  {1, 1, 65, 8}};
  const std::pair<int64_t, int64_t> kernels[] = {{13, 13}, {31, 31}, {51, 51}, {51, 5},
                                                 {5, 51},  {1, 11},  {11, 1},  {4, 6},
                                                 {3, 17},  {57, 57}, {27, 33}, {10, 2}};
  unsigned number = 1;
  for (const auto& [kernel_h, kernel_w] : kernels) {
    for (const Size& size : sizes) {
      for (int pads = 0; pads < 2; ++pads) {
        ++number;
        // The largest kernels take long here, and differ little.
        if (small && pads) continue;
        const int64_t taps = kernel_h * kernel_w;
        if (taps > 300 && (number % 3 || taps * size.n * size.c * size.h * size.w > 1000000)) {
          continue;
        }
        auto p = square(number % 2 ? DType::kFloat16 : DType::kBFloat16, Memory::kContiguous,
                        size.n, size.c, size.h, size.w, 1, 1, 0);
        p.kernel_h = kernel_h, p.kernel_w = kernel_w;
        p.pad_top = p.pad_bottom = kernel_h / 2, p.pad_left = p.pad_right = kernel_w / 2;
        if (pads == 1) {
          p.pad_left = number % (kernel_w + 3), p.pad_right = kernel_w - 1;
          p.pad_top = number % (kernel_h + 3), p.pad_bottom = kernel_h - 1;
        }
        vary(p, number);
        const Memory memories[] = {Memory::kContiguous, Memory::kContiguous, Memory::kOffset,
                                   Memory::kSliced};
        run({p, memories[number % 4], memories[number / 2 % 4]}, number);
      }
    }
  }
}

// The same of channels_last images, whose tiles are transposed in shared memory or which are copied
// as planes: in the runner a few KiB at a time.
void run_toeplitz_channels_last_large(bool small) {
  struct Size {
    int64_t n, c, h, w;
  };
  const std::vector<Size> sizes =
      small ? std::vector<Size>{{3, 8, 7, 9}, {2, 40, 5, 3}}
            : std::vector<Size>{{1, 8, 1, 1},    {33, 8, 7, 7}, {5, 24, 14, 14},
                                {1, 16, 28, 28}, {1, 8, 9, 75}, {1, 8, 5, 140},
                                {3, 72, 4, 3},   {1, 8, 65, 8}, {2, 136, 3, 5}};
  const std::pair<int64_t, int64_t> kernels[] = {{13, 13}, {9, 9},  {21, 17}, {1, 11}, {15, 2},
                                                 {31, 31}, {51, 5}, {5, 51},  {22, 3}};
  using M = Memory;
  const std::pair<M, M> memories[] = {{M::kChannelsLast, M::kChannelsLast},
                                      {M::kSlicedChannels, M::kChannelsLast},
                                      {M::kChannelsLast, M::kSlicedChannels},
                                      {M::kContiguous, M::kChannelsLast},
                                      {M::kChannelsLast, M::kOffset}};
  unsigned number = 1;
  for (const auto& [kernel_h, kernel_w] : kernels) {
    for (const Size& size : sizes) {
      ++number;
      if (number % (small ? 2 : 3)) continue;
      auto p = square(number / 3 % 2 || small ? DType::kBFloat16 : DType::kFloat16,
                      M::kChannelsLast, size.n, size.c, size.h, size.w, 1, 1, 0);
      p.kernel_h = kernel_h, p.kernel_w = kernel_w;
      p.pad_top = p.pad_bottom = kernel_h / 2, p.pad_left = p.pad_right = kernel_w / 2;
      if (number / 3 % 3 == 1) {
        p.pad_left = number % (kernel_w + 3), p.pad_right = kernel_w - 1;
        p.pad_top = number % (kernel_h + 3), p.pad_bottom = kernel_h - 1;
      }
      vary(p, number);
      const auto& [input, output] = memories[number / 2 % std::size(memories)];
      run({p, input, output}, number);
    }
  }
}

// The weight gradient's products of rows: one to several tiles, stages, groups of shifts and blocks
// of them, images that do not fill the last, each width of copies, rows too long for them.
void run_weight_grad_mma(bool small) {
  struct Size {
    int64_t n, c, h, w, kernel_h, kernel_w;
  };
  const std::vector<Size> sizes =
      small ? std::vector<Size>{{5, 1, 9, 14, 7, 7}, {2, 1, 19, 16, 13, 13}}
            : std::vector<Size>{
                  {17, 2, 14, 14, 7, 7},  {5, 1, 33, 40, 5, 5},   {1, 1, 120, 112, 7, 7},
                  {3, 2, 16, 16, 9, 9},   {33, 1, 17, 9, 7, 7},   {1, 1, 20, 130, 5, 5},
                  {1, 1, 6, 131, 5, 5},   {9, 3, 12, 12, 5, 5},   {2, 1, 40, 24, 13, 13},
                  {6, 1, 14, 14, 27, 27}, {2, 2, 21, 28, 17, 17}, {1, 1, 18, 20, 57, 57},
                  {1, 1, 40, 12, 51, 5},  {3, 1, 13, 40, 5, 51},  {40, 1, 9, 10, 1, 11},
                  {40, 1, 9, 10, 11, 1},  {2, 1, 30, 9, 33, 9},   {7, 1, 5, 260, 3, 4},
                  {300, 1, 11, 11, 5, 5}, {2, 1, 300, 8, 9, 9},   {1, 1, 200, 200, 7, 7}};
  const Memory memories[] = {Memory::kContiguous, Memory::kOffset, Memory::kSliced};
  unsigned number = 0;
  for (const Size& size : sizes) {
    for (int variant = 0; variant < 2; ++variant) {
      ++number;
      auto p = square(number % 3 ? DType::kBFloat16 : DType::kFloat16, Memory::kContiguous, size.n,
                      size.c, size.h, size.w, 1, 1, 0);
      p.kernel_h = size.kernel_h, p.kernel_w = size.kernel_w;
      p.pad_top = p.pad_bottom = size.kernel_h / 2, p.pad_left = p.pad_right = size.kernel_w / 2;
      if (variant == 1) {
        p.pad_left = number % (size.kernel_w + 2), p.pad_right = size.kernel_w / 3;
        p.pad_top = number % (size.kernel_h + 2), p.pad_bottom = size.kernel_h - 1;
        p.pad_right = std::max(p.pad_right, size.kernel_w - size.w - p.pad_left);
      }
      p.has_bias = variant == 0;
      run({p, memories[number % 3], memories[number / 2 % 3]}, number);
    }
  }
}

// The same of channels_last images: images side by side that fill the products and do not, column
// and row tiles, channels that are no whole blocks or vectors of 8.
void run_weight_grad_mma_channels_last(bool small) {
  struct Size {
    int64_t n, c, h, w;
  };
  const std::vector<Size> sizes =
      small ? std::vector<Size>{{9, 12, 5, 7}, {1, 4, 60, 20}}
            : std::vector<Size>{{9, 12, 5, 7},  {1, 4, 150, 40},  {2, 20, 30, 66}, {19, 4, 8, 9},
                                {1, 8, 6, 200}, {3, 36, 10, 112}, {70, 4, 2, 1},   {5, 16, 19, 10}};
  const Memory memories[] = {Memory::kChannelsLast, Memory::kSlicedChannels};
  unsigned number = 0;
  for (int64_t kernel : {5, 7}) {
    for (const Size& size : sizes) {
      for (int variant = 0; variant < (small ? 1 : 2); ++variant) {
        ++number;
        auto p = square(number % 3 ? DType::kBFloat16 : DType::kFloat16, Memory::kChannelsLast,
                        size.n, size.c, size.h, size.w, kernel, 1, kernel / 2);
        if (variant == 1) {
          p.pad_left = number % (kernel + 2), p.pad_right = kernel - 1;
          p.pad_top = number / 2 % (kernel + 2), p.pad_bottom = kernel - 1;
        }
        p.has_bias = variant == 0;
        run({p, memories[number % 2], memories[number / 2 % 2]}, number);
      }
    }
  }
}

void run_empty() {
  for (DType dtype : kAllTypes) {
    for (Memory memory : kDense) {
      for (int64_t kernel : {3, 9}) {
        auto p = square(dtype, memory, 0, 8, 8, 8, kernel, 1, kernel / 2);
        vary(p, 1);
        run({p, memory, memory}, 1);
      }
    }
  }
}

// Offsets past 2^31 elements and 2^32 bytes in each family: 5 images that are small, but far apart.
// Images more than 2^31 elements apart are given to the tensor-core kernels one by one.
void run_far() {
  unsigned number = 0;
  for (Memory memory : {Memory::kFar, Memory::kFarChannels}) {
    for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      for (auto p : {square(dtype, memory, 5, 8, 9, 12, 3, 1, 1),
                     square(dtype, memory, 5, 8, 9, 16, 3, 2, 1),
                     square(dtype, memory, 5, 8, 9, 20, 7, 1, 3)}) {
        vary(p, ++number);
        run({p, memory, memory}, number);
      }
    }
    auto p = square(DType::kBFloat16, memory, 2, 8, 9, 10, 7, 1, 3);
    const bool channels = is_channels_last(memory);
    const Memory further = channels ? Memory::kFurtherChannels : Memory::kFurther;
    run({p, further, memory}, ++number);
    run({p, memory, further}, ++number);
    p = square(DType::kFloat32, memory, 3, 2, 6, 7, 3, 1, 2);
    p.dilation_h = p.dilation_w = 2;
    run({p, memory, further}, ++number);
  }
  // Neither several small planes nor channels for a block, and a large kernel.
  for (int64_t kernel : {7, 13}) {
    const auto p = square(DType::kFloat16, Memory::kFar, 3, 1, 20, 70, kernel, 1, kernel / 2);
    run({p, Memory::kFar, Memory::kFar}, ++number);
  }
}

// Layers of real networks, at a small batch.
void run_layers() {
  for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (Memory memory : kDense) {
      unsigned number = 0;
      for (auto p : {square(dtype, memory, 1, 32, 56, 56, 3, 1, 1),
                     square(dtype, memory, 1, 96, 56, 56, 3, 2, 1),
                     square(dtype, memory, 2, 40, 28, 28, 5, 2, 2),
                     square(dtype, memory, 1, 96, 28, 28, 7, 1, 3),
                     square(dtype, memory, 3, 320, 7, 7, 5, 1, 2),
                     square(dtype, memory, 1, 2, 9, 300, 5, 2, 2)}) {
        vary(p, ++number);
        run({p, memory, memory}, number);
      }
    }
  }
}

// Every kernel family once or more, in seconds under a sanitizer.
void run_smoke() {
  run_edge(true);
  run_planes(true);
  run_strided_gradients(true);
  run_toeplitz(true);
  run_toeplitz_channels_last(true);
  run_toeplitz_large(true);
  run_toeplitz_channels_last_large(true);
  run_weight_grad_mma(true);
  run_weight_grad_mma_channels_last(true);
  for (const auto& [input, output] : {std::pair(Memory::kSliced, Memory::kSliced),
                                      std::pair(Memory::kPermuted, Memory::kOffset)}) {
    auto p = square(DType::kFloat32, input, 2, 3, 6, 9, 3, 1, 1);
    vary(p, 3);
    run({p, input, output}, 3);
  }
  auto p = square(DType::kFloat64, Memory::kContiguous, 1, 2, 9, 8, 4, 3, 2);
  p.out_channels = 4, p.dilation_h = 2;
  vary(p, 5);
  run({p, Memory::kContiguous, Memory::kContiguous}, 5);
}

// One image of one channel, small enough to count its transactions by hand.
void run_counted() {
  auto p = square(DType::kFloat32, Memory::kContiguous, 1, 1, 4, 32, 3, 1, 1);
  run({p, Memory::kContiguous, Memory::kContiguous}, 1);
}

bool run_cases(const std::string& name) {
  const bool all = name == "all";
  if (name == "counted") return run_counted(), true;
  if (name == "smoke") return run_smoke(), true;
  if (all || name == "edge") run_edge(false), run_planes(false), run_strided_gradients(false);
  if (all || name == "toeplitz") run_toeplitz(false), run_toeplitz_large(false);
  if (all || name == "weight_grad_mma") {
    run_weight_grad_mma(false), run_weight_grad_mma_channels_last(false);
  }
  if (all || name == "toeplitz_channels_last") {
    run_toeplitz_channels_last(false), run_toeplitz_channels_last_large(false);
  }
  if (all || name == "views") run_views();
  if (all || name == "general") run_general();
  if (all || name == "empty") run_empty();
  if (all || name == "far") run_far();
  if (all || name == "layers") run_layers();
  const char* lists[] = {
      "all",   "edge", "toeplitz", "toeplitz_channels_last", "weight_grad_mma", "views", "general",
      "empty", "far",  "layers"};
  return std::find(std::begin(lists), std::end(lists), name) != std::end(lists);
}

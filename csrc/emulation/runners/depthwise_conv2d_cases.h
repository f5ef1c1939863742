// The edge classes that the runner goes through; part of depthwise_conv2d.cpp.

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

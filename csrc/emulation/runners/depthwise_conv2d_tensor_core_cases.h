// The edge classes of the tensor-core kernels; part of depthwise_conv2d.cpp.

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
  for (int64_t kernel : {3, 5, 7}) {
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

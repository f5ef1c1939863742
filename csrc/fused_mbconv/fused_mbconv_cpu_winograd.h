// The dense 3x3 convolution with stride 1 as Winograd's F(2x2, 3x3); part of
// fused_mbconv_cpu_isa.h.
namespace effkern {
namespace EFFKERN_ISA {

// Points of a tile in Winograd's domain; pixels of the image that it reads.
constexpr int kPoints = 16;
// Tiles whose products are kept until they are transformed: 12 KiB with AVX2.
constexpr int kGroup = 12;

// B^T d B.
EFFKERN_INLINE void transform_input(Vec<float> (&d)[4][4]) {
  const auto rows = [](Vec<float>& a, Vec<float>& b, Vec<float>& c, Vec<float>& e)
                        __attribute__((always_inline)) {
                          const Vec<float> b0 = b;
                          a = a - c;
                          b = b0 + c;
                          c = c - b0;
                          e = b0 - e;
                        };
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) rows(d[0][i], d[1][i], d[2][i], d[3][i]);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) rows(d[i][0], d[i][1], d[i][2], d[i][3]);
}

// A^T m A, in the first two rows and columns.
EFFKERN_INLINE void transform_output(Vec<float> (&m)[4][4]) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const Vec<float> sum = m[1][i] + m[2][i], difference = m[1][i] - m[2][i];
    m[0][i] += sum;
    m[1][i] = difference - m[3][i];
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const Vec<float> sum = m[i][1] + m[i][2], difference = m[i][1] - m[i][2];
    m[i][0] += sum;
    m[i][1] = difference - m[i][3];
  }
}

// G g G^T; one step of it along an axis.
EFFKERN_INLINE void transform_taps(const Vec<float> (&g)[3], Vec<float>* u, int step) {
  const Vec<float> half = 0.5f * (g[0] + g[2]), middle = 0.5f * g[1];
  u[0] = g[0];
  u[step] = half + middle;
  u[2 * step] = half - middle;
  u[3 * step] = g[2];
}
EFFKERN_INLINE void transform_weight(const Vec<float> (&g)[3][3], Vec<float> (&u)[kPoints]) {
  Vec<float> columns[3][4];
#pragma GCC unroll 3
  for (int j = 0; j < 3; ++j) {
    const Vec<float> taps[3] = {g[0][j], g[1][j], g[2][j]};
    transform_taps(taps, columns[j], 1);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const Vec<float> taps[3] = {columns[0][i], columns[1][i], columns[2][i]};
    transform_taps(taps, u + 4 * i, 1);
  }
}

// The weights of a panel of hidden channels: [kPoints][in_channels][kPanel].
template <class T>
void transform_panel(const FusedMBConvTask& t, int64_t index) {
  const int64_t taps = t.kernel_h * t.kernel_w;
  float* panel = t.transformed + index * kPanel * kPoints * t.in_channels;
  for (int64_t j = 0; j < kPanel; j += kLane) {
    const int64_t first = index * kPanel + j;
    for (int64_t c = 0; c < t.in_channels; c += kLane) {
      const int64_t n = min64(kLane, t.in_channels - c);
      Vec<float> block[kPoints][kLane];
      for (int i = 0; i < kLane; ++i) {
        Vec<float> g[3][3] = {}, u[kPoints];
        if (first + i < t.hidden) {
          const T* weight =
              static_cast<const T*>(t.weight) + (first + i) * taps * t.in_channels + c;
          for (int tap = 0; tap < 9; ++tap) {
            g[tap / 3][tap % 3] = load_upto(weight + tap * t.in_channels, n);
          }
        }
        transform_weight(g, u);
        for (int p = 0; p < kPoints; ++p) block[p][i] = u[p];
      }
      for (int p = 0; p < kPoints; ++p) {
        transpose(block[p]);
        float* to = panel + (p * t.in_channels + c) * kPanel + j;
        for (int64_t i = 0; i < n; ++i) store(to + i * kPanel, block[p][i]);
      }
    }
  }
}

EFFKERN_INLINE int64_t row_of(const FusedMBConvTask& t, int64_t tile) {
  return tile / t.tiles_w() * 2;
}
EFFKERN_INLINE int64_t column_of(const FusedMBConvTask& t, int64_t tile) {
  return tile % t.tiles_w() * 2;
}

// [kPoints][tiles][in_channels] from the image; `zeros` are in_channels of them.
template <class T>
void transform_pixels(const FusedMBConvTask& t, const Block& b, const T* zeros, float* out) {
  const FusedMBConvTask::Strides& s = t.input_strides;
  const T* image = static_cast<const T*>(t.input) + b.image * s.image;
  for (int64_t i = 0; i < b.tiles; ++i) {
    const int64_t y0 = row_of(t, b.first + i) - t.pad_top;
    const int64_t x0 = column_of(t, b.first + i) - t.pad_left;
    const T* pixel[4][4];
    for (int y = 0; y < 4; ++y) {
      for (int x = 0; x < 4; ++x) {
        const bool inside = y0 + y >= 0 && y0 + y < t.height && x0 + x >= 0 && x0 + x < t.width;
        pixel[y][x] = inside ? image + (y0 + y) * s.row + (x0 + x) * s.pixel : zeros;
      }
    }
    for (int64_t c = 0; c < t.in_channels; c += kLane) {
      const int64_t n = min64(kLane, t.in_channels - c);
      Vec<float> d[4][4];
#pragma GCC unroll 16
      for (int p = 0; p < kPoints; ++p) d[p / 4][p % 4] = load_upto(pixel[p / 4][p % 4] + c, n);
      transform_input(d);
#pragma GCC unroll 16
      for (int p = 0; p < kPoints; ++p) {
        store_upto(out + (p * t.block_tiles + i) * t.in_channels + c, d[p / 4][p % 4], n);
      }
    }
  }
}

// `count` tiles from `first` of the block on, V vectors of a panel: their products in Winograd's
// domain to [kPoints][kGroup][V * kLane].
template <int M, int V>
void multiply_group(const FusedMBConvTask& t, const float* pixels, const float* panel,
                    int64_t first, int64_t count, float* products) {
  static_assert(V == kPanelVectors, "as wide as the rows of the products");
  const int64_t channels = t.in_channels;
  for (int p = 0; p < kPoints; ++p) {
    const float* rows = pixels + (p * t.block_tiles + first) * channels;
    const float* weights = panel + p * channels * kPanel;
    float* to = products + p * kGroup * kPanel;
    for_each_tile<M>(count, [&](int64_t i, int64_t size) __attribute__((always_inline)) {
      multiply<M, V>({rows + i * channels, channels, weights, channels, nullptr, to + i * kPanel},
                     size);
    });
  }
}

// Bias and activation, to rows of `pitch`: pixel q of tile i is row 4 * i + q.
EFFKERN_INLINE void finish_group(const float* products, int64_t count, int64_t channels,
                                 const float* bias, Activation activation, float* rows,
                                 int64_t pitch) {
  with_activation<float>(activation, [&](auto activate) __attribute__((always_inline)) {
    for (int64_t c = 0; c < channels; c += kLane) {
      const int64_t n = min64(kLane, channels - c);
      const Vec<float> shift = load(bias + c);
      for (int64_t i = 0; i < count; ++i) {
        Vec<float> m[4][4];
#pragma GCC unroll 16
        for (int p = 0; p < kPoints; ++p) {
          m[p / 4][p % 4] = load(products + (p * kGroup + i) * kPanel + c);
        }
        transform_output(m);
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q) {
          store_upto(rows + (4 * i + q) * pitch + c, activate(m[q / 2][q % 2] + shift), n);
        }
      }
    }
  });
}

// A tile is 2 x 2 pixels, each a row.
struct Winograd {
  static constexpr int64_t kRows = 4;

  static Position position(const FusedMBConvTask& t, const Block& b, int64_t row) {
    const int64_t tile = b.first + row / kRows, pixel = row % kRows;
    return {row_of(t, tile) + pixel / 2, column_of(t, tile) + pixel % 2};
  }

  static int64_t scratch(const FusedMBConvTask& t) {
    return kPoints * (t.block_tiles * t.in_channels + kGroup * kPanel);
  }

  template <class T>
  static void pack(const FusedMBConvTask& t, int64_t index) {
    transform_panel<T>(t, index);
  }

  template <class T>
  static void run(const FusedMBConvTask& t, const Block& b, const T* zeros, const float* bias,
                  float* scratch, float* expanded) {
    float *pixels = scratch, *products = pixels + kPoints * t.block_tiles * t.in_channels;
    transform_pixels<T>(t, b, zeros, pixels);
    for (int64_t c = 0; c < t.hidden; c += kPanel) {
      const int64_t n = min64(kPanel, t.hidden - c);
      const float* panel = t.transformed + c * t.depth();
      for (int64_t i = 0; i < b.tiles; i += kGroup) {
        const int64_t count = min64(kGroup, b.tiles - i);
        multiply_group<kTilePixels, kPanelVectors>(t, pixels, panel, i, count, products);
        finish_group(products, count, n, bias + c, t.activation,
                     expanded + kRows * i * t.hidden + c, t.hidden);
      }
    }
  }
};

}  // namespace EFFKERN_ISA
}  // namespace effkern

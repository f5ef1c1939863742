// Forward and input gradient of contiguous images without packing: a lane is a pixel of a row, a
// tile keeps a vector of each of up to seven rows in registers, and each row of the image is loaded
// once per kernel column for all of them. Rows of 16-bit images are widened first, with borders of
// zeros, so that no vector needs a mask. 3x3 and 5x5 with stride 1 and 2, 7x7 with stride 1.
// Included after the weights header, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

struct RowsArgs {
  // The rows of the image that the tile meets; zeros in place of those outside.
  const float* rows[(kDirectRows - 1) * 2 + 7];
  // Columns of the image, and those that the first output column reaches to the left of it.
  int64_t width, pad;
  // Those of direct_rows_masks for each strip, or null: there are too many strips to keep them.
  const Vector<float>::mask* masks;
  const float* weights;
  float bias;
  DirectEpilogue<float> epilogue;
  float* out;
  int64_t out_row, out_width;
};

// Masks per strip, and strips whose masks are computed once for all planes.
constexpr int kRowsMasks = 8, kMaskedStrips = 8;

// Lanes inside the image, per column of the kernel, or, with stride 2, per vector of two columns.
template <int K, int S>
EFFKERN_INLINE void direct_rows_masks(const RowsArgs& args, int64_t col,
                                      Vector<float>::mask* masks) {
  constexpr int L = kLanes<float>;
  const int64_t first = col * S - args.pad;
  for (int j = 0; j < K; ++j) {
    const int64_t start = S == 1 ? j : j / 2 * 2 + j % 2 * L;
    masks[j] = lanes_inside(first + start, args.width);
  }
  // The second vector of the last column.
  if (S == 2) masks[K] = lanes_inside(first + K - 1 + L, args.width);
}

// Output columns [col, col + kLanes) of R rows. kMasked if they reach over the border of the image.
template <int K, int S, int R, bool kMasked>
EFFKERN_INLINE void direct_rows_tile(const RowsArgs& args, int64_t col,
                                     const Vector<float>::mask* masks, Vec<float> (&acc)[R]) {
  constexpr int L = kLanes<float>;
  typedef Vector<float>::mask Mask;
  const int64_t first = col * S - args.pad;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) acc[r] = splat(args.bias);
  if constexpr (S == 1) {
    // One column of the kernel after the other: its weights fit the registers.
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) {
      Mask mask;
      if constexpr (kMasked) mask = masks[j];
      Vec<float> w[K];
#pragma GCC unroll 8
      for (int i = 0; i < K; ++i) w[i] = splat(args.weights[i * K + j]);
#pragma GCC unroll 16
      for (int row = 0; row < R + K - 1; ++row) {
        const float* p = args.rows[row] + (first + j);
        const Vec<float> x = kMasked ? load_masked(p, mask) : load(p);
#pragma GCC unroll 8
        for (int i = 0; i < K; ++i) {
          if (row - i >= 0 && row - i < R) acc[row - i] += w[i] * x;
        }
      }
    }
    return;
  }
  // Two columns at a time: they are the even and the odd pixels of the same two vectors.
#pragma GCC unroll 4
  for (int j = 0; j < K; j += 2) {
    Mask even, odd;
    if constexpr (kMasked) even = masks[j], odd = masks[j + 1];
#pragma GCC unroll 16
    for (int row = 0; row < (R - 1) * S + K; ++row) {
      const float* p = args.rows[row] + (first + j);
      const Vec<float> x = kMasked ? load_masked(p, even) : load(p);
      const Vec<float> y = kMasked ? load_masked(p + L, odd) : load(p + L);
#pragma GCC unroll 2
      for (int k = j; k < j + 2; ++k) {
        if (k >= K) continue;
        const Vec<float> v = k == j ? even_lanes(x, y) : odd_lanes(x, y);
#pragma GCC unroll 8
        for (int i = 0; i < K; ++i) {
          const int r = (row - i) / S;
          if (row < i || (row - i) % S != 0 || r >= R) continue;
          acc[r] += splat(args.weights[i * K + k]) * v;
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) acc[r] = unfold(acc[r]);
}

template <int K, int S, int R, bool kMasked>
void direct_rows_strip(const RowsArgs& args, int64_t col, const Vector<float>::mask* masks) {
  constexpr int L = kLanes<float>;
  Vec<float> acc[R];
  direct_rows_tile<K, S, R, kMasked>(args, col, masks, acc);
  args.epilogue.apply(acc);
  float* out = args.out + col;
  const int64_t width = args.out_width;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r, out += args.out_row) {
    // What a vector writes too much may fall into the next rows, which are written after it.
    if (width >= L || (args.out_row == width && (R - r) * width >= L)) {
      store(out, acc[r]);
    } else {
      store_upto(out, acc[r], width);
    }
  }
}

template <int K, int S, int R>
void direct_rows_all(const RowsArgs& args) {
  constexpr int64_t L = kLanes<float>;
  // Columns that one strip reads.
  constexpr int64_t kReach = S == 1 ? L + K - 1 : 2 * L + K - 1;
  for (int64_t next = 0; next < args.out_width; next += L) {
    // The last strip begins earlier where the row is no multiple of it.
    const int64_t col = max64(0, min64(next, args.out_width - L));
    const int64_t first = col * S - args.pad;
    if (first >= 0 && first + kReach <= args.width) {
      direct_rows_strip<K, S, R, false>(args, col, nullptr);
    } else if (args.masks) {
      direct_rows_strip<K, S, R, true>(args, col, args.masks + next / L * kRowsMasks);
    } else {
      Vector<float>::mask masks[kRowsMasks];
      direct_rows_masks<K, S>(args, col, masks);
      direct_rows_strip<K, S, R, true>(args, col, masks);
    }
  }
}

template <int K, int S>
struct DirectRowsTiles {
  // More would not fit the registers.
  static constexpr int kMax = S == 1 ? kDirectRows : 4;
  void (*run[kMax])(const RowsArgs&) = {};

  template <int R>
  constexpr void fill() {
    run[R - 1] = &direct_rows_all<K, S, R>;
    if constexpr (R < kMax) fill<R + 1>();
  }
  constexpr DirectRowsTiles() { fill<1>(); }
};
template <int K, int S>
constexpr DirectRowsTiles<K, S> kDirectRowsTiles{};

template <class T, int K, int S>
class DirectRows {
  static constexpr int L = kLanes<float>;
  static constexpr int kMax = DirectRowsTiles<K, S>::kMax;
  // Rows of the image that the tallest tile meets.
  static constexpr int kSlots = (kMax - 1) * S + K;
  static constexpr bool kWide = sizeof(T) == sizeof(float);

 public:
  DirectRows(const StencilTask& task, void* scratch) : t_(task), sums_(task) {
    const int64_t width = t_.cols.source_size, out_width = t_.cols.out_size;
    pad_ = -t_.cols.min_distance;
    pitch_ = direct_rows_pitch(width, out_width, pad_, K, S, L);
    weights_ = static_cast<float*>(scratch);
    zeros_ = weights_ + K * K + 2 * L;
    widened_ = zeros_ + pitch_;
    finished_ = widened_ + kSlots * pitch_;
    zero(zeros_, kWide ? width : (kSlots + 1) * pitch_);
    args_.width = kWide ? width : pitch_;
    args_.pad = kWide ? pad_ : 0;
    args_.weights = weights_;
    args_.epilogue = DirectEpilogue<float>::of(t_.activation);
    args_.out_row = kWide ? t_.output_strides.h : out_width;
    args_.out_width = out_width;
    args_.masks = out_width <= kMaskedStrips * L ? masks_ : nullptr;
    for (int64_t next = 0; args_.masks && next < out_width; next += L) {
      const int64_t col = max64(0, min64(next, out_width - L));
      direct_rows_masks<K, S>(args_, col, masks_ + next / L * kRowsMasks);
    }
  }

  // Units: planes x blocks of rows.
  void run(int64_t begin, int64_t end) {
    const int64_t blocks = ceil_div(t_.rows.out_size, t_.plan.block_rows);
    int64_t block = begin % blocks, channel = begin / blocks % t_.channels;
    int64_t n = begin / blocks / t_.channels, packed = -1;
    for (int64_t unit = begin; unit < end; ++unit) {
      if (packed != channel) pack_weights<T, false>(t_, channel, 1, K * K, weights_, &args_.bias);
      packed = channel;
      sums_.start(n, block, channel, 1);
      run_block(n, channel, block * t_.plan.block_rows);
      if (++block == blocks) block = 0, ++channel;
      if (channel == t_.channels) channel = 0, ++n;
    }
  }

 private:
  void run_block(int64_t n, int64_t channel, int64_t row) {
    const Strides4 &s = t_.source_strides, &o = t_.output_strides;
    const int64_t end = min64(row + t_.plan.block_rows, t_.rows.out_size);
    const T* source =
        static_cast<const T*>(t_.source) + n * s.n + floor_div(channel, t_.divide) * s.c;
    T* out = static_cast<T*>(t_.output) + n * o.n + channel * o.c;
    next_ = 0;
    for (int64_t tiles = (end - row + kMax - 1) / kMax; tiles > 0; --tiles) {
      // Tiles of nearly the same height.
      const int64_t rows = tiles == 1 ? end - row : (end - row + tiles - 1) / tiles;
      const int64_t y = row * S + t_.rows.min_distance, count = (rows - 1) * S + K;
      const int64_t top = min64(max64(-y, 0), count);
      const int64_t bottom = max64(top, min64(t_.rows.source_size - y, count));
      for (int64_t i = 0; i < top; ++i) args_.rows[i] = zeros_;
      for (int64_t i = top; i < bottom; ++i) args_.rows[i] = source_row(source, y + i);
      for (int64_t i = bottom; i < count; ++i) args_.rows[i] = zeros_;
      if constexpr (kWide) {
        args_.out = out + row * o.h;
        kDirectRowsTiles<K, S>.run[rows - 1](args_);
      } else {
        args_.out = finished_;
        kDirectRowsTiles<K, S>.run[rows - 1](args_);
        store_rows(out + row * o.h, rows);
      }
      sums_.add(row, rows, 0, args_.out_width);
      row += rows;
    }
  }

  const float* source_row(const T* source, int64_t y) {
    const T* row = source + y * t_.source_strides.h;
    if constexpr (kWide) {
      return row;
    } else {
      float* slot = widened_ + y % kSlots * pitch_;
      // Tiles overlap.
      if (y >= next_) widen_row(slot + pad_, row, t_.cols.source_size);
      next_ = max64(next_, y + 1);
      return slot;
    }
  }

  void store_rows(T* out, int64_t rows) const {
    const int64_t width = args_.out_width;
    // Without gaps they are one long row.
    if (t_.output_strides.h == width) return narrow_row(out, finished_, rows * width);
    for (int64_t r = 0; r < rows; ++r) {
      narrow_row(out + r * t_.output_strides.h, finished_ + r * width, width);
    }
  }

  const StencilTask& t_;
  OutputSums<T> sums_;
  float *weights_, *zeros_, *widened_, *finished_;
  int64_t pad_, pitch_, next_;
  Vector<float>::mask masks_[kMaskedStrips * kRowsMasks];
  RowsArgs args_;
};

template <class T>
void run_direct_rows(const StencilTask& task, int64_t begin, int64_t end, void* scratch) {
  const bool one = task.cols.step == 1;
  switch (task.taps_per_row) {
    case 3:
      return one ? DirectRows<T, 3, 1>(task, scratch).run(begin, end)
                 : DirectRows<T, 3, 2>(task, scratch).run(begin, end);
    case 5:
      return one ? DirectRows<T, 5, 1>(task, scratch).run(begin, end)
                 : DirectRows<T, 5, 2>(task, scratch).run(begin, end);
    case 7:
      return DirectRows<T, 7, 1>(task, scratch).run(begin, end);
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern

// Forward and input gradient of contiguous images without packing: a lane is a pixel of a row, a
// tile keeps a vector of each of up to seven rows in registers, and each row of the image is loaded
// once per kernel column for all of them. 3x3 and 5x5 with stride 1 and 2, 7x7 with stride 1.
// Included after the weights header, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

struct StripMasks;

template <class T>
struct RowsArgs {
  // The rows of the image that the tile meets; zeros in place of those outside.
  const T* const* rows;
  // Columns of the image, and those that the first output column reaches to the left of it.
  int64_t width, pad;
  // Those of direct_rows_masks for each strip, or null: there are too many strips to keep them.
  const LaneMask<T>* masks;
  // Those of the shifted tiles.
  const StripMasks* strips;
  const float* weights;
  // Those of bfloat16 in pairs.
  const float* weight_pairs;
  float bias;
  DirectEpilogue<float> epilogue;
  T* out;
  int64_t out_row, out_width;
};

}  // namespace EFFKERN_ISA
}  // namespace effkern

#if EFFKERN_VECTOR == 64
#include "depthwise_conv2d/depthwise_conv2d_cpu_row_window.h"
// After the windows.
#include "depthwise_conv2d/depthwise_conv2d_cpu_shifted_rows.h"
#endif

namespace effkern {
namespace EFFKERN_ISA {

// Masks per strip, and strips whose masks are computed once for all planes.
constexpr int kRowsMasks = 8, kMaskedStrips = 8;

// Vectors of one strip of output columns: a span of them. At the end of a row one vector may do.
template <class T, int S>
constexpr int kStripVectors = S == 1 ? kSpanVectors<T> : 1;
// Columns of the image that a strip reads.
template <int K, int S, int V>
constexpr int64_t kStripReach = S * V * kLanes<float> + K - 1;

// Lanes inside the image, per column of the kernel, or, with stride 2 or spans, per vector of two
// columns.
template <class T, int K, int S, int V>
EFFKERN_INLINE void direct_rows_masks(const RowsArgs<T>& args, int64_t col, LaneMask<T>* masks) {
  constexpr int L = kLanes<float>;
  const int64_t first = col * S - args.pad;
  constexpr bool kSingle = S == 1 && V == 1;
  for (int j = 0; j < K; ++j) {
    const int64_t start = kSingle ? j : j / 2 * 2 + j % 2 * L;
    masks[j] = lanes_inside<T>(first + start, args.width);
  }
  // The second vector of the last column.
  if (!kSingle) masks[K] = lanes_inside<T>(first + K - 1 + L, args.width);
}

// Output columns [col, col + kSpan) of R rows of a bfloat16 image with stride 1: a vector of the
// even columns of each row and one of the odd ones.
template <class T, int K, int R, bool kMasked>
EFFKERN_INLINE void direct_rows_spans(const RowsArgs<T>& args, int64_t col,
                                      const LaneMask<T>* masks, Vec<float> (&acc)[2 * R]) {
  const int64_t first = col - args.pad;
#pragma GCC unroll 8
  for (int r = 0; r < 2 * R; ++r) acc[r] = splat(args.bias);
  // The even pixels from j on meet column j of the kernel for the even columns of the output and
  // column j - 1 for the odd ones; the odd pixels meet the next columns.
#pragma GCC unroll 4
  for (int j = 0; j < K; j += 2) {
#pragma GCC unroll 16
    for (int row = 0; row < R + K - 1; ++row) {
      const T* p = args.rows[row] + (first + j);
      const EvenOdd x = kMasked ? load_even_odd_masked(p, masks + j) : load_even_odd(p);
#pragma GCC unroll 8
      for (int i = 0; i < K; ++i) {
        const int r = row - i;
        if (r < 0 || r >= R) continue;
        const float* w = args.weights + (i * K + j);
        acc[2 * r] += splat(w[0]) * x.even;
        acc[2 * r + 1] += splat(w[0]) * x.odd;
        if (j > 0) acc[2 * r + 1] += splat(w[-1]) * x.even;
        if (j + 1 < K) acc[2 * r] += splat(w[1]) * x.odd;
      }
    }
  }
}

// Output columns [col, col + kLanes) of R rows. kMasked if they reach over the border of the image.
template <class T, int K, int S, int R, bool kMasked>
EFFKERN_INLINE void direct_rows_tile(const RowsArgs<T>& args, int64_t col, const LaneMask<T>* masks,
                                     Vec<float> (&acc)[R]) {
  const int64_t first = col * S - args.pad;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) acc[r] = splat(args.bias);
  if constexpr (S == 1) {
    // One column of the kernel after the other: its weights fit the registers.
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) {
      LaneMask<T> mask;
      if constexpr (kMasked) mask = masks[j];
      Vec<float> w[K];
#pragma GCC unroll 8
      for (int i = 0; i < K; ++i) w[i] = splat(args.weights[i * K + j]);
#pragma GCC unroll 16
      for (int row = 0; row < R + K - 1; ++row) {
        const T* p = args.rows[row] + (first + j);
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
#pragma GCC unroll 16
    for (int row = 0; row < (R - 1) * S + K; ++row) {
      const T* p = args.rows[row] + (first + j);
      const EvenOdd x = kMasked ? load_even_odd_masked(p, masks + j) : load_even_odd(p);
#pragma GCC unroll 2
      for (int k = j; k < j + 2; ++k) {
#pragma GCC unroll 8
        for (int i = 0; i < K && k < K; ++i) {
          const int r = (row - i) / S;
          if (row < i || (row - i) % S != 0 || r >= R) continue;
          acc[r] += splat(args.weights[i * K + k]) * (k == j ? x.even : x.odd);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) acc[r] = pixel_order<T>(acc[r]);
}

// The same with V vectors, finished and stored.
template <class T, int K, int S, int R, int V, bool kMasked>
EFFKERN_INLINE void direct_rows_strip(const RowsArgs<T>& args, int64_t col,
                                      const LaneMask<T>* masks) {
  constexpr int kCols = V * kLanes<float>;
  Vec<float> acc[R * V];
  if constexpr (V == 2) {
    direct_rows_spans<T, K, R, kMasked>(args, col, masks, acc);
  } else {
    direct_rows_tile<T, K, S, R, kMasked>(args, col, masks, acc);
  }
  args.epilogue.apply(acc);
  T* out = args.out + col;
  // Copies, which the stores to the output cannot change.
  const int64_t width = args.out_width, out_row = args.out_row;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r, out += out_row) {
    // What a strip writes too much may fall into the next rows, which are written after it.
    const bool whole = width >= kCols || (out_row == width && (R - r) * width >= kCols);
    T few[kCols];
    T* strip = whole ? out : few;
    if constexpr (V == 2) {
      store_span(strip, {{acc[2 * r], acc[2 * r + 1]}});
    } else {
      store(strip, acc[r]);
    }
    if (!whole) copy_few(out, few, width);
  }
}

// Strips of float32 become a part of the loop over them; those of 16 bits would spill there.
template <class T, int K, int S, int R, int V, bool kMasked>
__attribute__((noinline)) void direct_rows_strip_apart(const RowsArgs<T>& args, int64_t col,
                                                       const LaneMask<T>* masks) {
  direct_rows_strip<T, K, S, R, V, kMasked>(args, col, masks);
}
template <class T, int K, int S, int R, int V, bool kMasked>
EFFKERN_INLINE void direct_rows_strip_at(const RowsArgs<T>& args, int64_t col,
                                         const LaneMask<T>* masks) {
  if constexpr (sizeof(T) < sizeof(float)) {
    direct_rows_strip_apart<T, K, S, R, V, kMasked>(args, col, masks);
  } else {
    direct_rows_strip<T, K, S, R, V, kMasked>(args, col, masks);
  }
}

// The strip of V vectors that covers the columns from `next` on; a last strip begins earlier where
// the row is no multiple of it.
template <class T, int K, int S, int R, int V>
EFFKERN_INLINE void direct_rows_next(const RowsArgs<T>& args, int64_t next,
                                     const LaneMask<T>* masks) {
  const int64_t col = max64(0, min64(next, args.out_width - V * kLanes<float>));
  const int64_t first = col * S - args.pad;
  if (first >= 0 && first + kStripReach<K, S, V> <= args.width) {
    direct_rows_strip_at<T, K, S, R, V, false>(args, col, nullptr);
  } else {
    LaneMask<T> computed[kRowsMasks];
    if (!masks) {
      direct_rows_masks<T, K, S, V>(args, col, computed);
      masks = computed;
    }
    direct_rows_strip_at<T, K, S, R, V, true>(args, col, masks);
  }
}

template <class T, int K, int S, int R>
void direct_rows_all(const RowsArgs<T>& args) {
  constexpr int64_t L = kLanes<float>, kVectors = kStripVectors<T, S>;
  const LaneMask<T>* masks = args.masks;
  int64_t next = 0;
  for (; next + (kVectors - 1) * L < args.out_width; next += kVectors * L) {
    direct_rows_next<T, K, S, R, kVectors>(args, next, masks);
    if (masks) masks += kRowsMasks;
  }
  if (kVectors > 1 && next < args.out_width) direct_rows_next<T, K, S, R, 1>(args, next, masks);
}

// kDot: with the instructions of AVX-512 BF16.
template <class T, int K, int S, bool kDot>
struct DirectRowsTiles {
#if EFFKERN_VECTOR == 64
  static constexpr int kMax = kShiftedTileRows;
#else
  static constexpr int kMax = direct_tile_rows(S, sizeof(T), kStripVectors<T, S>);
#endif
  void (*run[kMax])(const RowsArgs<T>&) = {};

  template <int R>
  constexpr void fill() {
#if EFFKERN_VECTOR == 64
    run[R - 1] = &shifted_rows_all<T, K, S, R, kDot>;
#else
    run[R - 1] = &direct_rows_all<T, K, S, R>;
#endif
    if constexpr (R < kMax) fill<R + 1>();
  }
  constexpr DirectRowsTiles() { fill<1>(); }
};
template <class T, int K, int S, bool kDot>
constexpr DirectRowsTiles<T, K, S, kDot> kDirectRowsTiles{};

template <class T, int K, int S>
class DirectRows {
  static constexpr int L = kLanes<float>, kCols = kStripVectors<T, S> * L;
  static constexpr int kMax = DirectRowsTiles<T, K, S, false>::kMax;
  static constexpr bool kShifted = EFFKERN_VECTOR == 64;
  // Rows of the image that the tallest tile meets.
  static constexpr int kSlots = (kMax - 1) * S + K;
  // Tiles of a plane that are kept from one plane to the next.
  static constexpr int kKeptTiles = 16;

  // Rows [row, row + count) of the output, and those of the image that they meet: [top, bottom) of
  // them lie inside, from the element `first` of the plane on.
  struct Tile {
    int64_t row, count, top, bottom, first;
    const T* rows[kSlots];
  };

 public:
  DirectRows(const StencilTask& task, void* scratch) : t_(task), sums_(task) {
    const int64_t width = t_.cols.source_size, out_width = t_.cols.out_size;
    const Strides4& s = t_.source_strides;
    pad_ = -t_.cols.min_distance;
    reach_ = max64(out_width, kCols) * S + K - 1;
    weights_ = static_cast<float*>(scratch);
    zeros_ = reinterpret_cast<T*>(weights_ + 2 * K * K + 2 * L);
    const int64_t pitch = direct_rows_pitch(width, out_width, pad_, K, S, kCols);
    for (int64_t x = 0; x < pitch; ++x) zeros_[x] = T{};
    zeros_ += pad_;
    copies_ = zeros_ + pitch;
    pitch_ = pitch;
    begin_ = static_cast<const T*>(t_.source);
    end_ = begin_ + (t_.batch - 1) * s.n + (floor_div(t_.channels, t_.divide) - 1) * s.c +
           (t_.rows.source_size - 1) * s.h + width;
    args_.width = width;
    args_.pad = pad_;
    args_.weights = weights_;
    tiles_ = kDirectRowsTiles<T, K, S, false>.run;
#if EFFKERN_VECTOR == 64
    args_.weight_pairs = weights_ + K * K + L;
    if constexpr (kIsBFloat16<T>) {
      dots_ = t_.plan.isa == CpuIsa::kAvx512Bf16;
      if (dots_) tiles_ = kDirectRowsTiles<T, K, S, true>.run;
    }
#endif
    args_.epilogue = DirectEpilogue<float>::of(t_.activation);
    args_.out_row = t_.output_strides.h;
    args_.out_width = out_width;
    if (t_.plan.block_rows >= t_.rows.out_size && t_.rows.out_size <= kKeptTiles * kMax) {
      for (int64_t row = 0; row < t_.rows.out_size; row += kept_[kept_count_++].count) {
        kept_[kept_count_] = tile_at(row, t_.rows.out_size);
      }
    }
    keep_masks();
  }

  // Units: planes x blocks of rows.
  void run(int64_t begin, int64_t end) {
    const int64_t blocks = ceil_div(t_.rows.out_size, t_.plan.block_rows);
    int64_t block = begin % blocks, channel = begin / blocks % t_.channels;
    int64_t n = begin / blocks / t_.channels, packed = -1;
    for (int64_t unit = begin; unit < end; ++unit) {
      if (packed != channel) pack(channel);
      packed = channel;
      sums_.start(n, block, channel, 1);
      run_block(n, channel, block * t_.plan.block_rows);
      if (++block == blocks) block = 0, ++channel;
      if (channel == t_.channels) channel = 0, ++n;
    }
  }

 private:
#if EFFKERN_VECTOR == 64
  void keep_masks() {
    args_.strips = nullptr;
    if (args_.out_width > kMaskedStrips * L) return;
    StripMasks* masks = strips_;
    each_strip<T, K, S>(
        args_, [&](auto strip, int64_t col) { mask_strip<T, S>(strip, args_, col, masks++); });
    args_.strips = strips_;
  }
  StripMasks strips_[kMaskedStrips];
#else
  void keep_masks() {
    const int64_t out_width = args_.out_width;
    args_.masks = out_width <= kMaskedStrips * kCols ? masks_ : nullptr;
    LaneMask<T>* masks = masks_;
    for (int64_t next = 0; args_.masks && next < out_width; next += kCols, masks += kRowsMasks) {
      if (kCols > L && out_width - next <= L) {
        direct_rows_masks<T, K, S, 1>(args_, max64(0, out_width - L), masks);
      } else {
        const int64_t col = max64(0, min64(next, out_width - kCols));
        direct_rows_masks<T, K, S, kCols / L>(args_, col, masks);
      }
    }
  }
  LaneMask<T> masks_[kMaskedStrips * kRowsMasks];
#endif

  void pack(int64_t channel) {
    pack_weights<T, false>(t_, channel, 1, K * K, weights_, &args_.bias);
#if EFFKERN_VECTOR == 64
    if constexpr (kIsBFloat16<T>) {
      if (!dots_) return;
      const T* weights = static_cast<const T*>(t_.weight) + channel * K * K;
      T copy[K * K];
      if (!t_.dense_weight) {
        for (int k = 0; k < K * K; ++k) from_acc(weights_[k], copy + k);
        weights = copy;
      }
      pair_weights<K>(weights, t_.dense_weight && t_.flipped, weights_ + K * K + L);
    }
#endif
  }

  // The first tile of rows [row, end): tiles of nearly the same height.
  Tile tile_at(int64_t row, int64_t end) const {
    Tile tile;
    const int64_t tiles = (end - row + kMax - 1) / kMax;
    tile.row = row;
    tile.count = tiles == 1 ? end - row : (end - row + tiles - 1) / tiles;
    const int64_t y = row * S + t_.rows.min_distance, met = (tile.count - 1) * S + K;
    tile.top = min64(max64(-y, 0), met);
    tile.bottom = max64(tile.top, min64(t_.rows.source_size - y, met));
    tile.first = (y + tile.top) * t_.source_strides.h;
    for (int64_t i = 0; i < met; ++i) tile.rows[i] = zeros_;
    return tile;
  }

  void run_block(int64_t n, int64_t channel, int64_t row) {
    const Strides4 &s = t_.source_strides, &o = t_.output_strides;
    const int64_t end = min64(row + t_.plan.block_rows, t_.rows.out_size);
    const T* source =
        static_cast<const T*>(t_.source) + n * s.n + floor_div(channel, t_.divide) * s.c;
    const bool copied = reaches_beyond(source);
    T* out = static_cast<T*>(t_.output) + n * o.n + channel * o.c;
    if (kept_count_ > 0) {
      for (int i = 0; i < kept_count_; ++i) run_tile(kept_[i], source, copied, out);
      return;
    }
    while (row < end) {
      Tile tile = tile_at(row, end);
      run_tile(tile, source, copied, out);
      row += tile.count;
    }
  }

  void run_tile(Tile& tile, const T* source, bool copied, T* out) {
    const T* pixels = source + tile.first;
    for (int64_t i = tile.top; i < tile.bottom; ++i, pixels += t_.source_strides.h) {
      tile.rows[i] = copied ? copy_row(pixels, i) : pixels;
    }
    args_.rows = tile.rows;
    args_.out = out + tile.row * t_.output_strides.h;
    tiles_[tile.count - 1](args_);
    sums_.add(tile.row, tile.count, 0, args_.out_width);
  }

  // Vectors of 16 bits are masked after they are loaded: rows so close to the first or the last
  // element of the tensor that they would reach beyond are copied.
  bool reaches_beyond(const T* plane) const {
    const T* last = plane + (t_.rows.source_size - 1) * t_.source_strides.h;
    return !kShifted && sizeof(T) < sizeof(float) &&
           (plane - begin_ < pad_ || end_ - last < reach_ - pad_);
  }

  const T* copy_row(const T* row, int64_t slot) {
    T* copy = copies_ + slot * pitch_;
    // Padding beyond the kernel leaves out the first columns.
    const int64_t first = max64(0, -pad_), count = max64(0, t_.cols.source_size - first);
    memcpy(copy + first, row + first, static_cast<size_t>(count) * sizeof(T));
    return copy;
  }

  const StencilTask& t_;
  OutputSums<T> sums_;
  float* weights_;
  T *zeros_, *copies_;
  // The tensor.
  const T *begin_, *end_;
  // Elements that the strips of a row read, from `pad_` to the left of it on.
  int64_t pad_, reach_, pitch_;
  RowsArgs<T> args_;
  // Of each plane, where it is one block; none if there are more of them.
  Tile kept_[kKeptTiles];
  int kept_count_ = 0;
  void (*const* tiles_)(const RowsArgs<T>&);
  bool dots_ = false;
};

}  // namespace EFFKERN_ISA
}  // namespace effkern

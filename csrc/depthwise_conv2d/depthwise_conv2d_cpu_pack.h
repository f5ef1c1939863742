// Packing: a block of an image becomes a zero-padded array in the accumulation type, so that the
// register tiles see neither borders, strides, layouts nor storage types.
// Included after simd.h, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

// A division costs as much as ten multiply-adds, and most strides are 1.
EFFKERN_INLINE int64_t floor_div(int64_t a, int64_t b) {
  if (b == 1) return a;
  const int64_t q = a / b;
  return q - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}
EFFKERN_INLINE int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }
EFFKERN_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
EFFKERN_INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

// A block of one image: rows [row, row + rows), columns col + phase + phases * i for i < pitch;
// pixels outside the height x width image are zero. Packed as [rows][phases][pitch] (times lanes).
// Packing goes upwards in whole vectors: it may write up to a vector behind the block, and rows
// overwrite what the row before them left there.
struct PackBlock {
  int64_t row, rows, col, phases, pitch;
  int64_t height, width, stride_h, stride_w;
  // The memory holds a block with the same borders: they are zero already.
  bool clean;

  bool same_borders(const PackBlock& other) const {
    return row == other.row && rows == other.rows && col == other.col && pitch == other.pitch;
  }
};

// The part [*lo, *hi) of a packed row that lies inside the image.
EFFKERN_INLINE void inside(const PackBlock& b, int64_t phase, int64_t* lo, int64_t* hi) {
  const int64_t first = b.col + phase;
  *lo = min64(max64(ceil_div(-first, b.phases), 0), b.pitch);
  *hi = max64(min64(ceil_div(b.width - first, b.phases), b.pitch), *lo);
}

template <class A>
EFFKERN_INLINE void zero(A* p, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes<A>) store_acc(p + i, Vec<A>{});
}

// Channels of a vector: lane i is `source + offset[i]` for i < count, zero beyond.
struct Lanes {
  int64_t offset[16];
  int count;
};

template <class T>
EFFKERN_INLINE Vec<Acc<T>> load_lanes(const T* p, const Lanes& lanes) {
  Acc<T> values[kLanes<Acc<T>>] = {};
  for (int l = 0; l < lanes.count; ++l) values[l] = to_acc(p[lanes.offset[l]]);
  return load_acc(values);
}

// kSubs vectors of adjacent channels, or one of any channels (`lanes`), each to a block of its own,
// `sub` elements apart.
template <class T, int kSubs, bool kAdjacent>
void pack_channels(Acc<T>* dst, int64_t sub, const T* source, const Lanes& lanes,
                   const PackBlock& b) {
  using A = Acc<T>;
  constexpr int L = kLanes<A>;
  for (int64_t r = 0; r < b.rows; ++r) {
    const int64_t y = b.row + r;
    if (y < 0 || y >= b.height) {
      for (int s = 0; s < kSubs && !b.clean; ++s) zero(dst + s * sub, b.phases * b.pitch * L);
      dst += b.phases * b.pitch * L;
      continue;
    }
    for (int64_t phase = 0; phase < b.phases; ++phase) {
      int64_t lo, hi;
      inside(b, phase, &lo, &hi);
      for (int s = 0; s < kSubs && !b.clean; ++s) zero(dst + s * sub, lo * L);
      const int64_t step = b.phases * b.stride_w;
      const T* p = source + y * b.stride_h + (b.col + phase) * b.stride_w + lo * step;
      A* out = dst + lo * L;
      for (int64_t i = lo; i < hi; ++i, p += step, out += L) {
        if constexpr (kAdjacent) {
#pragma GCC unroll 4
          for (int s = 0; s < kSubs; ++s) store_acc(out + s * sub, load(p + s * L));
        } else {
          store_acc(out, load_lanes(p, lanes));
        }
      }
      for (int s = 0; s < kSubs && !b.clean; ++s) zero(out + s * sub, (b.pitch - hi) * L);
      dst += b.pitch * L;
    }
  }
}

// As many adjacent pixels of kLanes planes as there are lanes, as vectors of channels.
template <class T>
EFFKERN_INLINE void load_transposed(const T* const (&planes)[kLanes<Acc<T>>], int64_t offset,
                                    Vec<Acc<T>> (&block)[kLanes<Acc<T>>]) {
#pragma GCC unroll 16
  for (int l = 0; l < kLanes<Acc<T>>; ++l) block[l] = load(planes[l] + offset);
  transpose(block);
}

// The same for the first `count` pixels of the first `lanes` planes.
template <class T>
__attribute__((noinline)) void load_transposed_part(const T* const (&planes)[kLanes<Acc<T>>],
                                                    int lanes, int64_t offset, int64_t count,
                                                    Vec<Acc<T>> (&block)[kLanes<Acc<T>>]) {
  for (int l = 0; l < kLanes<Acc<T>>; ++l) {
    block[l] = l < lanes ? load_upto(planes[l] + offset, count) : Vec<Acc<T>>{};
  }
  transpose(block);
}

// All rows of planes without gaps: pixels are transposed as they follow each other in memory,
// whichever row they belong to.
template <class T>
void pack_whole_planes(Acc<T>* dst, const T* const (&planes)[kLanes<Acc<T>>], int64_t rows,
                       int64_t width, int64_t row_pitch) {
  using A = Acc<T>;
  constexpr int L = kLanes<A>;
  const int64_t pixels = rows * width, gap = row_pitch - width * L;
  int64_t left = width;
  for (int64_t q = 0; q < pixels; q += L) {
    Vec<A> block[L];
    // The last block begins earlier, the pixels that it shares with the one before are skipped.
    const int64_t start = min64(q, pixels - L);
    load_transposed<T>(planes, start, block);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
      if (start + i < q) continue;
      store_acc(dst, block[i]);
      dst += L;
      if (--left == 0) {
        dst += gap;
        left = width;
      }
    }
  }
}

// `lanes` channels from planes whose rows are dense.
template <class T>
void pack_planes(Acc<T>* dst, const T* source, const Lanes& lanes, const PackBlock& b) {
  using A = Acc<T>;
  constexpr int L = kLanes<A>;
  const int64_t row_pitch = b.phases * b.pitch * L, pitch = b.pitch, phases = b.phases;
  const int64_t first = max64(0, -b.col);
  const int64_t last = max64(first, min64(phases * pitch, b.width - b.col));
  const int count = lanes.count;
  const T* planes[L];
  for (int l = 0; l < L; ++l) {
    planes[l] = source + (l < count ? lanes.offset[l] : 0) + (b.row * b.stride_h + b.col);
  }
  const int64_t rows = b.rows, step = b.stride_h, top = -b.row, bottom = b.height - b.row;
  const bool clean = b.clean;
  const int64_t begin = max64(0, top), end = min64(rows, bottom);
  if (phases == 1 && count == L && step == b.width && last - first == b.width &&
      (end - begin) * b.width >= L) {
    if (!clean) zero(dst, rows * row_pitch);
    for (int l = 0; l < L; ++l) planes[l] += begin * step + first;
    return pack_whole_planes<T>(dst + begin * row_pitch + first * L, planes, end - begin, b.width,
                                row_pitch);
  }
  for (int64_t r = 0; r < rows; ++r, dst += row_pitch) {
    if (!clean) zero(dst, row_pitch);
    if (r < top || r >= bottom) continue;
    Vec<A> block[L];
    int64_t q = first;
    if (phases == 1 && count == L) {
      for (; q + L <= last; q += L) {
        load_transposed<T>(planes, r * step + q, block);
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) store_acc(dst + (q + i) * L, block[i]);
      }
    }
    for (; q < last; q += L) {
      const int64_t pixels = min64(L, last - q);
      if (pixels == L && count == L) {
        load_transposed<T>(planes, r * step + q, block);
      } else {
        load_transposed_part<T>(planes, count, r * step + q, pixels, block);
      }
      int64_t index = floor_div(q, phases), phase = q - index * phases;
      for (int i = 0; i < pixels; ++i) {
        store_acc(dst + (phase * pitch + index) * L, block[i]);
        if (++phase == phases) phase = 0, ++index;
      }
    }
  }
}

// `count` channels from `channel` on, in blocks of kLanes channels; each line of a channels_last
// image is read once for all of them. source_channel(c) is where output channel c comes from.
template <class T, class SourceChannel>
void pack_channel_group(Acc<T>* dst, int64_t sub, const T* source, int64_t stride_c,
                        int64_t channel, int64_t count, bool identity, SourceChannel source_channel,
                        const PackBlock& b) {
  constexpr int L = kLanes<Acc<T>>;
  Lanes lanes{};
  if (identity && stride_c == 1) {
    for (; count >= 4 * L; count -= 4 * L, channel += 4 * L, dst += 4 * sub)
      pack_channels<T, 4, true>(dst, sub, source + channel, lanes, b);
    for (; count >= 2 * L; count -= 2 * L, channel += 2 * L, dst += 2 * sub)
      pack_channels<T, 2, true>(dst, sub, source + channel, lanes, b);
    for (; count >= L; count -= L, channel += L, dst += sub)
      pack_channels<T, 1, true>(dst, sub, source + channel, lanes, b);
  }
  for (; count > 0; count -= L, channel += L, dst += sub) {
    lanes.count = static_cast<int>(min64(count, L));
    for (int i = 0; i < lanes.count; ++i) {
      lanes.offset[i] = source_channel(channel + i) * stride_c;
    }
    if (b.stride_w == 1) {
      pack_planes(dst, source, lanes, b);
    } else {
      pack_channels<T, 1, false>(dst, sub, source, lanes, b);
    }
  }
}

#if EFFKERN_VECTOR == 32
// One row of a block with two phases, from adjacent pixels: even and odd columns in one pass.
template <class T>
EFFKERN_INLINE void deinterleave(float* dst, const T* row, const PackBlock& b) {
  float* even = dst;
  float* odd = dst + b.pitch;
  const int64_t end = min64(b.width - b.col, 2 * b.pitch);
  int64_t c = max64(0, -b.col);
  // The odd half is written last: the even half may run into it.
  for (int pass = 0; pass < 2; ++pass) {
    float* out = pass ? odd : even;
    if (!b.clean) zero(out, b.pitch);
    int64_t i = (c + 1 - pass) / 2;
    for (; 2 * i + pass < end; i += 8) {
      const T* p = row + b.col + 2 * i + pass;
      const int64_t left = end - (2 * i + pass);
      const Vec<float> x = load_upto(p, left);
      const Vec<float> y = left > 8 ? load_upto(p + 8, left - 8) : Vec<float>{};
      store_acc(out + i, __builtin_shufflevector(x, y, 0, 2, 4, 6, 8, 10, 12, 14));
    }
  }
}
#endif

// Rows of adjacent pixels without phases: nothing is computed per row but its copy.
template <class T>
EFFKERN_INLINE void pack_dense_rows(Acc<T>* dst, const T* source, const PackBlock& b) {
  int64_t lo, hi;
  inside(b, 0, &lo, &hi);
  const int64_t top = min64(max64(-b.row, 0), b.rows);
  const int64_t bottom = max64(min64(b.height - b.row, b.rows), top);
  if (!b.clean) zero(dst, b.rows * b.pitch);
  dst += top * b.pitch;
  const T* p = source + (b.row + top) * b.stride_h + b.col + lo;
  for (int64_t r = top; r < bottom; ++r, dst += b.pitch, p += b.stride_h) {
    widen_row(dst + lo, p, hi - lo);
  }
}

template <class T>
void pack_rows(Acc<T>* dst, const T* source, const PackBlock& b) {
  using A = Acc<T>;
  if (b.phases == 1 && b.stride_w == 1) return pack_dense_rows(dst, source, b);
  for (int64_t r = 0; r < b.rows; ++r, dst += b.phases * b.pitch) {
    const int64_t y = b.row + r;
    if (y < 0 || y >= b.height) {
      zero(dst, b.phases * b.pitch);
      continue;
    }
    const T* row = source + y * b.stride_h;
#if EFFKERN_VECTOR == 32
    if constexpr (sizeof(A) == 4) {
      if (b.phases == 2 && b.stride_w == 1) {
        deinterleave(dst, row, b);
        continue;
      }
    }
#endif
    for (int64_t phase = 0; phase < b.phases; ++phase) {
      int64_t lo, hi;
      inside(b, phase, &lo, &hi);
      A* out = dst + phase * b.pitch;
      zero(out, lo);
      const int64_t step = b.phases * b.stride_w;
      const T* p = row + (b.col + phase) * b.stride_w + lo * step;
      for (int64_t i = lo; i < hi; ++i, p += step) out[i] = to_acc(*p);
      zero(out + hi, b.pitch - hi);
    }
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern

// Dense convolutions of other sizes and strides: the pixels that an output meets are copied to a
// row, which the copy of a block makes adjacent, for one product with the weights as they lie in
// memory. Part of fused_mbconv_cpu_isa.h.
namespace effkern {
namespace EFFKERN_ISA {

EFFKERN_INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

template <class T>
EFFKERN_INLINE void widen_run(const T* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + kLane <= count; i += kLane) store(to + i, load(from + i));
  if (i < count) store_upto(to + i, load_upto(from + i, count - i), count - i);
}

inline void clear(float* to, int64_t count) {
  memset(to, 0, static_cast<size_t>(count) * sizeof(float));
}

// What one output meets, [kernel_h][kernel_w][in_channels], zeros outside the image.
template <class T>
void gather_row(const FusedMBConvTask& t, const T* image, const Position& at, float* row) {
  const FusedMBConvTask::Strides& s = t.input_strides;
  const int64_t channels = t.in_channels, run = t.kernel_w * channels;
  const int64_t y0 = at.y * t.stride_h - t.pad_top, x0 = at.x * t.stride_w - t.pad_left;
  const int64_t first = max64(0, -x0), last = max64(first, min64(t.kernel_w, t.width - x0));
  for (int64_t k = 0; k < t.kernel_h; ++k, row += run) {
    const int64_t y = y0 + k;
    if (y < 0 || y >= t.height || first >= last) {
      clear(row, run);
      continue;
    }
    if (first > 0) clear(row, first * channels);
    const T* from = image + y * s.row + (x0 + first) * s.pixel;
    if (s.pixel == channels) {
      widen_run(from, (last - first) * channels, row + first * channels);
    } else {
      for (int64_t x = first; x < last; ++x, from += s.pixel) {
        widen_run(from, channels, row + x * channels);
      }
    }
    if (last < t.kernel_w) clear(row + last * channels, run - last * channels);
  }
}

// A tile is a pixel.
struct Direct {
  static constexpr int64_t kRows = 1;

  static Position position(const FusedMBConvTask& t, const Block& b, int64_t row) {
    return {(b.first + row) / t.out_width, (b.first + row) % t.out_width};
  }

  static int64_t scratch(const FusedMBConvTask& t) { return t.block_tiles * t.depth() + kLane; }

  template <class T>
  static void pack(const FusedMBConvTask& t, int64_t index) {
    pack_rows<T>(t.weight, t.depth(), t.hidden, t.depth(), index, t.transformed);
  }

  template <class T>
  static void run(const FusedMBConvTask& t, const Block& b, const T*, const float* bias,
                  float* scratch, float* expanded) {
    const T* image = static_cast<const T*>(t.input) + b.image * t.input_strides.image;
    Position at = position(t, b, 0);
    for (int64_t i = 0; i < b.tiles; ++i) {
      gather_row(t, image, at, scratch + i * t.depth());
      if (++at.x == t.out_width) at = {at.y + 1, 0};
    }
    multiply_rows(scratch, b.tiles, t.depth(), t.transformed, t.hidden, bias, t.activation,
                  expanded);
  }
};

}  // namespace EFFKERN_ISA
}  // namespace effkern

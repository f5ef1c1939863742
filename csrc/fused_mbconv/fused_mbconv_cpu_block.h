// What surrounds the dense convolution of a block of pixels; part of fused_mbconv_cpu_isa.h.
namespace effkern {
namespace EFFKERN_ISA {

// Tiles [first, first + tiles) of an image; a tile is what the convolution computes at once.
struct Block {
  int64_t image, first, tiles;
};

// Of the output.
struct Position {
  int64_t y, x;
};

template <class T>
void widen_bias(const void* bias, int64_t count, float* out) {
  const T* from = static_cast<const T*>(bias);
  for (int64_t c = 0; c < count; ++c) out[c] = from ? to_acc(from[c]) : 0.0f;
}

// Panel `index` of a matrix with rows of `depth` adjacent elements; a last panel of at most kLane
// rows is half as wide.
template <class T>
void pack_rows(const void* matrix, int64_t stride, int64_t rows, int64_t depth, int64_t index,
               float* packed) {
  const int64_t first = index * kPanel, count = min64(kPanel, rows - first);
  const T* from = static_cast<const T*>(matrix) + first * stride;
  float* to = packed + first * depth;
  if (count <= kLane) return pack_panel<T, 1>(from, stride, count, depth, nullptr, to);
  pack_panel<T, kPanelVectors>(from, stride, count, depth, nullptr, to);
}

// `pixels` rows of `depth` numbers times such panels: `channels` channels, bias and activation, to
// rows of `channels`.
inline void multiply_rows(const float* rows, int64_t pixels, int64_t depth, const float* packed,
                          int64_t channels, const float* bias, Activation activation, float* out) {
  for (int64_t c = 0; c < channels; c += kPanel) {
    const int64_t count = min64(kPanel, channels - c);
    const Epilogue<float> e{nullptr, bias + c, nullptr, 0, out + c, channels, count, activation};
    const float* panel = packed + c * depth;
    if (count <= kLane) {
      pointwise_block<kNarrowTilePixels, 1>(rows, depth, panel, depth, e, pixels);
    } else {
      pointwise_block<kTilePixels, kPanelVectors>(rows, depth, panel, depth, e, pixels);
    }
  }
}

// Rows of the block to their pixels, and the residual; kRows of each tile.
template <class T, class Convolution>
void store_pixels(const FusedMBConvTask& t, const Block& b, const float* rows) {
  const FusedMBConvTask::Strides &so = t.output_strides, &sr = t.residual_strides;
  for (int64_t i = 0; i < b.tiles * Convolution::kRows; ++i, rows += t.out_channels) {
    const Position at = Convolution::position(t, b, i);
    if (at.y >= t.out_height || at.x >= t.out_width) continue;
    T* out = static_cast<T*>(t.output) + b.image * so.image + at.y * so.row + at.x * so.pixel;
    const T* added = static_cast<const T*>(t.residual);
    if (added) added += b.image * sr.image + at.y * sr.row + at.x * sr.pixel;
    for (int64_t c = 0; c < t.out_channels; c += kLane) {
      const int64_t n = min64(kLane, t.out_channels - c);
      Vec<float> v = load_upto(rows + c, n);
      if (added) v += load_upto(added + c, n);
      store_upto(out + c, v, n);
    }
  }
}

// In the order in which they lie in a thread's memory; `own` is the convolution's.
struct Scratch {
  int64_t zeros, bias, project_bias, own, expanded, rows, end;
};
template <class Convolution>
Scratch scratch_of(const FusedMBConvTask& t) {
  const int64_t rows = Convolution::kRows * t.block_tiles;
  Scratch s;
  s.zeros = 0;
  s.bias = s.zeros + t.in_channels + kLane;
  s.project_bias = s.bias + t.hidden + kPanel;
  s.own = s.project_bias + t.out_channels + kPanel;
  s.expanded = s.own + Convolution::scratch(t);
  s.rows = s.expanded + rows * t.hidden;
  s.end = s.rows + (t.project_weight ? rows * t.out_channels : 0) + kLane;
  return s;
}

template <class T, class Convolution>
void run_blocks(const FusedMBConvTask& t, int64_t begin, int64_t end, float* scratch) {
  const Scratch s = scratch_of<Convolution>(t);
  T* zeros = reinterpret_cast<T*>(scratch + s.zeros);
  memset(zeros, 0, static_cast<size_t>(t.in_channels) * sizeof(T));
  float *bias = scratch + s.bias, *project_bias = scratch + s.project_bias;
  widen_bias<T>(t.bias, t.hidden, bias);
  widen_bias<T>(t.project_bias, t.out_channels, project_bias);
  float *expanded = scratch + s.expanded, *rows = t.project_weight ? scratch + s.rows : expanded;
  const int64_t blocks = (t.tiles() + t.block_tiles - 1) / t.block_tiles;
  for (int64_t index = begin; index < end; ++index) {
    Block b{index / blocks, index % blocks * t.block_tiles, 0};
    b.tiles = min64(t.block_tiles, t.tiles() - b.first);
    Convolution::template run<T>(t, b, zeros, bias, scratch + s.own, expanded);
    if (t.project_weight) {
      multiply_rows(expanded, b.tiles * Convolution::kRows, t.hidden, t.projection, t.out_channels,
                    project_bias, Activation::kNone, rows);
    }
    store_pixels<T, Convolution>(t, b, rows);
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern

// Forward and input gradient: pack a block of the source, run the register tiles over it, finish.
// Included after the tile, pack, weights and output headers, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

template <class T, bool kChannels>
class Stencil {
  using A = Acc<T>;
  static constexpr int L = kLanes<A>;
  // Elements of the packed source per pixel, and channels per vector.
  static constexpr int E = kChannels ? L : 1;

 public:
  Stencil(const StencilTask& task, void* scratch) : t_(task), sums_(task) {
    taps_ = t_.pair_begin[t_.rows.phases * t_.cols.phases];
    const int64_t subs = ceil_div(t_.plan.block_channels, E);
    weights_ = static_cast<A*>(scratch);
    // Weights are packed in whole vectors of taps.
    bias_ = weights_ + subs * (taps_ + L) * E;
    rows_ = bias_ + subs * L;
    packed_ = rows_ + row_buffers(t_.cols.phases) * kTileRowsBound * kTileColsBound * L;
    // The plan has no room for it where the channels of the output are adjacent.
    staged_ = kChannels && t_.plan.kernel == Kernel::kCpuTransposed && t_.output_strides.c != 1;
    stage_ = packed_ + ceil_div(t_.plan.block_channels, E) * t_.planes * t_.plane;
    const bool clamps = t_.activation == Activation::kNone || t_.activation == Activation::kReLU ||
                        t_.activation == Activation::kReLU6;
    lo_ = t_.activation == Activation::kNone ? -A(__builtin_inf()) : A(0);
    hi_ = t_.activation == Activation::kReLU6 ? A(6) : A(__builtin_inf());
    if (!clamps || t_.grad) lo_ = -A(__builtin_inf()), hi_ = A(__builtin_inf());
    direct_ = clamps && !t_.grad && sizeof(T) == sizeof(A);
    epilogue_ = !clamps && !t_.grad;
    dense_ = kChannels && meets_all_columns();
  }

  // Units: channel groups x images x row blocks.
  void run(int64_t begin, int64_t end) {
    const int64_t blocks = ceil_div(max_count(t_.rows), t_.plan.block_rows);
    const int64_t groups = ceil_div(t_.channels, t_.plan.block_channels);
    const bool innermost = t_.plan.channels_innermost;
    int64_t block = innermost ? begin / groups % blocks : begin % blocks;
    int64_t n = innermost ? begin / groups / blocks : begin / blocks % t_.batch;
    int64_t group = innermost ? begin % groups : begin / blocks / t_.batch;
    int64_t packed_channel = -1;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = group * t_.plan.block_channels;
      const int64_t count = min64(t_.plan.block_channels, t_.channels - first);
      if (first != packed_channel) {
        for (int64_t sub = 0; sub * E < count; ++sub) {
          const int64_t channel = first + sub * E;
          pack_weights<T, kChannels>(t_, channel, lanes_of(channel), taps_,
                                     weights_ + sub * (taps_ + L) * E, bias_ + sub * L);
        }
        packed_channel = first;
      }
      sums_.start(n, block, first, count);
      const int64_t cols = max_count(t_.cols);
      for (int64_t col = 0; col < cols; col += t_.plan.block_cols) {
        run_block(n, first, count, block * t_.plan.block_rows, col);
        sums_.add(block * t_.plan.block_rows, t_.plan.block_rows, col, t_.plan.block_cols);
      }
      if (innermost) {
        if (++group == groups) group = 0, ++block;
        if (block == blocks) block = 0, ++n;
      } else {
        if (++block == blocks) block = 0, ++n;
        if (n == t_.batch) n = 0, ++group;
      }
    }
  }

 private:
  static int64_t max_count(const StencilAxis& axis) { return axis.count(0); }
  // Whether each column of the output meets each one of the image, with a tap for each distance
  // between two of them. Narrower images have too few sums to hide the latency of their additions.
  bool meets_all_columns() const {
    const StencilAxis& cols = t_.cols;
    const int64_t taps = cols.begin[1] - cols.begin[0],
                  span = cols.max_distance - cols.min_distance;
    return t_.rows.phases == 1 && cols.phases == 1 && cols.step == 1 && t_.planes == 1 &&
           span == taps - 1 && cols.source_size == cols.out_size && cols.out_size >= 4 &&
           cols.out_size <= kMaxCols && cols.out_size <= t_.plan.block_cols &&
           -cols.min_distance >= cols.out_size - 1 && cols.max_distance >= cols.out_size - 1;
  }
  // The tile of a row of `width` vectors.
  auto tile_of(int64_t width, int64_t rows) const {
    if constexpr (kChannels) {
      if (dense_) return kDenseTiles<A>.run[width - 1][rows - 1];
    }
    return kStencilTiles<A, !kChannels>.run[width - 1][rows - 1];
  }
  int64_t row_span() const { return t_.rows.max_distance - t_.rows.min_distance; }
  int64_t row_pitch() const { return t_.cols.step * t_.plan.pitch * E; }
  StencilOutput<T> output() const { return StencilOutput<T>(t_, rows_, epilogue_); }
  int lanes_of(int64_t channel) const {
    return kChannels ? static_cast<int>(min64(L, t_.channels - channel)) : 1;
  }

  void pack_source(int64_t n, int64_t channel, int64_t count, const PackBlock& block) {
    const Strides4& s = t_.source_strides;
    const T* image = static_cast<const T*>(t_.source) + n * s.n;
    const int64_t divide = t_.divide, planes = t_.planes;
    for (int64_t m = 0; m < planes; ++m) {
      A* dst = packed_ + m * t_.plane;
      if constexpr (kChannels) {
        pack_channel_group<T>(
            dst, planes * t_.plane, image, s.c, channel, count, divide == 1 && planes == 1,
            [=](int64_t c) { return floor_div(c, divide) * planes + m; }, block);
      } else {
        pack_rows<T>(dst, image + (floor_div(channel, divide) * planes + m) * s.c, block);
      }
    }
    if (t_.has_prologue) {
      for (int64_t sub = 0; sub * E < count; ++sub) {
        const int64_t first = channel + sub * E;
        apply_prologue<A, E>(t_, packed_ + sub * t_.plane, first, lanes_of(first), block);
      }
    }
  }

  void run_block(int64_t n, int64_t channel, int64_t count, int64_t row0, int64_t col0) {
    const int64_t rows = min64(t_.plan.block_rows, max_count(t_.rows) - row0);
    const int64_t cols = min64(t_.plan.block_cols, max_count(t_.cols) - col0);
    const int64_t first_col =
        col0 * t_.cols.step + floor_div(t_.cols.min_distance, t_.cols.step) * t_.cols.step;
    PackBlock block{row0 * t_.rows.step + t_.rows.min_distance,
                    (rows - 1) * t_.rows.step + 1 + row_span(),
                    first_col,
                    t_.cols.step,
                    t_.plan.pitch,
                    t_.rows.source_size,
                    t_.cols.source_size,
                    t_.source_strides.h,
                    t_.source_strides.w,
                    false};
    // The same number of channels, so that no vector is new.
    block.clean = count == packed_count_ && block.same_borders(packed_block_);
    packed_count_ = count;
    packed_block_ = block;
    pack_source(n, channel, count, block);
    const int64_t vectors = kChannels ? cols : ceil_div(cols, L);
    const int64_t tiles = vectors <= kMaxCols ? 1 : ceil_div(vectors, kMaxCols);
    const int widest = static_cast<int>(ceil_div(vectors, tiles));
    // So many tiles are one vector narrower than the others.
    const int64_t narrower = tiles * widest - vectors;
    const int64_t step = dense_ ? max_dense_rows(widest) : max_tile_rows(widest);
    if constexpr (kChannels) {
      if (staged_) return run_staged(n, channel, count, row0, rows, col0, cols, step, widest);
    }
    const Strides4& s = t_.output_strides;
    // A tile may write whole vectors over the end of a row where the next row is written later.
    const bool dense_rows =
        s.w == 1 && s.h == cols && cols == t_.cols.out_size && (tiles == 1 || step == 1);
    const bool whole =
        kChannels ? count % L == 0 && s.c == 1 : dense_rows || (cols % L == 0 && s.w == 1);
    if (direct_ && whole && t_.rows.phases == 1 && t_.cols.phases == 1) {
      A* out = static_cast<A*>(t_.output) + n * s.n + channel * s.c + row0 * s.h + col0 * s.w;
      return run_direct(out, count, row0, rows, cols, step, tiles, widest, narrower);
    }
    for (int64_t row = 0; row < rows; row += step) {
      int64_t v1 = 0;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t v0 = v1;
        v1 += widest - (tile < narrower ? 1 : 0);
        const A* source = packed_ + row * t_.rows.step * row_pitch() + v0 * L;
        // Vectors of channels that share cache lines are finished one right after the other.
        for (int64_t sub = 0; sub * E < count; ++sub, source += t_.planes * t_.plane) {
          Region<A> region{n,
                           channel + sub * E,
                           row0 + row,
                           min64(step, rows - row),
                           col0 + v0 * (kChannels ? 1 : L),
                           0,
                           static_cast<int>(v1 - v0),
                           weights_ + sub * (taps_ + L) * E,
                           bias_ + sub * L};
          for (int64_t a = 0; a < t_.rows.phases; ++a) {
            region.tile_rows = static_cast<int>(min64(region.rows, t_.rows.count(a) - region.row));
            if (region.tile_rows > 0) run_phases(region, a, source);
          }
        }
      }
    }
  }

  // A block whose tiles write the output themselves: nothing is done per tile but its addresses.
  void run_direct(A* out, int64_t count, int64_t row0, int64_t rows, int64_t cols, int64_t step,
                  int64_t tiles, int64_t widest, int64_t narrower) {
    TileArgs<A> args;
    args.source_row = t_.rows.step * row_pitch();
    args.lo = lo_;
    args.hi = hi_;
    args.out_row = t_.output_strides.h;
    args.out_col = kChannels ? t_.output_strides.w : L;
    args.row_taps = t_.cols.begin[1];
    args.first_tap = -t_.cols.min_distance;
    const int64_t source_sub = t_.planes * t_.plane, weight_sub = (taps_ + L) * E;
    for (int64_t row = 0; row < rows; row += step) {
      const int64_t tile_rows = min64(step, rows - row);
      int64_t first, last;
      tap_rows(0, row0 + row, tile_rows, &first, &last);
      const int64_t per_row = t_.cols.begin[1] * t_.planes, entry = first * per_row;
      args.offsets = t_.tap_offset + entry;
      args.taps = (last - first) * per_row;
      const A* source = packed_ + row * args.source_row;
      A* pixel = out + row * t_.output_strides.h;
      // What the last vector of a row writes too much must fall into rows that are still to come.
      const int64_t excess = kChannels ? 0 : (L - cols % L) % L;
      const bool buffered = excess > (rows - row - tile_rows) * cols;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t width = widest - (tile < narrower ? 1 : 0);
        if (buffered && tile == tiles - 1) {
          args.source = source;
          args.weights = weights_ + entry;
          args.bias = bias_;
          run_buffered(args, tile_rows, width, pixel, width * L - excess);
          break;
        }
        const auto run = tile_of(width, tile_rows);
        args.source = source;
        args.weights = weights_ + entry * E;
        args.bias = bias_;
        args.out = pixel;
        // Vectors of channels that share cache lines are finished one right after the other.
        for (int64_t channels = count; channels > 0; channels -= E) {
          run(args);
          args.source += source_sub;
          args.weights += weight_sub;
          args.bias += L;
          args.out += E;
        }
        source += width * L;
        pixel += width * args.out_col;
      }
    }
  }

  // A block of planes: its tiles write vectors of channels, which are transposed on their way out.
  void run_staged(int64_t n, int64_t channel, int64_t count, int64_t row0, int64_t rows,
                  int64_t col0, int64_t cols, int64_t step, int64_t widest) {
    const int64_t row_phases = t_.rows.phases, col_phases = t_.cols.phases;
    const int64_t pitch = cols * col_phases * L;
    const A* source = packed_;
    const A* weights = weights_;
    const A* bias = bias_;
    for (; count > 0; count -= L, channel += L) {
      for (int64_t a = 0; a < row_phases; ++a) {
        const int64_t rows_a = min64(rows, t_.rows.count(a) - row0);
        for (int64_t b = 0; b < col_phases; ++b) {
          const int64_t cols_b = min64(cols, t_.cols.count(b) - col0);
          for (int64_t row = 0; row < rows_a; row += step) {
            Region<A> region{n, channel, row0 + row, 0, 0, 0, 0, weights, bias};
            region.tile_rows = static_cast<int>(min64(step, rows_a - row));
            TileArgs<A> args = tile_args(region, a, b, source + row * t_.rows.step * row_pitch());
            args.out = stage_ + (row * row_phases + a) * pitch + b * L;
            args.out_row = row_phases * pitch;
            args.out_col = col_phases * L;
            for (int64_t col = 0; col < cols_b; col += widest) {
              const int64_t width = min64(widest, cols_b - col);
              tile_of(width, region.tile_rows)(args);
              args.source += width * L;
              args.out += width * args.out_col;
            }
          }
        }
      }
      const int64_t out_row = row0 * row_phases, out_col = col0 * col_phases;
      output().store_planes(stage_, pitch, n, channel, static_cast<int>(min64(count, L)), out_row,
                            min64(rows * row_phases, t_.rows.out_size - out_row), out_col,
                            min64(cols * col_phases, t_.cols.out_size - out_col));
      source += t_.planes * t_.plane;
      weights += (taps_ + L) * E;
      bias += L;
    }
  }

  // A tile of rows whose last vectors would run over the end of the block.
  void run_buffered(TileArgs<A> args, int64_t rows, int64_t width, A* out, int64_t count) {
    args.out = rows_;
    args.out_row = kMaxCols * L;
    args.out_col = L;
    kStencilTiles<A, !kChannels>.run[width - 1][rows - 1](args);
    for (int64_t r = 0; r < rows; ++r) {
      narrow_row(out + r * t_.output_strides.h, rows_ + r * kMaxCols * L, count);
    }
  }

  // Kernel rows [first, last) of a phase, without those that meet only padding for all of `count`
  // output rows.
  void tap_rows(int64_t phase, int64_t row, int64_t count, int64_t* first, int64_t* last) const {
    const StencilAxis& rows = t_.rows;
    int64_t i = rows.begin[phase], j = rows.begin[phase + 1];
    const int64_t top = row * rows.step, bottom = (row + count - 1) * rows.step;
    while (i < j && bottom + rows.distance[i] < 0) ++i;
    while (i < j && top + rows.distance[j - 1] >= rows.source_size) --j;
    *first = i;
    *last = j;
  }

  // One row phase of a region: all its column phases.
  void run_phases(const Region<A>& region, int64_t a, const A* source) {
    const Strides4& s = t_.output_strides;
    T* out = static_cast<T*>(t_.output) + region.n * s.n + region.channel * s.c +
             (a + region.row * t_.rows.phases) * s.h;
    for (int64_t b = 0; b < t_.cols.phases; ++b) {
      const int64_t count = t_.cols.count(b) - region.col;
      if (count <= 0) continue;
      // In channels mode a shorter phase takes a narrower tile; rows drop what is too much.
      const int cols =
          kChannels ? static_cast<int>(min64(region.tile_cols, count)) : region.tile_cols;
      T* pixel = out + (b + region.col * t_.cols.phases) * s.w;
      const bool whole = kChannels ? lanes_of(region.channel) == L && s.c == 1
                                   : count >= int64_t{cols} * L && s.w == 1 && t_.cols.phases == 1;
      TileArgs<A> args = tile_args(region, a, b, source);
      if (direct_ && whole) {
        args.out = reinterpret_cast<A*>(pixel);
        args.out_row = t_.rows.phases * s.h;
        args.out_col = kChannels ? t_.cols.phases * s.w : L;
      } else {
        args.out = rows_ + (kChannels ? 0 : b) * kMaxRows * kMaxCols * L;
        args.out_row = kMaxCols * L;
        args.out_col = L;
      }
      tile_of(cols, region.tile_rows)(args);
      if (direct_ && whole) continue;
      if constexpr (kChannels) output().store_channels(region, a, b, cols, pixel);
    }
    if (kChannels) return;
    const int64_t left = t_.cols.out_size - region.col * t_.cols.phases;
    const int64_t n = min64(int64_t{region.tile_cols} * L * t_.cols.phases, left);
    const bool stored =
        direct_ && s.w == 1 && t_.cols.phases == 1 && left >= int64_t{region.tile_cols} * L;
    if (!stored) output().store_rows(region, a, n, out + region.col * t_.cols.phases * s.w);
  }

  TileArgs<A> tile_args(const Region<A>& region, int64_t a, int64_t b, const A* source) const {
    const StencilAxis &rows = t_.rows, &cols = t_.cols;
    int64_t first, last;
    tap_rows(a, region.row, region.tile_rows, &first, &last);
    const int64_t per_row = (cols.begin[b + 1] - cols.begin[b]) * t_.planes;
    const int64_t entry = t_.pair_begin[a * cols.phases + b] + (first - rows.begin[a]) * per_row;
    TileArgs<A> args;
    args.source = source;
    args.source_row = rows.step * row_pitch();
    args.offsets = t_.tap_offset + entry;
    args.weights = region.weights + entry * E;
    args.taps = (last - first) * per_row;
    args.bias = region.bias;
    args.lo = lo_;
    args.hi = hi_;
    args.row_taps = per_row;
    args.first_tap = -cols.min_distance;
    return args;
  }

  const StencilTask& t_;
  OutputSums<T> sums_;
  int64_t taps_;
  int64_t packed_count_ = 0;
  PackBlock packed_block_{};
  A *weights_, *bias_, *rows_, *packed_, *stage_;
  A lo_, hi_;
  bool direct_, epilogue_, staged_, dense_;
};

template <class T>
void run_stencil(const StencilTask& task, int64_t begin, int64_t end, void* scratch) {
#if EFFKERN_VECTOR > 16
  if constexpr (sizeof(T) < 8) {
    if (task.plan.kernel == Kernel::kCpuDirectRows)
      return run_direct_rows<T>(task, begin, end, scratch);
    if (task.plan.kernel == Kernel::kCpuDirectChannels)
      return run_direct_channels<T>(task, begin, end, scratch);
  }
#endif
  if (task.plan.kernel != Kernel::kCpuRows) {
    Stencil<T, true>(task, scratch).run(begin, end);
  } else {
    Stencil<T, false>(task, scratch).run(begin, end);
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern

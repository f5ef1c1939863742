// Weight and bias gradient of any problem: packed blocks of input and grad_output, one pass over
// them, partial sums per work unit.
// Included after the tile, pack and weight gradient's output headers, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

EFFKERN_INLINE int64_t gcd64(int64_t a, int64_t b) {
  while (b) {
    const int64_t r = a % b;
    a = b;
    b = r;
  }
  return a;
}

template <class T, bool kChannels>
class WeightGrad {
  using A = Acc<T>;
  static constexpr int L = kLanes<A>;
  static constexpr int E = kChannels ? L : 1;

 public:
  WeightGrad(const WeightGradTask& task, void* scratch)
      : t_(task), p_(task.problem), output_(task) {
    // Lanes that are channels need no phases: neighbouring pixels need not be adjacent.
    phases_ = kChannels ? 1 : p_.stride_w;
    multiplier_ = p_.multiplier();
    out_height_ = p_.out_height();
    out_width_ = p_.out_width();
    partials_ = static_cast<A*>(scratch);
    // One more tap for the bias.
    size_ = (p_.taps() + 1) * L;
    chain_ = t_.plan.kernel == Kernel::kCpuTransposed ? kPlanesChainLength : kChainLength;
    grad_ = partials_ + size_ * ceil_div(t_.plan.block_channels, E);
    grad_pitch_ = kChannels ? t_.plan.block_cols : (t_.plan.block_cols + L - 1) / L * L;
    grad_sub_ = t_.plan.block_rows * grad_pitch_ * E;
    source_ = grad_ + ceil_div(t_.plan.block_channels, E) * grad_sub_;
  }

  void run(int64_t begin, int64_t end) {
    const int64_t splits = t_.plan.splits;
    const int64_t row_blocks = ceil_div(out_height_, t_.plan.block_rows);
    const int64_t items = p_.batch * row_blocks;
    int64_t split = begin % splits, group = begin / splits;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = group * t_.plan.block_channels;
      const int64_t last = min64(first + t_.plan.block_channels, p_.out_channels);
      zero(partials_, size_ * ceil_div(last - first, E));
      const int64_t first_item = items * split / splits, end_item = items * (split + 1) / splits;
      int64_t n = first_item / row_blocks, block = first_item % row_blocks;
      for (int64_t item = first_item; item < end_item; ++item) {
        const int64_t row = block * t_.plan.block_rows;
        for (int64_t col = 0; col < out_width_; col += t_.plan.block_cols) {
          add_block(first, last - first, n, row, col);
        }
        if (++block == row_blocks) block = 0, ++n;
      }
      partial_ = partials_;
      for (int64_t channel = first; channel < last; channel += E, partial_ += size_) {
        output_.write(partial_, channel, lanes_of(channel), split);
      }
      if (++split == splits) split = 0, ++group;
    }
  }

 private:
  int lanes_of(int64_t channel) const {
    return kChannels ? static_cast<int>(min64(L, p_.out_channels - channel)) : 1;
  }

  template <class SourceChannel>
  void pack(A* dst, int64_t sub, const T* image, int64_t channel, int64_t count,
            const PackBlock& block, int64_t stride_c, bool identity, SourceChannel source_channel) {
    if constexpr (kChannels) {
      pack_channel_group<T>(dst, sub, image, stride_c, channel, count, identity, source_channel,
                            block);
    } else {
      pack_rows<T>(dst, image + source_channel(channel) * stride_c, block);
    }
  }

  void add_block(int64_t channel, int64_t count, int64_t n, int64_t row, int64_t col) {
    const int64_t rows = min64(t_.plan.block_rows, out_height_ - row);
    const int64_t cols = min64(t_.plan.block_cols, out_width_ - col);
    const Strides4 &xs = t_.input_strides, &gs = t_.grad_strides;
    const int64_t multiplier = multiplier_;
    PackBlock grad_block{row, rows, col, 1, grad_pitch_, row + rows, col + cols, gs.h, gs.w, false};
    // Whatever the number of channels: vectors that are not there now were packed with the same
    // borders.
    grad_block.clean = grad_block.same_borders(packed_) && count <= packed_count_;
    pack(grad_, grad_sub_, static_cast<const T*>(t_.grad) + n * gs.n, channel, count, grad_block,
         gs.c, true, [](int64_t o) { return o; });
    const int64_t source_rows = (rows - 1) * p_.stride_h + (p_.kernel_h - 1) * p_.dilation_h + 1;
    const int64_t source_sub = source_rows * phases_ * t_.plan.pitch * E;
    if (t_.grad_weight) {
      PackBlock source_block{row * p_.stride_h - p_.pad_top,
                             source_rows,
                             col * p_.stride_w - p_.pad_left,
                             phases_,
                             t_.plan.pitch,
                             p_.height,
                             p_.width,
                             xs.h,
                             xs.w,
                             grad_block.clean};
      pack(source_, source_sub, static_cast<const T*>(t_.input) + n * xs.n, channel, count,
           source_block, xs.c, multiplier == 1,
           [=](int64_t o) { return floor_div(o, multiplier); });
    }
    packed_ = grad_block;
    packed_count_ = count;
    A *const grad = grad_, *const source = source_;
    partial_ = partials_;
    for (int64_t sub = 0; sub * E < count; ++sub, partial_ += size_) {
      if (t_.grad_weight) add_taps(row, rows, cols);
      if (t_.grad_bias) add_bias(rows, cols);
      grad_ += grad_sub_;
      source_ += source_sub;
    }
    grad_ = grad;
    source_ = source;
  }

  // All taps of the packed block. Taps of one kernel row whose distance is a multiple of the stride
  // form a group with a constant step.
  void add_taps(int64_t row, int64_t rows, int64_t cols) {
    const int64_t groups = phases_ == 1 ? 1 : p_.stride_w / gcd64(p_.stride_w, p_.dilation_w);
    for (int64_t group = 0; group < groups && group < p_.kernel_w; ++group) {
      const int64_t taps = ceil_div(p_.kernel_w - group, groups);
      const int64_t chunks = taps <= kMaxCols ? 1 : ceil_div(taps, kMaxCols);
      const int64_t widest = ceil_div(taps, chunks), narrower = chunks * widest - taps;
      int64_t v1 = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t v0 = v1;
        v1 += widest - (chunk < narrower ? 1 : 0);
        const int64_t step = max_tile_rows(static_cast<int>(v1 - v0));
        for (int64_t i = 0; i < p_.kernel_h; i += step) {
          add_tile(row, rows, cols, i, min64(step, p_.kernel_h - i), group, groups, v0, v1 - v0);
        }
      }
    }
  }

  void add_tile(int64_t row, int64_t rows, int64_t cols, int64_t i, int64_t tap_rows, int64_t group,
                int64_t groups, int64_t v0, int64_t tap_cols) {
    // Output rows for which all these kernel rows fall into the padding add nothing.
    const int64_t top = p_.pad_top - (i + tap_rows - 1) * p_.dilation_h;
    const int64_t bottom = p_.height - 1 + p_.pad_top - i * p_.dilation_h;
    const int64_t y0 = max64(ceil_div(top, p_.stride_h), row) - row;
    const int64_t y1 = min64(floor_div(bottom, p_.stride_h) + 1, row + rows) - row;
    if (y0 >= y1) return;
    const int64_t row_pitch = phases_ * t_.plan.pitch * E;
    // Columns, as (phase, index) in the packed row.
    const int64_t first = group * p_.dilation_w;
    const int64_t tap_step = phases_ == 1 ? p_.dilation_w : p_.dilation_w * groups / phases_;
    const int64_t index = floor_div(first, phases_), phase = first - index * phases_;
    const int64_t col = phase * t_.plan.pitch + index + v0 * tap_step;
    GradTileArgs<A> args;
    args.source = source_ + (y0 * p_.stride_h + i * p_.dilation_h) * row_pitch + col * E;
    args.grad = grad_ + y0 * grad_pitch_ * E;
    args.source_row = p_.stride_h * row_pitch;
    args.source_col = kChannels ? p_.stride_w * L : L;
    args.grad_row = grad_pitch_ * E;
    args.cols = kChannels ? cols : cols / L;
    args.tail = kChannels ? 0 : static_cast<int>(cols % L);
    args.tap_row = p_.dilation_h * row_pitch;
    args.tap_col = tap_step * E;
    args.out = partial_ + (i * p_.kernel_w + group + groups * v0) * L;
    args.out_row = p_.kernel_w * L;
    args.out_col = groups * L;
    const int64_t chunk = max64(1, chain_ / (args.cols + 1));
    for (int64_t y = y0; y < y1; y += chunk) {
      args.rows = min64(chunk, y1 - y);
      kGradTiles<A>.run[tap_cols - 1][tap_rows - 1](args);
      args.source += chunk * args.source_row;
      args.grad += chunk * args.grad_row;
    }
  }

  void add_bias(int64_t rows, int64_t cols) {
    // Sums of rows, each of eight chains: shorter chains lose less.
    constexpr int kChains = 8;
    A* out = partial_ + p_.taps() * L;
    const int64_t vectors = kChannels ? cols : ceil_div(cols, L);
    Vec<A> total{};
    for (int64_t y = 0; y < rows; ++y) {
      const A* p = grad_ + y * grad_pitch_ * E;
      Vec<A> sums[kChains] = {};
      int64_t x = 0;
      for (; x + kChains <= vectors; x += kChains) {
        for (int i = 0; i < kChains; ++i) sums[i] += load_acc(p + (x + i) * L);
      }
      for (int i = 0; x + i < vectors; ++i) sums[i] += load_acc(p + (x + i) * L);
      total +=
          ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    }
    store_acc(out, load_acc(out) + total);
  }

  const WeightGradTask& t_;
  const DepthwiseConv2dProblem& p_;
  WeightGradOutput<T, kChannels> output_;
  int64_t phases_, multiplier_, out_height_, out_width_, size_, chain_, grad_pitch_, grad_sub_;
  int64_t packed_count_ = 0;
  PackBlock packed_{};
  A *partials_, *partial_, *grad_, *source_;
};

template <class T>
void run_weight_grad(const WeightGradTask& task, int64_t begin, int64_t end, void* scratch) {
#if EFFKERN_VECTOR > 16
  if constexpr (sizeof(T) < 8) {
    if (task.plan.kernel == Kernel::kCpuDirectRows) {
      return run_direct_rows_wgrad<T>(task, begin, end, scratch);
    }
    if (task.plan.kernel == Kernel::kCpuDirectChannels) {
      return run_direct_channels_wgrad<T>(task, begin, end, scratch);
    }
  }
#endif
  if (task.plan.kernel != Kernel::kCpuRows) {
    WeightGrad<T, true>(task, scratch).run(begin, end);
  } else {
    WeightGrad<T, false>(task, scratch).run(begin, end);
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern

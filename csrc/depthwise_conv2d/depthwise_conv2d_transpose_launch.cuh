// Tensor-core kernels on channels_last images: on copies of them as planes, a part of the images or
// channels at a time. Host code.
#pragma once

#include <algorithm>
#include <cstdint>

#include "depthwise_conv2d/depthwise_conv2d_toeplitz_launch.cuh"
#include "depthwise_conv2d/depthwise_conv2d_transpose_kernel.cuh"
#include "depthwise_conv2d/depthwise_conv2d_wgrad_mma_channels_last_launch.cuh"

namespace effkern {

// Of the planes of both tensors at a time, if not even one image, or 32 channels for the weight
// gradient, has more: half of a large GPU's L2 cache, from which the copies are then read.
#ifndef EFFKERN_PLANES_BYTES
#define EFFKERN_PLANES_BYTES (32 << 20)
#endif
inline constexpr int64_t kPlanesBytes = EFFKERN_PLANES_BYTES;
inline constexpr int64_t kPlanesChannels = 32;

namespace detail {

// Elements from row to row of a plane: whole vectors of 8.
inline int64_t plane_pitch(int64_t width) { return ceil_div(width, 8) * 8; }

template <typename T>
int64_t plane_elements(const Image4<T>& image) {
  return image.height * plane_pitch(image.width);
}

// Of two tensors, those that are copied as planes: channels_last ones, where every other has rows.
struct PlaneCopies {
  bool first, second;
  // Bytes of the planes of one channel and image.
  int64_t bytes;

  explicit operator bool() const { return first || second; }
};

template <typename T, typename U>
PlaneCopies choose_plane_copies(const Image4<T>& first, const Image4<U>& second) {
  PlaneCopies copies{!has_int_rows(first), !has_int_rows(second), 0};
  if (copies.first) copies.bytes += 2 * plane_elements(first);
  if (copies.second) copies.bytes += 2 * plane_elements(second);
  const bool served = (!copies.first || has_toeplitz_channels(first)) &&
                      (!copies.second || has_toeplitz_channels(second));
  return served && device_has_capability(80) ? copies : PlaneCopies{};
}

// `items`, of at most `bytes` each, in parts of about the same size and of multiples of `unit`.
inline int64_t choose_plane_part(int64_t items, int64_t bytes, int64_t unit) {
  const int64_t most = std::max(unit, kPlanesBytes / std::max<int64_t>(1, bytes) / unit * unit);
  return std::min(items, ceil_div(ceil_div(items, ceil_div(items, most)), unit) * unit);
}

// The planes of an image at `data`.
template <typename T, typename U>
Image4<T> as_planes(const Image4<U>& image, T* data) {
  const int64_t plane = plane_elements(image);
  return {data,
          image.channels,
          image.height,
          image.width,
          {image.channels * plane, plane, plane_pitch(image.width), 1}};
}

// From a channels_last image to planes, or back.
template <bool kToPlanes, typename T>
cudaError_t launch_transpose(int64_t batch, const Image4<T>& image, const void* from, void* to,
                             cudaStream_t stream) {
  constexpr int kTile = kTransposeTile;
  PlaneCopy copy{};
  copy.from = static_cast<const uint16_t*>(from), copy.to = static_cast<uint16_t*>(to);
  copy.strides = image.strides;
  copy.channels = int(image.channels), copy.width = int(image.width);
  copy.row_units = int(ceil_div(image.width, 8));
  copy.units = int(plane_elements(image) / 8);
  copy.channel_blocks = int(ceil_div(image.channels, kTile));
  copy.unit_blocks = int(ceil_div(copy.units, kTile / 8));
  copy.by_row_units = make_divisor(copy.row_units);
  copy.by_channel_blocks = make_divisor(copy.channel_blocks);
  copy.by_unit_blocks = make_divisor(copy.unit_blocks);
  const int64_t blocks = batch * copy.channel_blocks * copy.unit_blocks;
  if (blocks > kMaxInt) return cudaErrorInvalidConfiguration;
  return launch_kernel<depthwise_conv2d_transpose_kernel<kToPlanes>>(
      grid_of(blocks), dim3(kTransposeThreads), 0, stream, copy);
}

// Of device memory, for launch_toeplitz_or_copies.
template <typename T, typename U>
int64_t stencil_planes_bytes(int64_t batch, int64_t kernel_h, int64_t kernel_w,
                             const Image4<T>& from, const Image4<U>& to) {
  if (batch == 0 || transposes_in_blocks(kernel_h, kernel_w, from, to)) return 0;
  const int64_t image = choose_plane_copies(from, to).bytes * from.channels;
  return choose_plane_part(batch, image, 1) * image;
}

// launch_toeplitz on planes. False if no tensor wants a copy or has one that the kernels take; the
// output is as it was then.
template <typename T, typename Epilogue>
bool launch_toeplitz_by_copies(const DepthwiseImages<T>& images, int kernel_h, int kernel_w,
                               const Image4<const T>& from, const Image4<T>& to,
                               const Epilogue& epilogue, void* workspace, cudaStream_t stream,
                               cudaError_t* error) {
  const PlaneCopies copies = choose_plane_copies(from, to);
  if (!copies || transposes_in_blocks(kernel_h, kernel_w, from, to)) return false;
  const int64_t part = choose_plane_part(images.batch, copies.bytes * from.channels, 1);
  T* const memory = static_cast<T*>(workspace);
  for (int64_t n = 0; n < images.batch; n += part) {
    const int64_t batch = std::min(part, images.batch - n);
    Image4<const T> x = from;
    Image4<T> y = to;
    x.data += n * from.strides.n, y.data += n * to.strides.n;
    const Image4<const T> source = x;
    const Image4<T> result = y;
    if (copies.first) {
      *error = launch_transpose<true>(batch, source, source.data, memory, stream);
      if (*error != cudaSuccess) return true;
      x = as_planes<const T>(source, memory);
      // Zeros are copied with the rest, so that all copies are of 16 bytes.
      x.width = x.strides.h;
    }
    if (copies.second) {
      y = as_planes(result, memory + (copies.first ? batch * x.strides.n : 0));
    }
    DepthwiseImages<T> planes = images;
    planes.batch = int(batch), planes.width = int(x.width);
    planes.input = x.data, planes.input_strides = x.strides;
    planes.output = y.data, planes.output_strides = y.strides;
    if (!launch_toeplitz(planes, kernel_h, kernel_w, x, y, epilogue, stream, error)) return false;
    if (*error != cudaSuccess) return true;
    if (!copies.second) continue;
    *error = launch_transpose<false>(batch, result, y.data, result.data, stream);
    if (*error != cudaSuccess) return true;
  }
  return true;
}

// The tensors themselves, if they can be.
template <typename T, typename Epilogue>
bool launch_toeplitz_or_copies(const DepthwiseImages<T>& images, int kernel_h, int kernel_w,
                               const Image4<const T>& from, const Image4<T>& to,
                               const Epilogue& epilogue, void* workspace, cudaStream_t stream,
                               cudaError_t* error) {
  return launch_toeplitz(images, kernel_h, kernel_w, from, to, epilogue, stream, error) ||
         launch_toeplitz_by_copies(images, kernel_h, kernel_w, from, to, epilogue, workspace,
                                   stream, error);
}

// Of the weight gradient: which tensors are copied.
template <typename T>
PlaneCopies choose_weight_grad_copies(const DepthwiseConv2dProblem& p, const Image4<const T>& x,
                                      const Image4<const T>& dy) {
  const bool copies = copies_for_weight_grad(p) && !takes_weight_grad_cells(p, x, dy);
  return copies ? choose_plane_copies(x, dy) : PlaneCopies{};
}

// The problem of some of the channels, as planes.
inline DepthwiseConv2dProblem problem_of_planes(DepthwiseConv2dProblem p, int64_t channels) {
  p.layout = Layout::kContiguous;
  p.in_channels = p.out_channels = channels;
  return p;
}

// How many channels the weight gradient takes at a time.
inline int64_t choose_plane_channels(const PlaneCopies& copies, int64_t batch, int64_t channels) {
  return choose_plane_part(channels, copies.bytes * batch, kPlanesChannels);
}

// Calls function(x, dy, first channel, the rest of the workspace) for all channels in turn; an
// error ends it.
template <typename T, typename Function>
cudaError_t with_plane_channels(const PlaneCopies& copies, int64_t batch, const Image4<const T>& x,
                                const Image4<const T>& dy, void* workspace, cudaStream_t stream,
                                Function function) {
  const int64_t part = choose_plane_channels(copies, batch, x.channels);
  for (int64_t first = 0; first < x.channels; first += part) {
    T* memory = static_cast<T*>(workspace);
    Image4<const T> tensors[2] = {x, dy};
    const bool copied[2] = {copies.first, copies.second};
    for (int i = 0; i < 2; ++i) {
      Image4<const T>& one = tensors[i];
      one.data += first * one.strides.c, one.channels = std::min(part, x.channels - first);
      if (!copied[i]) continue;
      const cudaError_t error = launch_transpose<true>(batch, one, one.data, memory, stream);
      if (error != cudaSuccess) return error;
      one = as_planes<const T>(one, memory);
      memory += batch * one.strides.n;
    }
    const cudaError_t error = function(tensors[0], tensors[1], first, memory);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace detail
}  // namespace effkern

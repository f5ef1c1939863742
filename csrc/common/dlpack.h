// DLPack's C structs as far as effkern reads them: tensors of Python objects without their
// library's headers. From dlpack.h 1.3 (https://github.com/dmlc/dlpack), whose layout major version
// 1 fixes.
#pragma once

#include <cstdint>

namespace effkern::dlpack {

constexpr uint32_t kMajorVersion = 1;
constexpr int32_t kCpu = 1;
constexpr uint8_t kFloat = 2, kBFloat = 4;

struct Version {
  uint32_t major, minor;
};
struct Tensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  // Owned by the Python object.
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
// What `__dlpack_c_exchange_api__` of a type points to.
struct ExchangeApi {
  Version version;
  ExchangeApi* previous;
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object;
  void* managed_tensor_to_py_object;
  // Borrows; nonzero with a Python exception set if the object has no such tensor. May be null.
  int (*tensor_from_py_object)(void* object, Tensor* out);
  void* current_work_stream;
};

}  // namespace effkern::dlpack

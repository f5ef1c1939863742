// Launches that are written down instead of run: what a launcher makes of a problem of any size.
#pragma once

#include <cstddef>
#include <vector>

#include "emulation/emulator.h"

namespace effkern::emulation {

// Whether launches are recorded. They are checked like those that run.
bool is_recording();
cudaError_t record_launch(const LaunchShape& shape, const void* kernel,
                          std::vector<unsigned char> parameters);

// Parameters as CUDA lays them out: in order, each at the next multiple of its alignment.
template <typename T>
void append_parameter(std::vector<unsigned char>& bytes, const T& value) {
  bytes.resize((bytes.size() + alignof(T) - 1) / alignof(T) * alignof(T));
  const auto* from = reinterpret_cast<const unsigned char*>(&value);
  bytes.insert(bytes.end(), from, from + sizeof(T));
}

}  // namespace effkern::emulation

// For effkern/testing/launches.py. Recording forgets earlier records; the text, a JSON array, is
// valid until the next call.
extern "C" {
__attribute__((visibility("default"))) void effkern_emulation_record(int on);
__attribute__((visibility("default"))) const char* effkern_emulation_records();
}

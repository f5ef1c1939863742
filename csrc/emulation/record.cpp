#include "emulation/record.h"

#include <sstream>
#include <string>

#include "emulation/machine.h"

namespace {

bool recording = false;
std::ostringstream records;
std::string records_text;

void write(std::ostream& out, const char* name, const dim3& size) {
  out << ", \"" << name << "\": [" << size.x << ", " << size.y << ", " << size.z << ']';
}

}  // namespace

namespace effkern::emulation {

bool is_recording() { return recording; }

cudaError_t record_launch(const LaunchShape& shape, const void* kernel,
                          std::vector<unsigned char> parameters) {
  if (const cudaError_t code = check_launch(shape, kernel); code != cudaSuccess) return code;
  const char* digits = "0123456789abcdef";
  records << (records.tellp() > 0 ? ", " : "") << "{\"kernel\": \"" << kernel_name(kernel) << '"';
  write(records, "grid", shape.grid);
  write(records, "block", shape.block);
  records << ", \"shared_memory\": " << shape.shared << ", \"parameters\": \"";
  for (const unsigned char byte : parameters) records << digits[byte / 16] << digits[byte % 16];
  records << "\"}";
  return cudaSuccess;
}

}  // namespace effkern::emulation

void effkern_emulation_record(int on) {
  recording = on != 0;
  if (recording) records.str("");
}

const char* effkern_emulation_records() {
  records_text = '[' + records.str() + ']';
  return records_text.c_str();
}

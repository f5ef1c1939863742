#include "emulation/emulator.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <numeric>
#include <stdexcept>

#include "emulation/buffers.h"
#include "emulation/counters.h"
#include "emulation/scheduler.h"

namespace effkern::emulation {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kSharedWithoutOptIn = 48 << 10;

std::mutex launch_mutex;
std::map<const void*, size_t> allowed_shared;
thread_local std::string error;

cudaError_t refuse(cudaError_t code, const std::string& message) {
  error = message;
  return code;
}

std::string text(const dim3& d) {
  return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + ")";
}

cudaError_t check_shape(const LaunchShape& s, const void* kernel) {
  const uint64_t threads = uint64_t(s.block.x) * s.block.y * s.block.z;
  const std::string name = kernel_name(kernel) + ": ";
  if (threads == 0 || threads > settings().max_threads || s.block.z > 64) {
    return refuse(cudaErrorInvalidConfiguration, name + "threads per block: wanted 1 to " +
                                                     std::to_string(settings().max_threads) +
                                                     ", at most 64 of them in z, got " +
                                                     text(s.block));
  }
  if (s.grid.x == 0 || s.grid.x > 0x7fffffffu || s.grid.y == 0 || s.grid.y > 65535 ||
      s.grid.z == 0 || s.grid.z > 65535) {
    return refuse(cudaErrorInvalidConfiguration,
                  name + "grid: wanted 1 to (2147483647,65535,65535) blocks, got " + text(s.grid));
  }
  const uint64_t cluster = uint64_t(s.cluster.x) * s.cluster.y * s.cluster.z;
  if (cluster == 0 || cluster > kMaxClusterBlocks || s.grid.x % s.cluster.x != 0 ||
      s.grid.y % s.cluster.y != 0 || s.grid.z % s.cluster.z != 0) {
    return refuse(cudaErrorInvalidConfiguration,
                  name + "cluster: wanted 1 to 8 blocks that divide the grid " + text(s.grid) +
                      ", got " + text(s.cluster));
  }
  const auto allowed = allowed_shared.find(kernel);
  const size_t limit = allowed == allowed_shared.end() ? kSharedWithoutOptIn : allowed->second;
  if (s.shared > limit) {
    return refuse(cudaErrorInvalidValue, name + "dynamic shared memory: wanted at most " +
                                             std::to_string(limit) + " bytes, got " +
                                             std::to_string(s.shared));
  }
  return cudaSuccess;
}

// Every cluster's number once, in the order they run.
std::vector<uint64_t> cluster_order(uint64_t count) {
  std::vector<uint64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  if (settings().order == Order::kReverse) std::reverse(order.begin(), order.end());
  if (settings().order == Order::kRandom) {
    uint64_t state = settings().seed | 1;
    for (uint64_t i = count; i > 1; --i) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      std::swap(order[i - 1], order[(state >> 33) % i]);
    }
  }
  return order;
}

// A signal in a kernel's code becomes a fault: the handler makes the thread continue in
// report_fault.
struct sigaction previous_segv, previous_bus;
void* bad_address;
void* bad_instruction;

[[noreturn]] void report_fault() {
  Dl_info info{};
  char where[200] = "";
  if (dladdr(bad_instruction, &info) && info.dli_fname) {
    const char* slash = std::strrchr(info.dli_fname, '/');
    std::snprintf(where, sizeof where, ", instruction %s+0x%zx", slash ? slash + 1 : info.dli_fname,
                  size_t(static_cast<char*>(bad_instruction) - static_cast<char*>(info.dli_fbase)));
  }
  const Fiber& fiber = current->fiber;
  const char* address = static_cast<char*>(bad_address);
  if (address < fiber.stack && address >= fiber.stack - kPage) {
    fault(current->site,
          "the thread's local variables do not fit the emulator's stack of %zu bytes",
          fiber.stack_size);
  }
  fault({"", 0}, "invalid memory access to %p%s; the thread was last at %s, %s", bad_address, where,
        current->operation, text(current->site).c_str());
}

void on_signal(int signal, siginfo_t* info, void* context) {
  if (current == nullptr || current == &running->scheduler) {
    sigaction(signal, signal == SIGSEGV ? &previous_segv : &previous_bus, nullptr);
    return;
  }
  auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  bad_address = info->si_addr;
  bad_instruction = reinterpret_cast<void*>(registers[REG_RIP]);
  // From the top of the thread's stack, which may be full; as after a call.
  const Fiber& fiber = current->fiber;
  registers[REG_RSP] =
      greg_t(reinterpret_cast<uintptr_t>(fiber.stack + fiber.stack_size - 512) & ~uintptr_t(15)) -
      8;
  registers[REG_RIP] = greg_t(reinterpret_cast<uintptr_t>(&report_fault));
}

// While a kernel runs; the sanitizers have handlers of their own.
class SignalHandlers {
 public:
#if defined(EFFKERN_EMULATION_ASAN) || defined(EFFKERN_EMULATION_TSAN)
  SignalHandlers() {}
  ~SignalHandlers() {}
#else
  SignalHandlers() {
    stack_t stack{};
    stack.ss_sp = stack_;
    stack.ss_size = sizeof stack_;
    sigaltstack(&stack, &previous_stack_);
    struct sigaction action{};
    action.sa_sigaction = &on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &previous_segv);
    sigaction(SIGBUS, &action, &previous_bus);
  }
  ~SignalHandlers() {
    sigaction(SIGSEGV, &previous_segv, nullptr);
    sigaction(SIGBUS, &previous_bus, nullptr);
    sigaltstack(&previous_stack_, nullptr);
  }

 private:
  char stack_[32 << 10];
  stack_t previous_stack_{};
#endif
};

}  // namespace

Settings& settings() {
  static Settings instance = [] {
    Settings s;
    if (const char* order = std::getenv("EFFKERN_EMULATION_ORDER")) s.set_order(order);
    if (const char* most = std::getenv("EFFKERN_EMULATION_MAX_THREADS"))
      s.max_threads = unsigned(std::strtoul(most, nullptr, 10));
    return s;
  }();
  return instance;
}

void Settings::set_order(const std::string& text) {
  const size_t colon = text.find(':');
  const std::string name = text.substr(0, colon);
  if (name == "forward" || name == "reverse") {
    order = name == "forward" ? Order::kForward : Order::kReverse;
  } else if (name == "random") {
    order = Order::kRandom;
    if (colon != std::string::npos) seed = std::strtoull(text.c_str() + colon + 1, nullptr, 10);
  } else {
    throw std::invalid_argument(
        "EFFKERN_EMULATION_ORDER: wanted forward, reverse, random or random:<seed>, got " + text);
  }
}

std::string kernel_name(const void* kernel) {
  Dl_info info{};
  if (!dladdr(kernel, &info) || !info.dli_sname) return "kernel";
  int status;
  char* demangled = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
  std::string name = demangled ? demangled : info.dli_sname;
  std::free(demangled);
  // "void effkern::kernel<...>(parameters)" without what says nothing.
  int depth = 0;
  for (size_t i = 0; i < name.size(); ++i) {
    depth += name[i] == '<';
    depth -= name[i] == '>';
    if (name[i] == '(' && depth == 0) name.resize(i);
  }
  if (name.rfind("void ", 0) == 0) name.erase(0, 5);
  for (size_t at; (at = name.find("effkern::")) != std::string::npos;) name.erase(at, 9);
  return name;
}

const std::string& last_error() { return error; }

cudaError_t allow_shared_memory(const void* kernel, size_t bytes) {
  std::lock_guard<std::mutex> lock(launch_mutex);
  if (bytes > settings().max_shared) {
    return refuse(cudaErrorInvalidValue, kernel_name(kernel) + ": shared memory: wanted at most " +
                                             std::to_string(settings().max_shared) +
                                             " bytes, got " + std::to_string(bytes));
  }
  allowed_shared[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t check_launch(const LaunchShape& shape, const void* kernel) {
  std::lock_guard<std::mutex> lock(launch_mutex);
  error.clear();
  return check_shape(shape, kernel);
}

cudaError_t launch(const LaunchShape& shape, const void* kernel, void (*body)(void*),
                   void* arguments) {
  std::lock_guard<std::mutex> lock(launch_mutex);
  error.clear();
  if (const cudaError_t code = check_shape(shape, kernel); code != cudaSuccess) return code;
  // Kept, with its growing epochs: what an earlier launch did to shared memory is long ago.
  static Group group;
  group.shape = shape;
  group.kernel = kernel;
  group.body = body;
  group.arguments = arguments;
  group.error.clear();
  group.blocks.clear();
  prepare_group(group);
  forget_shared_layout();
  start_buffers();
  if (settings().count)
    start_counting(kernel_name(kernel), uint64_t(group.size) / group.blocks.size());
  running = &group;
  {
    const SignalHandlers handlers;
    const uint64_t clusters =
        uint64_t(shape.grid.x) * shape.grid.y * shape.grid.z / group.blocks.size();
    for (const uint64_t number : cluster_order(clusters)) {
      run_group(group, number);
      if (!group.error.empty()) break;
    }
  }
  running = nullptr;
  if (group.error.empty()) return cudaSuccess;
  return refuse(cudaErrorLaunchFailure, kernel_name(kernel) + ": " + group.error);
}

GuardedMemory::GuardedMemory(size_t bytes, size_t alignment, bool poisoned) : bytes_(bytes) {
#ifdef EFFKERN_EMULATION_ASAN
  if (posix_memalign(&data_, std::max<size_t>(alignment, 16), std::max<size_t>(bytes, 1)))
    throw std::bad_alloc();
#else
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  const size_t pages = (rounded + kPage - 1) / kPage * kPage;
  map_bytes_ = pages + kPage;
  map_ = mmap(nullptr, map_bytes_, PROT_READ | PROT_WRITE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map_ == MAP_FAILED || mprotect(static_cast<char*>(map_) + pages, kPage, PROT_NONE))
    throw std::bad_alloc();
  data_ = static_cast<char*>(map_) + pages - rounded;
#endif
  if (poisoned) std::memset(data_, kPoison, bytes);
}

GuardedMemory::~GuardedMemory() {
  if (map_) {
    munmap(map_, map_bytes_);
  } else {
    std::free(data_);
  }
}

}  // namespace effkern::emulation

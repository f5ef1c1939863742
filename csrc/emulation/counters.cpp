#include "emulation/counters.h"

#include <algorithm>
#include <set>
#include <unordered_map>

namespace effkern::emulation {
namespace {

constexpr size_t kSector = 32, kBankBytes = 4, kBanks = 32;

struct LaneAccess {
  int lane;
  uintptr_t address;
  size_t bytes;
};
enum class Space { kGlobal, kShared };

// One instruction of a warp. The lanes run one after the other here: those that pass the same line
// for the same time are taken for one instruction.
struct Request {
  Space space;
  Access access;
  int rank, warp;
  const char* file;
  int line;
  unsigned pass;

  bool operator==(const Request& o) const {
    return space == o.space && access == o.access && rank == o.rank && warp == o.warp &&
           file == o.file && line == o.line && pass == o.pass;
  }
};
struct Hash {
  size_t operator()(const Request& r) const {
    size_t hash = reinterpret_cast<size_t>(r.file);
    for (const size_t part : {size_t(r.space) * 2 + size_t(r.access), size_t(r.rank),
                              size_t(r.warp), size_t(r.line), size_t(r.pass)}) {
      hash = (hash ^ part) * 0x9E3779B97F4A7C15ull;
      hash ^= hash >> 29;
    }
    return hash;
  }
};

std::vector<KernelCounters> all;
size_t counted = 0;
std::unordered_map<Request, std::vector<LaneAccess>, Hash> requests;
// How often a thread passed a line: `warp` is the thread's number, `pass` is 0.
std::unordered_map<Request, unsigned, Hash> passes;

void add(Space space, uintptr_t address, size_t bytes, Access access, Site site, bool active) {
  const Thread& me = *current;
  Request key{space, access, me.block->rank, me.id, site.file, site.line, 0};
  key.pass = passes[key]++;
  key.warp = me.id / kWarpSize;
  auto& lanes = requests[key];
  if (active) lanes.push_back({me.lane, address, bytes});
}

size_t count_sectors(std::set<uintptr_t>& sectors, const LaneAccess& access) {
  for (uintptr_t s = access.address / kSector; s <= (access.address + access.bytes - 1) / kSector;
       ++s) {
    sectors.insert(s);
  }
  return sectors.size();
}

// A pass serves 32 lanes of 4 bytes, 16 of 8 or 8 of 16, each bank one word, and any number of
// lanes that want the same word.
void count_banks(const std::vector<LaneAccess>& lanes, SharedCounters& counters) {
  const size_t lanes_per_pass = std::min<size_t>(kWarpSize, kBanks * kBankBytes / lanes[0].bytes);
  std::set<uintptr_t> all_words;
  for (size_t first = 0; first < kWarpSize; first += lanes_per_pass) {
    std::set<uintptr_t> words;
    for (const LaneAccess& lane : lanes) {
      if (size_t(lane.lane) < first || size_t(lane.lane) >= first + lanes_per_pass) continue;
      for (size_t byte = 0; byte < lane.bytes; byte += kBankBytes) {
        words.insert((lane.address + byte) / kBankBytes);
      }
    }
    uint64_t load[kBanks] = {};
    for (const uintptr_t word : words) ++load[word % kBanks];
    counters.wavefronts += *std::max_element(load, load + kBanks);
    all_words.insert(words.begin(), words.end());
  }
  counters.min_wavefronts += (all_words.size() + kBanks - 1) / kBanks;
  ++counters.requests;
}

}  // namespace

const std::vector<KernelCounters>& counters() { return all; }
void reset_counters() { all.clear(); }

void start_counting(const std::string& kernel, uint64_t threads_per_block) {
  for (counted = 0; counted < all.size() && all[counted].kernel != kernel; ++counted) {
  }
  if (counted == all.size()) all.emplace_back().kernel = kernel;
  ++all[counted].launches;
  all[counted].threads = threads_per_block;
}

void count_global(const void* address, size_t bytes, Access access, Site site, bool active) {
  add(Space::kGlobal, reinterpret_cast<uintptr_t>(address), bytes, access, site, active);
}

void count_shared(size_t offset, size_t bytes, Access access, Site site) {
  add(Space::kShared, offset, bytes, access, site, true);
}

void count_mma() { ++all[counted].mma; }
void count_matrix_move() { ++all[counted].matrix_moves; }

void finish_counting_group() {
  KernelCounters& total = all[counted];
  total.blocks += running->blocks.size();
  // By block and direction.
  std::set<uintptr_t> unique[kMaxClusterBlocks][2];
  for (const auto& [request, lanes] : requests) {
    if (lanes.empty()) continue;
    const bool reads = request.access == Access::kRead;
    if (request.space == Space::kShared) {
      count_banks(lanes, reads ? total.shared_loads : total.shared_stores);
      continue;
    }
    GlobalCounters& counters = reads ? total.loads : total.stores;
    std::set<uintptr_t> sectors;
    for (const LaneAccess& lane : lanes) {
      count_sectors(sectors, lane);
      count_sectors(unique[request.rank][reads], lane);
      counters.bytes += lane.bytes;
    }
    ++counters.requests;
    counters.sectors += sectors.size();
  }
  for (const auto& block : unique) {
    total.stores.unique_sectors += block[0].size();
    total.loads.unique_sectors += block[1].size();
  }
  requests.clear();
  passes.clear();
}

void write_json(std::ostream& out, const KernelCounters& c) {
  const auto global = [&](const char* name, const GlobalCounters& g) {
    out << ", \"" << name << "\": {\"requests\": " << g.requests << ", \"sectors\": " << g.sectors
        << ", \"unique_sectors\": " << g.unique_sectors << ", \"bytes\": " << g.bytes << '}';
  };
  const auto shared = [&](const char* name, const SharedCounters& s) {
    out << ", \"" << name << "\": {\"requests\": " << s.requests
        << ", \"wavefronts\": " << s.wavefronts << ", \"min_wavefronts\": " << s.min_wavefronts
        << '}';
  };
  out << "{\"kernel\": \"" << c.kernel << "\", \"launches\": " << c.launches
      << ", \"blocks\": " << c.blocks << ", \"threads_per_block\": " << c.threads;
  global("global_loads", c.loads);
  global("global_stores", c.stores);
  shared("shared_loads", c.shared_loads);
  shared("shared_stores", c.shared_stores);
  out << ", \"mma\": " << c.mma << ", \"matrix_moves\": " << c.matrix_moves << '}';
}

}  // namespace effkern::emulation

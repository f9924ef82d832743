#include "ring/least_tiles.h"

#include <algorithm>

namespace ringwise {
namespace {

std::vector<PositionRun> CutRuns(const std::vector<Positions>& all, int64_t length) {
  std::vector<PositionRun> cuts;
  for (const Positions& positions : all) {
    for (const PositionRun& run : positions) {
      for (int64_t begin = 0; begin < run.count; begin += length) {
        cuts.push_back({run[begin], std::min(length, run.count - begin), run.stride});
      }
    }
  }
  return cuts;
}

}  // namespace

int64_t LeastTiles(const Mask& mask, int64_t batch, int64_t heads,
                   const std::vector<Positions>& query_positions,
                   const std::vector<Positions>& key_positions, int64_t tile_queries,
                   int64_t tile_keys) {
  if (tile_queries <= 0 || tile_keys <= 0) return 0;
  const std::vector<PositionRun> key_tiles = CutRuns(key_positions, tile_keys);
  int64_t tiles = 0;
  for (const PositionRun& queries : CutRuns(query_positions, tile_queries)) {
    for (const auto& [plane, copies] : DistinctPlanes(mask, batch, heads)) {
      for (const PositionRun& keys : key_tiles) {
        if (CountVisible(plane, {queries}, {keys}) > 0) tiles += copies;
      }
    }
  }
  return tiles;
}

}  // namespace ringwise

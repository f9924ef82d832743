#include "cli/attention_stats.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "ring/attention_work.h"
#include "ring/least_tiles.h"
#include "ring/row_shards.h"

namespace ringwise {
namespace {

using Json = nlohmann::ordered_json;

Json Tiles(const WholeAttention& whole, const RingAttentionOptions& options,
           const AttentionStats& stats) {
  const int64_t batch = whole.inputs.query.shape[0];
  const int64_t heads = whole.inputs.query.shape[2];
  WholeAttention uncut = whole;
  uncut.layout = uncut.key_layout = Layout::kContiguous;
  const auto least = [&](const RingAttentionOptions& cut) {
    return LeastTiles(whole.mask, batch, heads, cut.query_positions, cut.key_positions,
                      stats.tile_queries, stats.tile_keys);
  };
  return {{"tiles_computed", stats.tiles},
          {"tiles_least", least(options)},
          {"tiles_least_uncut", least(OptionsFor(uncut, 1))},
          {"tile_queries", stats.tile_queries},
          {"tile_keys", stats.tile_keys}};
}

std::vector<int64_t> OfAllRanks(Communicator& ring, int64_t mine) {
  std::vector<int64_t> values;
  for (const auto& bytes : ring.AllGather(std::as_bytes(std::span(&mine, 1)))) {
    std::memcpy(&values.emplace_back(), bytes.data(), sizeof(mine));
  }
  return values;
}

}  // namespace

std::string AttentionStatsJson(Communicator& ring, const WholeAttention& whole,
                               const WholeResults& results, int64_t bytes_sent) {
  const std::vector<int64_t> bytes = OfAllRanks(ring, bytes_sent);
  if (ring.rank() != 0) return "";
  const RingAttentionOptions options = OptionsFor(whole, ring.size());
  const Positions all_keys = {{0, whole.inputs.key.shape[1], 1}};
  std::vector<int64_t> pairs;
  pairs.reserve(options.query_positions.size());
  for (const Positions& queries : options.query_positions) {
    pairs.push_back(VisiblePairs(whole.mask, whole.inputs.query.shape[0],
                                 whole.inputs.query.shape[2], queries, all_keys));
  }
  Json stats;
  stats["ring"] = ring.size();
  stats["forward"] = Tiles(whole, options, results.forward);
  if (whole.output_gradient) stats["backward"] = Tiles(whole, options, results.backward);
  stats["bytes_sent"] = bytes;
  stats["bytes_sent_largest"] = *std::max_element(bytes.begin(), bytes.end());
  stats["visible_pairs"] = pairs;
  stats["attention_work"] = LargestOverMean(std::vector<double>(pairs.begin(), pairs.end()));
  return stats.dump();
}

}  // namespace ringwise

#pragma once

#include <algorithm>
#include <type_traits>

namespace ringwise {

// Rows of the register tile of every product: beside one row of the right factor and one element of
// the left their sums fill the registers.
inline constexpr int kTileRows = 6;

// Cuts `rows` into register tiles: calls tile(std::integral_constant<int, n>(), first) for n of
// them from `first` on, in order. Eight that are left are better cut in halves than into six and
// two, so `first` is always even.
template <class Tile>
void ForEachRegisterTile(int rows, const Tile& tile) {
  for (int first = 0; first < rows;) {
    const int left = rows - first;
    const int count = left == kTileRows + 2 ? 4 : std::min(left, kTileRows);
    switch (count) {
      case 1:
        tile(std::integral_constant<int, 1>(), first);
        break;
      case 2:
        tile(std::integral_constant<int, 2>(), first);
        break;
      case 3:
        tile(std::integral_constant<int, 3>(), first);
        break;
      case 4:
        tile(std::integral_constant<int, 4>(), first);
        break;
      case 5:
        tile(std::integral_constant<int, 5>(), first);
        break;
      default:
        tile(std::integral_constant<int, kTileRows>(), first);
    }
    first += count;
  }
}

}  // namespace ringwise

#include "measure/agreed_times.h"

#include <algorithm>

namespace flexgen {

AgreedTimes agreed_times(size_t count, const std::function<double(size_t)>& measure_s, double agree, int most_rounds) {
  std::vector<std::vector<double>> all(count);  // ascending
  auto apart = [&](size_t i) { return all[i][1] / all[i][0]; };
  for (int round = 0; round < most_rounds; ++round)
    for (size_t i = 0; i < count; ++i) {
      if (round >= 2 && apart(i) <= agree) continue;
      const double time_s = measure_s(i);
      all[i].insert(std::upper_bound(all[i].begin(), all[i].end(), time_s), time_s);
    }
  AgreedTimes result;
  for (size_t i = 0; i < count; ++i) {
    const bool agreed = apart(i) <= agree;
    result.apart = std::max(result.apart, apart(i));
    result.agreed = result.agreed && agreed;
    result.times_s.push_back(agreed ? (all[i][0] + all[i][1]) / 2 : all[i][all[i].size() / 2]);
  }
  return result;
}

}  // namespace flexgen

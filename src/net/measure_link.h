#pragma once
// How fast a job's links are: messages there and back between neighbouring ranks, before a run, of the sizes and at the pace of a run. Takes a few seconds
// on slow links; every rank is told of all.

#include <vector>

#include "net/port.h"
#include "net/simulated_ports.h"

namespace flexgen {

/// Of the link from each rank to the next, and from the last to the first. Every rank must call it, in the same order as other agreements. Nothing else should
/// go over the port meanwhile.
std::vector<LinkSpeed> measure_links(Port& port);

/// What the times of three messages there and short answers back say: seconds of `kShortBytes`, `kHalfBytes` and `kWholeBytes` with the way back.
LinkSpeed link_of_times(double short_s, double half_s, double whole_s);

/// Short ones take the delay alone; of the large ones, the difference is the link's speed. Short enough for 100 Mbit/s.
inline constexpr size_t kShortBytes = 64, kHalfBytes = 256 << 10, kWholeBytes = 768 << 10;

}  // namespace flexgen

#include "net/measure_link.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/clock.h"
#include "net/message.h"

namespace flexgen {
namespace {

/// Ranks poll for messages, less often the longer none has come: a message in a run comes after so long, as a rule.
constexpr auto kPause = std::chrono::milliseconds(5);
/// The first is not taken down: TCP lets little be under way on a new link, and more the more went over it, as it soon has in a run.
constexpr size_t kAsked[] = {kWholeBytes, kShortBytes, kHalfBytes, kWholeBytes};
/// Enough for a median: of the short ones more, as long as that is quickly done.
constexpr size_t kMostMessages = 7, kFewestMessages = 3;
constexpr double kLongest_s = 0.4;
/// A difference that noise made smaller is that of a link far faster than what it carries.
constexpr double kShortest_s = 5e-6;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// This side sends and takes the time.
double ask(Port& port, int peer, size_t bytes) {
  const std::vector<std::byte> message(bytes);
  std::vector<std::byte> answer(1);
  std::vector<double> times;
  double sum_s = 0;
  // The first is not counted: it finds a link that has slept.
  for (bool counted = false;; counted = true) {
    std::this_thread::sleep_for(kPause);
    const auto begin = std::chrono::steady_clock::now();
    const Event arrived = port.receive(peer, Channel::kControl, std::span(answer));
    const Event sent = port.send(peer, Channel::kHidden, message);
    arrived.wait();
    sent.wait();
    const double time_s = seconds_since(begin);
    if (counted) times.push_back(time_s), sum_s += time_s;
    const bool enough = times.size() == kMostMessages || (times.size() >= kFewestMessages && (bytes > kShortBytes || sum_s > kLongest_s));
    const std::vector<std::byte> more(1, std::byte{!enough});
    port.send(peer, Channel::kPlan, more).wait();
    if (enough) return median(times);
  }
}

/// The other side.
void answer(Port& port, int peer, size_t bytes) {
  std::vector<std::byte> message(bytes), more(1);
  do {
    port.receive(peer, Channel::kHidden, std::span(message)).wait();
    port.send(peer, Channel::kControl, std::span(message).first(1)).wait();
    port.receive(peer, Channel::kPlan, std::span(more)).wait();
  } while (more[0] != std::byte{0});
}

}  // namespace

LinkSpeed link_of_times(double short_s, double half_s, double whole_s) {
  LinkSpeed link;
  link.delay_s = std::max(0.0, short_s / 2);
  link.bytes_per_s = static_cast<double>(kWholeBytes - kHalfBytes) / std::max(whole_s - half_s, kShortest_s);
  link.large_delay_s = std::max(0.0, half_s - short_s - static_cast<double>(kHalfBytes) / link.bytes_per_s);
  return link;
}

std::vector<LinkSpeed> measure_links(Port& port) {
  const int rank = port.rank(), size = port.size();
  LinkSpeed own;
  auto lead = [&] {
    std::vector<double> times_s;
    for (size_t bytes : kAsked) times_s.push_back(ask(port, (rank + 1) % size, bytes));
    own = link_of_times(times_s[1], times_s[2], times_s[3]);
  };
  auto follow = [&] {
    for (size_t bytes : kAsked) answer(port, (rank + size - 1) % size, bytes);
  };
  // One link after the other, as a rank has its own measured only once that of the rank before is done.
  if (size > 1) {
    if (rank > 0) follow();
    lead();
    if (rank == 0) follow();
  }
  MessageWriter message;
  message.add(own.bytes_per_s).add(own.delay_s).add(own.large_delay_s);
  std::vector<LinkSpeed> links;
  for (const std::string& text : all_gather(port, message.text())) {
    MessageReader in(text);
    LinkSpeed& link = links.emplace_back();
    link.bytes_per_s = in.value<double>();
    link.delay_s = in.value<double>();
    link.large_delay_s = in.value<double>();
  }
  return links;
}

}  // namespace flexgen

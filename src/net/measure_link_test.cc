#include "net/measure_link.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "net/local_ports.h"

namespace flexgen::measure_link_test {
namespace {

/// A port whose messages leave only once a link of this speed has carried them.
class SlowPort : public Port {
 public:
  SlowPort(Port& port, const LinkSpeed& link) : port_(port), link_(link) {}
  int rank() const override { return port_.rank(); }
  int size() const override { return port_.size(); }
  std::string describe(int rank) const override { return port_.describe(rank); }
  Event send(int peer, Channel channel, std::span<const std::byte> bytes, double) override {
    const auto size = static_cast<double>(bytes.size());
    std::this_thread::sleep_for(std::chrono::duration<double>(size / link_.bytes_per_s + link_.delay_of(size)));
    return port_.send(peer, channel, bytes);
  }
  Event receive(int peer, Channel channel, Inbox inbox, double) override { return port_.receive(peer, channel, inbox); }
  Event draw(int64_t* ticket) override { return port_.draw(ticket); }
  void abort(const std::string& reason) override { port_.abort(reason); }

 private:
  Port& port_;
  LinkSpeed link_;
};

std::vector<LinkSpeed> measure(const std::vector<LinkSpeed>& links) {
  const auto size = static_cast<int>(links.size());
  LocalPorts ports(size);
  std::vector<std::vector<LinkSpeed>> seen(links.size());
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      SlowPort port(ports.port(rank), links[static_cast<size_t>(rank)]);
      seen[static_cast<size_t>(rank)] = measure_links(port);
    });
  for (std::thread& thread : threads) thread.join();
  for (const auto& all : seen) {
    EXPECT_EQ(all.size(), links.size());
    for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i].bytes_per_s, seen[0][i].bytes_per_s);
  }
  return seen[0];
}

TEST(MeasureLink, SpeedAndDelayOfEachLink) {
  // Both directions of a pair are as slow: ranks 0 and 1.
  const LinkSpeed slow{20e6, 4e-3, 65536, 0};
  for (const LinkSpeed& link : measure({slow, slow})) {
    EXPECT_GT(link.bytes_per_s, 12e6);
    EXPECT_LT(link.bytes_per_s, 30e6);
    EXPECT_GT(link.delay_s, 3.9e-3);
    EXPECT_LT(link.delay_s, 8e-3);
  }
}

TEST(MeasureLink, ThreeRanks) {
  for (const LinkSpeed& link : measure({{1e9, 1e-3}, {1e9, 1e-3}, {1e9, 1e-3}})) EXPECT_GT(link.bytes_per_s, 1e7);
}

TEST(MeasureLink, OfTimes) {
  const LinkSpeed known{12.5e6, 10e-3, 65536, 20e-3};
  auto there_and_back = [&](size_t bytes) {
    return static_cast<double>(bytes) / known.bytes_per_s + known.delay_of(static_cast<double>(bytes)) + known.delay_s;
  };
  const LinkSpeed seen = link_of_times(20e-3, there_and_back(kHalfBytes), there_and_back(kWholeBytes));
  EXPECT_NEAR(seen.bytes_per_s, known.bytes_per_s, 1);
  EXPECT_NEAR(seen.delay_s, known.delay_s, 1e-9);
  EXPECT_NEAR(seen.large_delay_s, known.large_delay_s, 1e-6);
  // Noise: a whole that came sooner than a half.
  EXPECT_GT(link_of_times(50e-6, 400e-6, 380e-6).bytes_per_s, 1e9);
  EXPECT_GE(link_of_times(50e-6, 40e-6, 380e-6).large_delay_s, 0);
}

}  // namespace
}  // namespace flexgen::measure_link_test

#include "net/local_ports.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace flexgen::local_ports_test {
namespace {

TEST(LocalPorts, KeepOrderPerChannelAndFailTogether) {
  LocalPorts ports(2);
  std::vector<std::byte> first, second;
  Event early = ports.port(1).receive(0, Channel::kPlan, &first);
  const std::vector<std::byte> a{std::byte{1}}, b{std::byte{2}, std::byte{3}};
  ports.port(0).send(1, Channel::kHidden, b).wait();
  ports.port(0).send(1, Channel::kPlan, a).wait();
  ports.port(0).send(1, Channel::kPlan, b).wait();
  early.wait();
  ports.port(1).receive(0, Channel::kPlan, &second).wait();
  EXPECT_EQ(first, a);
  EXPECT_EQ(second, b);
  std::vector<std::byte> exact(1);
  EXPECT_THROW(ports.port(1).receive(0, Channel::kHidden, std::span(exact)).wait(), Error);  // 2 bytes came
  int64_t ticket = -1;
  for (int64_t expected : {0, 1, 2}) {
    ports.port(static_cast<int>(expected % 2)).draw(&ticket).wait();
    EXPECT_EQ(ticket, expected);
  }
  Event pending = ports.port(0).receive(1, Channel::kResult, &first);
  ports.port(1).abort("rank 1 is gone");
  for (const Event& event : {pending, ports.port(0).receive(1, Channel::kResult, &first), ports.port(0).send(1, Channel::kPlan, a)}) {
    try {
      event.wait();
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kPeer);
      EXPECT_STREQ(error.what(), "rank 1 is gone");
    }
  }
}

}  // namespace
}  // namespace flexgen::local_ports_test

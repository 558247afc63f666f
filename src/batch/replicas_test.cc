#include "batch/replicas.h"

#include <gtest/gtest.h>

#include <chrono>
#include <future>

#include "io/test_folder.h"
#include "net/local_ports.h"

namespace flexgen::replicas_test {
namespace {

/// The port's thread is the one that shows that a rank lives.
TEST(RecordCollector, ADiskThatStallsDoesNotHoldUpThePort) {
  LocalPorts ports(2);
  std::mutex lock;
  std::promise<void> disk;
  const std::shared_future<void> goes_on = disk.get_future().share();
  std::string written;
  const auto append = [&](RecordText& record) {
    goes_on.wait();
    char text[64];
    written.append(text, record.read(text, sizeof(text)));
  };
  RecordCollector collector(ports.port(0), {1}, lock, append, process_folder());
  // These ports hand a message over in the thread that sends it.
  std::future<void> sent = std::async(std::launch::async, [&] {
    RecordSender sender(ports.port(1));
    for (const char* text : {"first\n", "second\n"}) {
      WholeRecord record(text);
      sender.send(record);
    }
    sender.finish();
  });
  EXPECT_EQ(sent.wait_for(std::chrono::seconds(10)), std::future_status::ready);
  disk.set_value();
  collector.wait();
  EXPECT_EQ(collector.collected(), 2);
  EXPECT_EQ(written, "first\nsecond\n");
}

}  // namespace
}  // namespace flexgen::replicas_test
